import pytest
import torch

from alignonce.experiments.config.schedules import rate_factor


def test_cosine_falls_as_pytorchs_schedule_does():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert rate_factor("cosine", step, 20) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_warm_up_rises_in_equal_parts_to_the_full_rate():
    assert [rate_factor("cosine", step, 100, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [rate_factor("constant", step, 100, 4) for step in (0, 3, 4, 99)] == [0.25, 1.0, 1.0, 1.0]


def test_rate_never_reaches_zero():
    factors = [rate_factor("cosine", step, 30, 3) for step in range(30)]
    assert min(factors) > 0
    assert factors[3:] == sorted(factors[3:], reverse=True)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("linear", 0, 10), "schedule must be 'constant' or 'cosine', got 'linear'"),
        (("cosine", 10, 10), r"step must be in \[0, 10\)"),
        (("cosine", -1, 10), r"step must be in \[0, 10\)"),
        (("cosine", 0, 10, 10), r"warmup_steps must be in \[0, 10\)"),
    ],
)
def test_steps_outside_the_run_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        rate_factor(*bad)

"""Samples of errors: what they are, and what taking them leaves alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from alignonce import (
    Dense,
    LowRank,
    RandomFeedback,
    SoftAlignment,
    audit_weight_transport,
    feedback_weights,
    set_learning_rule,
)
from alignonce.conversion.error_samples import sample_errors

SAME = SoftAlignment(1.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classifier(activation: Callable[[], nn.Module] = nn.ReLU, width: int = 128) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(32, width), activation(), nn.Linear(width, width), activation()]
        return nn.Sequential(*layers, nn.Linear(width, 5))


def sampled(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    layers = {name: layer for name, layer in model.named_modules() if list(layer.parameters(recurse=False))}
    return {name: torch.cat(sample) for name, sample in sample_errors(model, layers, (x,), {}).items()}


def test_errors_come_from_the_classes_through_the_layers_above() -> None:
    model = classifier(nn.Identity)
    errors = sampled(model, random(64, 32))["2"].double()
    head = model[4].weight.detach().double()  # (5, width): all errors are combinations of its rows
    seen, _ = torch.linalg.qr(head.t())
    torch.testing.assert_close(errors @ seen @ seen.t(), errors, atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank(errors, rtol=1e-5) == 5


@pytest.mark.parametrize("inplace", [False, True])
def test_errors_are_those_before_the_activation(inplace: bool) -> None:
    model = classifier(lambda: nn.ReLU(inplace))
    x = random(64, 32)
    active = (model[0](x) > 0).detach()
    errors = sampled(model, x)["0"] != 0
    # In another order, each error has the zeros of one of the inputs.
    assert {tuple(row.tolist()) for row in errors} == {tuple(row.tolist()) for row in active}


def test_errors_of_a_convolution_are_its_positions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 4))
    errors = sampled(model, random(10, 3, 6, 6))
    assert errors["0"].shape == (10 * 4 * 4, 8)
    assert errors["2"].shape == (10, 4)


def test_no_more_than_4096_errors_are_kept() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Conv1d(3, 2, 1))
    assert len(sampled(model, random(50, 2, 100))["0"]) == 4096


def test_a_layer_that_is_called_often_gives_errors_of_all_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            return self.layer(self.layer(x)) * torch.tensor([1.0, 0.0, 0.0])

    model = Twice()
    errors = sampled(model, random(3000, 3))
    assert set(errors) == {"layer"}
    # At its second call errors have one element only.
    second = int((errors["layer"][:, 1:] == 0).all(1).sum())
    assert len(errors["layer"]) == 4096
    assert 1900 < second < 2200


def test_layers_whose_errors_are_not_rows_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ConvTranspose2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    assert set(sampled(model, random(2, 4, 3, 3))) == {"2"}


def test_sampling_leaves_the_model_and_the_random_state_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    sampled(model, random(16, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_inputs_that_lead_to_no_numbers_are_refused() -> None:
    x = random(16, 32)
    x[3] = torch.nan
    model = classifier(nn.Tanh)
    with pytest.raises(ValueError, match="inputs: the errors that arrive at"):
        set_learning_rule(model, SAME, format=LowRank(1 / 8), inputs=x)
    assert not list(feedback_weights(model))


def _apart(errors: Tensor, weight: Tensor, feedback: Tensor) -> float:
    """Share of the error's energy that B does otherwise than W."""
    weight = weight.detach()
    return float((errors @ (weight - feedback)).norm() / (errors @ weight).norm())


def test_a_fitted_low_rank_carries_errors_as_well_as_the_best_of_its_rank() -> None:
    """The best by algebra: the square root of C, times W, truncated, and back."""
    matrix, directions = random(96, 80).double(), random(96, 96, seed=1).double()
    strengths = torch.logspace(0, -3, 96).double()
    errors = random(2000, 96, seed=2).double() * strengths @ torch.linalg.qr(directions)[0].t()
    format = LowRank(rank=16)
    left, right = format.compress_for(errors, matrix)
    covariance = errors.t() @ errors / errors.square().mean() / len(errors) + 0.1 * torch.eye(96).double()
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.sqrt() @ vectors.t()
    u, s, v = torch.linalg.svd(root @ matrix, full_matrices=False)
    best = torch.linalg.solve(root, (u[:, :16] * s[:16]) @ v[:16])
    loss, least = ((root @ (matrix - b)).norm() for b in (left @ right, best))
    # B has W's strength, which the least squares have not.
    scaled = left @ right * float((errors @ best).norm() / (errors @ matrix).norm())
    assert float((root @ (matrix - scaled)).norm()) <= 1.05 * float(least)
    assert float(loss) < 1.1 * float(least)
    assert float((errors @ left @ right).norm()) == pytest.approx(float((errors @ matrix).norm()), rel=1e-5)


def test_inputs_make_low_rank_carry_errors_better() -> None:
    x = random(512, 32)
    apart = {}
    for inputs in (None, x):
        model = classifier(width=256)
        summary = set_learning_rule(model, SAME, format=LowRank(1 / 8), inputs=inputs)
        errors = sampled(model, random(128, 32, seed=9))
        apart[inputs is not None] = [
            _apart(errors[n], w, b) for n, w, b in feedback_weights(model) if n in ("0", "2")
        ]
        assert ("fitted (cosine of errors" in str(summary)) == (inputs is not None)
    assert all(fitted < 0.8 * plain for fitted, plain in zip(apart[True], apart[False], strict=True))


def test_the_cosine_of_errors_in_the_summary_is_of_errors_that_were_not_fitted() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)  # its errors go everywhere, so that a rank of 1/4 can do little about new ones
    summary = set_learning_rule(model, SAME, format=LowRank(rank=16), inputs=random(17, 64))
    cosine = float(summary.rows[0].format.split("errors: ")[1].rstrip(")"))
    assert cosine < 0.8


def test_fitting_is_the_same_each_time() -> None:
    first, again = classifier(), classifier()
    for model in (first, again):
        set_learning_rule(model, SAME, format=LowRank(1 / 8), inputs=random(64, 32))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_fitting_follows_the_exact_errors_of_a_model_that_has_a_rule_already() -> None:
    plain, ruled = classifier(), classifier()
    set_learning_rule(ruled, RandomFeedback())
    for model in (plain, ruled):
        set_learning_rule(model, SAME, format=LowRank(1 / 8), inputs=random(64, 32))
    for (_, _, b), (_, _, other) in zip(feedback_weights(plain), feedback_weights(ruled), strict=True):
        torch.testing.assert_close(b, other)


def test_a_fitted_model_transports_no_weights() -> None:
    model = classifier()
    set_learning_rule(model, SAME, format=LowRank(1 / 8), inputs=random(64, 32))
    y = torch.arange(16) % 5
    report = audit_weight_transport(
        model, random(16, 32), lambda logits: nn.functional.cross_entropy(logits, y)
    )
    assert report.free_of_transport


def test_other_formats_run_the_model_only_to_see_which_layers_it_calls() -> None:
    calls = []
    model = classifier()
    model.register_forward_hook(lambda *_: calls.append(1))
    set_learning_rule(model, SAME, format=Dense(torch.bfloat16), inputs=random(64, 32))
    assert calls == [1]

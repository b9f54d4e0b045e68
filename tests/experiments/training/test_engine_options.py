import pytest
import torch

from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.loop import train
from helpers.small_runs import made_data, small_config, without_time


@pytest.mark.parametrize("accumulate", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 32])
def test_parts_of_a_batch_are_all_of_it_in_order(accumulate, size):
    engine = Engine(small_config(accumulate=accumulate))
    examples = torch.arange(100, 100 + size)
    parts = list(engine.micro_batches(examples))
    assert torch.equal(torch.cat([part.examples for part in parts]), examples)
    assert [part.weight for part in parts] == pytest.approx([len(p.examples) / size for p in parts])
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) == min(accumulate, size)


@pytest.mark.parametrize("accumulate", [2, 5])
def test_batch_in_parts_gives_the_same_updates(accumulate):
    data = made_data()
    whole = train(small_config(rule="fa", clip=0.5), data)
    parts = train(small_config(rule="fa", clip=0.5, accumulate=accumulate), data)
    for ours, theirs in zip(without_time(parts.metrics), without_time(whole.metrics), strict=True):
        assert ours[:4] == theirs[:4]
        assert ours.value == pytest.approx(theirs.value, rel=1e-4, abs=1e-5)


def test_gradient_is_shortened_to_the_norm_asked_for():
    # One step of plain gradient descent moves the weights by rate times the gradient's norm.
    data, limit, rate = made_data(32), 0.01, 0.5
    config = small_config(rule="fa", optimizer="sgd", momentum=0, learning_rate=rate, epochs=1)
    moves = {}
    for clip in (None, limit, 1e9):
        steps = config.model_copy(update={"clip": clip, "checkpoints": 2})
        weights = []

        def keep(step, model, weights=weights):
            weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))

        train(steps, data, on_checkpoint=keep)
        moves[clip] = float((weights[1] - weights[0]).norm())
    assert moves[limit] == pytest.approx(rate * limit, rel=1e-3)
    assert moves[None] == moves[1e9] > moves[limit]


def test_mixed_precision_learns_nearly_the_same_and_keeps_float32_weights():
    data = made_data()
    full = train(small_config(rule="soft:0.5", epochs=4), data)
    mixed = train(small_config(rule="soft:0.5", epochs=4, precision="bf16-mixed"), data)
    ours, theirs = (r.metrics.series("step_loss")[1] for r in (mixed, full))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.1, abs=0.1)
    assert {p.dtype for p in mixed.model.parameters()} == {torch.float32}


def test_compiled_and_sharded_do_not_go_together():
    with pytest.raises(ValueError, match="compile is not available with strategy fsdp"):
        Engine(small_config(compile=True, strategy="fsdp", devices=2))

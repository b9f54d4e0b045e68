"""format="auto": the choice from times that are given, and what is measured of a model."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    Dense,
    FeedbackFormat,
    Int8,
    KolenPollack,
    LowRank,
    SoftAlignment,
    feedback_weights,
    set_learning_rule,
)
from alignonce.conversion.auto_format import Choice, Probe, choose_formats
from alignonce.layers import FeedbackLayer

SAME = SoftAlignment(1.0)
RANK = LowRank(1 / 8, dtype=torch.bfloat16)


class Times(dict[FeedbackFormat, float]):
    """Times that stand for those of a device; every format that is not given takes as long as dense."""

    def __init__(self, given: Mapping[FeedbackFormat, float] = MappingProxyType({})) -> None:
        super().__init__(given)
        self.asked = 0

    def __call__(self, probes: Mapping[FeedbackFormat, Probe]) -> dict[FeedbackFormat, float]:
        self.asked += 1
        return {format: self.get(format, 1.0) for format in probes}


def choices(
    net: nn.Module, x: Tensor, times: Times, known: dict[Any, Choice] | None = None
) -> dict[str, Choice]:
    """The choices for a network that has feedback weights."""
    set_learning_rule(net, SAME)
    layers = {name: module for name, module in net.named_modules() if isinstance(module, FeedbackLayer)}
    return choose_formats(net, layers, (x,), {}, times, {} if known is None else known)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))


X = torch.zeros(8, 64)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({}, Dense()),  # nothing is faster than dense
        ({RANK: 0.95}, Dense()),  # what saves less than a tenth is not worth its misalignment
        ({RANK: 0.2}, LowRank(rank=16, dtype=torch.bfloat16)),  # the only one that is faster
        ({RANK: 0.2, Int8(): 0.25}, Int8()),  # about as fast, and more aligned
        ({RANK: 0.2, Int8(): 0.5}, LowRank(rank=16, dtype=torch.bfloat16)),
        ({RANK: 0.1, Int8(): 0.5, Dense(torch.bfloat16): 0.2}, Dense(torch.bfloat16)),
    ],
    ids=str,
)
def test_the_most_aligned_of_the_fastest_is_taken(
    measured: dict[FeedbackFormat, float], expected: FeedbackFormat
) -> None:
    chosen, share = choices(model(), X, Times(measured))["2"]
    assert chosen.for_shape((128, 128)) == expected
    assert share == measured.get(chosen, 1.0)


def test_the_choice_is_said_and_repeated_by_the_summarys_formats() -> None:
    first, second = model(), model()
    summary = set_learning_rule(first, SAME, format="auto", inputs=X)
    assert all(re.search(r"\(auto: \d\.\d\d of dense's time\)", row.format) for row in summary.rows)
    again = set_learning_rule(second, SAME, format=summary.formats)
    assert again.formats == summary.formats
    second.load_state_dict(first.state_dict())
    for (_, _, a), (_, _, b) in zip(feedback_weights(first), feedback_weights(second), strict=True):
        assert torch.equal(a, b)


def test_equal_layers_are_measured_once() -> None:
    times, known = Times(), {}
    net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(3)], nn.Linear(64, 4))
    choices(net, X, times, known)
    assert times.asked == 2
    choices(net, X, times, known)
    assert times.asked == 2
    choices(net, torch.zeros(16, 64), times, known)  # another batch, other times
    assert times.asked == 4


def test_attentions_output_projection_goes_with_it() -> None:
    net = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net.self_attn.register_forward_hook(lambda *_: None)
    chosen = choices(net, torch.zeros(2, 3, 16), Times({Int8(): 0.3}))
    assert set(chosen) == {"self_attn", "self_attn.out_proj", "linear1", "linear2"}
    assert {choice.format for choice in chosen.values()} == {Int8()}


def test_measuring_leaves_the_model_as_it_was() -> None:
    """With the device's own times: which format is taken depends on it, that all are tried does not."""
    net = nn.Sequential(nn.Conv2d(2, 16, 3), nn.BatchNorm2d(16), nn.Dropout(), nn.Flatten(), nn.Linear(64, 3))
    calls = []
    net[4].register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    summary = set_learning_rule(
        net, SAME, format="auto", inputs=torch.randn(2, 2, 4, 4, generator=torch.Generator())
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert 1 <= len(calls) <= 2  # a low rank is fitted by a second run
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all("of dense's time" in row.format for row in summary.rows)


def test_a_mapping_gives_each_weight_the_first_format_that_fits() -> None:
    net = model()
    rows = set_learning_rule(net, SAME, format={"2": Int8(), "[02]": LowRank(rank=2)}).rows
    assert [row.stored_as for row in rows] == [LowRank(rank=2), Int8(), Dense()]


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(ValueError, match="format='auto' needs inputs="):
        set_learning_rule(model(), SAME, format="auto")
    with pytest.raises(ValueError, match="'hidden' matches no forward weight"):
        set_learning_rule(model(), SAME, format={"hidden": Int8()})
    with pytest.raises(TypeError, match="or 'auto', got 'int8'"):
        set_learning_rule(model(), SAME, format={"0": "int8"})  # type: ignore[dict-item]
    for rule in (KolenPollack(), Backpropagation()):
        with pytest.raises(ValueError, match="format="):
            set_learning_rule(model(), rule, format="auto", inputs=X)

"""format="auto": the choice from times that are given, and what is measured of a model."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

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
from alignonce.conversion import auto_format
from alignonce.conversion.auto_format import CANDIDATES, Probe

SAME = SoftAlignment(1.0)
RANK = LowRank(1 / 8, dtype=torch.bfloat16)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[FeedbackFormat, float]:
    """Times that stand for those of a device; every other format takes as long as dense."""
    times: dict[FeedbackFormat, float] = {}

    def seconds_of(probes: Mapping[FeedbackFormat, Probe]) -> dict[FeedbackFormat, float]:
        return {format: times.get(format, 1.0) for format in probes}

    monkeypatch.setattr(auto_format, "seconds_of", seconds_of)
    monkeypatch.setattr(auto_format, "_chosen", {})
    return times


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
    times: dict[FeedbackFormat, float], measured: dict[FeedbackFormat, float], expected: FeedbackFormat
) -> None:
    times.update(measured)
    rows = set_learning_rule(model(), SAME, format="auto", inputs=X).rows
    assert rows[1].stored_as == expected
    chosen = min(
        (f for f in CANDIDATES if f.for_shape((128, 128)) == expected), key=lambda f: times.get(f, 1.0)
    )
    assert f"(auto: {times.get(chosen, 1.0):.2f} of dense's time)" in rows[1].format


def test_the_choice_is_repeated_by_the_summarys_formats(times: dict[FeedbackFormat, float]) -> None:
    times[Int8()] = 0.3
    first, second = model(), model()
    summary = set_learning_rule(first, SAME, format="auto", inputs=X)
    assert summary.formats == {"0": Int8(), "2": Int8(), "4": Int8()}
    times.clear()
    again = set_learning_rule(second, SAME, format=summary.formats)
    assert again.formats == summary.formats
    second.load_state_dict(first.state_dict())
    for (_, _, a), (_, _, b) in zip(feedback_weights(first), feedback_weights(second), strict=True):
        assert torch.equal(a, b)


def test_equal_layers_are_measured_once(
    times: dict[FeedbackFormat, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    answer = auto_format.seconds_of
    monkeypatch.setattr(auto_format, "seconds_of", lambda probes: asked.append(1) or answer(probes))
    net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(3)], nn.Linear(64, 4))
    set_learning_rule(net, SAME, format="auto", inputs=X)
    assert len(asked) == 2
    set_learning_rule(net, SAME, format="auto", inputs=X)
    assert len(asked) == 2
    set_learning_rule(net, SAME, format="auto", inputs=torch.zeros(16, 64))  # another batch, other times
    assert len(asked) == 4


def test_attentions_output_projection_goes_with_it(times: dict[FeedbackFormat, float]) -> None:
    times[Int8()] = 0.3
    net = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net.self_attn.register_forward_hook(lambda *_: None)
    x = torch.zeros(2, 3, 16)
    rows = set_learning_rule(net, SAME, format="auto", inputs=x).rows
    assert {row.name for row in rows} == {
        "self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2",
    }  # fmt: skip
    assert all(row.stored_as == Int8() for row in rows)


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

"""How feedback weights begin."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    LearningRule,
    PeriodicAlignment,
    RandomFeedback,
    SignSymmetry,
    SoftAlignment,
    WeightMirror,
    alignment,
    set_learning_rule,
)


def cosine(a: Tensor, b: Tensor) -> float:
    x, y = a.detach().double().numpy().ravel(), b.double().numpy().ravel()
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(9, 7), nn.Conv2d(3, 4, 3), nn.ConvTranspose1d(2, 3, 2), nn.Linear(2, 1))


@given(c=st.floats(-1, 1), seed=st.integers(0, 2**31), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_soft_alignment_has_the_cosine_and_norm_asked_for_in_every_layer(
    c: float, seed: int, scale: float
) -> None:
    model = layers()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    set_learning_rule(model, SoftAlignment(cosine=c, seed=seed))
    for layer in model:
        assert cosine(layer.weight, layer.feedback) == pytest.approx(c, abs=1e-6)
        assert float(layer.feedback.double().norm() / layer.weight.detach().double().norm()) == pytest.approx(
            1, abs=1e-6
        )


def test_soft_alignment_of_one_is_a_copy_and_of_minus_one_its_negative() -> None:
    model = layers()
    set_learning_rule(model, SoftAlignment(1.0))
    assert all(torch.equal(m.feedback, m.weight) for m in model)
    assert all(m.feedback.data_ptr() != m.weight.data_ptr() for m in model)
    set_learning_rule(model, SoftAlignment(-1.0))
    assert all(torch.equal(m.feedback, -m.weight) for m in model)


def test_random_feedback_is_independent_of_the_weight_and_has_its_norm() -> None:
    weight = torch.randn(200, 300)
    feedback = RandomFeedback(seed=1).feedback_for(weight, "w", 0)
    assert abs(cosine(weight, feedback)) < 5 / math.sqrt(weight.numel())
    assert feedback.norm().item() == pytest.approx(weight.norm().item(), rel=1e-6)
    assert torch.equal(feedback, RandomFeedback(seed=1).feedback_for(weight.clone(), "w", 5))
    doubled = RandomFeedback(seed=1).feedback_for(2 * torch.randn(200, 300), "w", 0)
    assert cosine(doubled, feedback) == pytest.approx(1)


@pytest.mark.parametrize("rule", [RandomFeedback, SoftAlignment])
def test_feedback_depends_on_seed_and_name_and_not_on_the_global_random_state(
    rule: type[RandomFeedback] | type[SoftAlignment],
) -> None:
    weight = torch.randn(20, 30)
    torch.manual_seed(1)
    first = rule(seed=5).feedback_for(weight, "a", 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(rule(seed=5).feedback_for(weight, "a", 0), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(rule(seed=6).feedback_for(weight, "a", 0), first)
    assert not torch.equal(rule(seed=5).feedback_for(weight, "b", 0), first)


def test_feedback_of_a_seed_is_the_same_in_later_versions() -> None:
    """Runs saved by their seed must stay reproducible; float64 so that no rounding is in the way."""
    weight = torch.arange(1, 7, dtype=torch.float64).reshape(2, 3)
    feedback = SoftAlignment(0.5, seed=0).feedback_for(weight, "0", 0)
    expected = [[0.5559570937, -0.5701212602, -3.9853966302], [-1.0454572411, 2.6805472623, 8.1365946618]]
    torch.testing.assert_close(feedback, torch.tensor(expected, dtype=torch.float64))


def test_cosine_by_mapping_takes_the_first_name_or_glob_that_fits() -> None:
    model = layers()
    set_learning_rule(model, SoftAlignment({"0": 0.25, "[12]": 0.5, "*": -0.75}))
    assert list(alignment(model).values()) == pytest.approx([0.25, 0.5, 0.5, -0.75], abs=1e-6)
    with pytest.raises(ValueError, match="no value for '1': add a key for it, or '\\*'"):
        set_learning_rule(model, SoftAlignment({"0": 0.25}))


def test_cosine_by_function_gets_name_and_depth_counted_over_the_whole_model() -> None:
    model = layers()
    seen: list[tuple[str, int]] = []

    def growing(name: str, depth: int) -> float:
        seen.append((name, depth))
        return depth / 4

    set_learning_rule(model, SoftAlignment(growing), where=["1", "3"])
    assert seen == [("1", 1), ("3", 3)]
    assert list(alignment(model).values()) == pytest.approx([0.25, 0.75], abs=1e-6)
    with pytest.raises(ValueError, match=r"cosine\('0', 0\) must be in \[-1, 1\], got 2"):
        set_learning_rule(model, SoftAlignment(lambda name, depth: 2))


@pytest.mark.parametrize("value", [1.5, -1.0000001, math.nan, math.inf])
def test_cosine_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"cosine must be in \[-1, 1\], got"):
        SoftAlignment(cosine=value)
    with pytest.raises(ValueError, match=r"cosine\['a'\] must be in \[-1, 1\]"):
        SoftAlignment(cosine={"a": value})


def test_cosine_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cosine must be a number in \[-1, 1\], got '0\.5'"):
        SoftAlignment(cosine="0.5")  # type: ignore[arg-type]
    assert SoftAlignment(cosine=np.float32(0.5)).cosine == 0.5


def test_weight_of_one_element_has_only_the_cosines_one_and_minus_one() -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    set_learning_rule(model, SoftAlignment(-1.0))
    set_learning_rule(model, RandomFeedback())
    with pytest.raises(ValueError, match=r"0 \(Linear\): its weight has one element"):
        set_learning_rule(model, SoftAlignment(0.5))


def test_rules_compare_print_and_pickle_by_value() -> None:
    assert SoftAlignment(0.5, seed=1) == SoftAlignment(0.5, seed=1) != SoftAlignment(0.5, seed=2)
    assert str(Backpropagation()) == "Backpropagation()"
    rule = SoftAlignment({"0": 0.5, "*": 1.0}, seed=4)
    assert pickle.loads(pickle.dumps(rule)) == rule


@pytest.mark.parametrize("seed", [1.5, "1", None, True])
@pytest.mark.parametrize(
    "rule", [RandomFeedback, SoftAlignment, SignSymmetry, PeriodicAlignment, WeightMirror]
)
def test_a_seed_that_is_no_integer_is_refused(rule: type[LearningRule], seed: object) -> None:
    with pytest.raises(ValueError, match=f"seed must be an integer, got {seed!r}"):
        rule(seed=seed)  # type: ignore[call-arg]


def test_a_seed_of_numpy_is_the_same_seed() -> None:
    assert repr(RandomFeedback(np.int64(3))) == repr(RandomFeedback(3))
    assert RandomFeedback(np.int64(3)) == RandomFeedback(3)

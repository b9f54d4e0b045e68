"""How feedback weights evolve: each rule against an independent reference of its published update."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    KolenPollack,
    LearningRule,
    PeriodicAlignment,
    RandomFeedback,
    SignSymmetry,
    SoftAlignment,
    WeightMirror,
    alignment,
    audit_weight_transport,
    evolve,
    feedback_weights,
    set_learning_rule,
)

EVOLVING = [PeriodicAlignment(), SignSymmetry(), KolenPollack(), WeightMirror()]


def mlp(widths: tuple[int, ...] = (6, 8, 5)) -> nn.Sequential:
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*[m for a, b in pairs for m in (nn.Linear(a, b), nn.Tanh())])


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    first = next(model.parameters())
    x = torch.randn(16, 6, generator=generator, dtype=first.dtype)
    optimizer.zero_grad()
    (model(x) - x[:, :5]).square().mean().backward()
    optimizer.step()
    evolve(model, number)


def step_of_zero(model: nn.Module) -> None:
    """A step of an optimiser that leaves every weight as it is."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    torch.optim.SGD(model.parameters(), lr=0.0).step()


def optimizers() -> list[tuple[str, object]]:
    return [
        ("sgd with momentum", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
        ("adam", lambda p: torch.optim.Adam(p, lr=1e-2)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=1e-2)),
        ("the user's own", SignDescent),
    ]


class SignDescent(torch.optim.Optimizer):
    """An optimiser that torch does not have."""

    def __init__(self, params: object) -> None:
        super().__init__(params, {})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(0.01 * p.grad.sign())


@pytest.mark.parametrize(("name", "make"), optimizers())
def test_kolen_pollack_from_a_copy_of_the_weight_is_backpropagation_exactly(name: str, make) -> None:
    model = mlp()
    plain = copy.deepcopy(model)
    set_learning_rule(model, KolenPollack(decay=0, start=SoftAlignment(1.0)))
    ours, theirs = make(model.parameters()), make(plain.parameters())
    for number in range(1, 20):
        step(model, ours, number)
        step(plain, theirs, number)
        for _, weight, feedback in feedback_weights(model):
            assert torch.equal(weight, feedback)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_kolen_pollack_gives_both_weights_the_same_update_and_the_same_decay() -> None:
    """Against plain gradient descent written out in NumPy, B with an update of its own."""
    rng = np.random.default_rng(0)
    w1, w2, b2 = rng.normal(size=(4, 3)), rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    set_learning_rule(model, KolenPollack(decay=0.1))
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(w1))
        model[1].weight.copy_(torch.from_numpy(w2))
        model[1].feedback.copy_(torch.from_numpy(b2))
    model.load_state_dict(model.state_dict())  # so that the rule sees these weights
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for number in range(1, 6):
        x = rng.normal(size=(5, 3))
        optimizer.zero_grad()
        model(torch.from_numpy(x)).square().sum().backward()
        optimizer.step()
        evolve(model, number)

        h = x @ w1.T
        error = 2 * h @ w2.T
        d1, d2 = (error @ b2).T @ x, error.T @ h
        w1 = w1 - 0.01 * d1 - 0.1 * w1
        w2, b2 = w2 - 0.01 * d2 - 0.1 * w2, b2 - 0.01 * d2 - 0.1 * b2
        np.testing.assert_allclose(model[0].weight.detach(), w1, rtol=1e-9)
        np.testing.assert_allclose(model[1].weight.detach(), w2, rtol=1e-9)
        np.testing.assert_allclose(model[1].feedback, b2, rtol=1e-9)


@pytest.mark.parametrize(("name", "make"), optimizers())
@pytest.mark.parametrize("start", [RandomFeedback(), SoftAlignment(0.5)])
def test_kolen_pollack_converges_to_the_weight_by_its_decay(name: str, make, start: LearningRule) -> None:
    model = mlp().double()
    set_learning_rule(model, KolenPollack(decay=0.02, start=start))
    optimizer = make(model.parameters())
    first = [(w - b).detach().norm() for _, w, b in feedback_weights(model)]
    for number in range(1, 101):
        step(model, optimizer, number)
    for before, (_, w, b) in zip(first, feedback_weights(model), strict=True):
        assert ((w - b).norm() / before).item() == pytest.approx(0.98**100, rel=1e-6)


def test_weight_mirror_phase_is_the_outer_product_of_noise_and_response() -> None:
    model = nn.Sequential(nn.Linear(30, 20)).double()
    rule = WeightMirror(every=2, samples=200, rate=0.25)
    set_learning_rule(model, rule)
    w, b = model[0].weight.detach().numpy().copy(), model[0].feedback.numpy().copy()
    step_of_zero(model)
    evolve(model, 1)
    np.testing.assert_array_equal(model[0].feedback, b)
    step_of_zero(model)
    evolve(model, 2)
    mirrored = (model[0].feedback.numpy() - 0.75 * b) / 0.25
    # mean(y xᵀ) = W mean(x xᵀ): a sample covariance of unit noise, which the weight is multiplied by.
    covariance, *_ = np.linalg.lstsq(w, mirrored, rcond=None)
    error = mirrored - w
    # each element has variance (‖w_row‖² + w²) / samples about w
    expected = (np.square(w).sum(1, keepdims=True) + np.square(w)) / 200
    assert np.mean(np.square(error) / expected) == pytest.approx(1, rel=0.2)
    assert covariance.shape == (30, 30)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(16, 12), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose1d(6, 4, 3), nn.Bilinear(4, 3, 5)],
)
def test_weight_mirror_turns_every_layer_kind_towards_its_weight(layer: nn.Module) -> None:
    set_learning_rule(layer, WeightMirror(every=1, rate=0.2, samples=256))
    for number in range(1, 40):
        step_of_zero(layer)
        evolve(layer, number)
    (cosine,) = alignment(layer).values()
    assert cosine > math.cos(math.radians(20))


@pytest.mark.parametrize("magnitudes", ["uniform", "fixed", "batch"])
def test_sign_symmetry_has_the_signs_of_the_weight_and_its_own_magnitudes(magnitudes: str) -> None:
    model = mlp()
    set_learning_rule(model, SignSymmetry(magnitudes))
    start = [(w.detach().clone(), b.clone()) for _, w, b in feedback_weights(model)]
    for w, b in start:
        assert b.norm().item() == pytest.approx(w.norm().item(), rel=1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for number in range(1, 5):
        step(model, optimizer, number)
    flipped = 0
    for (w0, b0), (_, w, b) in zip(start, feedback_weights(model), strict=True):
        flipped += int((torch.sign(w0) != torch.sign(w)).sum())
        assert torch.equal(torch.sign(b), torch.sign(w))
        assert b.norm().item() == pytest.approx(b0.norm().item(), rel=1e-5)
        assert torch.equal(b.abs(), b0.abs()) == (magnitudes != "batch")
        assert (b.abs().std() < 1e-6) == (magnitudes == "uniform")
    assert flipped > 0


def test_sign_symmetry_once_is_fixed_and_transports_nothing() -> None:
    model = mlp()
    set_learning_rule(model, SignSymmetry(once=True))
    before = [b.clone() for _, _, b in feedback_weights(model)]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for number in range(1, 5):
        step(model, optimizer, number)
    assert all(torch.equal(b, a) for (_, _, b), a in zip(feedback_weights(model), before, strict=True))
    assert audit_weight_transport(model, torch.randn(3, 6), Tensor.sum).free_of_transport


def test_periodic_alignment_of_every_step_and_cosine_one_is_backpropagation() -> None:
    model = mlp()
    plain = copy.deepcopy(model)
    set_learning_rule(model, PeriodicAlignment(every=1, cosine=1.0))
    ours, theirs = (torch.optim.Adam(m.parameters(), lr=1e-2) for m in (model, plain))
    for number in range(1, 20):
        step(model, ours, number)
        step(plain, theirs, number)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_periodic_alignment_realigns_every_k_steps_and_keeps_its_noise() -> None:
    model = mlp().double()
    set_learning_rule(model, PeriodicAlignment(every=3, cosine=lambda name, depth: 0.6 - 0.2 * depth))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    seen = []
    for number in range(1, 7):
        step(model, optimizer, number)
        seen.append(list(alignment(model).values()))
    for number, cosines in enumerate(seen, start=1):
        assert (cosines == pytest.approx([0.6, 0.4], abs=1e-9)) == (number % 3 == 0)
    for _, w, b in feedback_weights(model):
        assert b.norm().item() == pytest.approx(w.norm().item(), rel=1e-9)


@pytest.mark.parametrize("rule", EVOLVING, ids=str)
def test_forgetting_to_evolve_is_an_error_at_the_second_step(rule: LearningRule) -> None:
    model = mlp()
    set_learning_rule(model, rule)
    for trained in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        optimizer = torch.optim.Adam(trained.parameters())
        trained(torch.randn(2, 6)).sum().backward()
        optimizer.step()
        with pytest.raises(RuntimeError, match=r"call alignonce\.evolve\(model, step\)"):
            optimizer.step()
        evolve(trained, 1)
        optimizer.step()
    set_learning_rule(model, Backpropagation())
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 6)).sum().backward()
    for _ in range(3):
        optimizer.step()


def test_evolve_does_nothing_for_fixed_rules_and_refuses_step_zero() -> None:
    model = mlp()
    evolve(model, 1)
    set_learning_rule(model, SoftAlignment(0.5))
    before = [b.clone() for _, _, b in feedback_weights(model)]
    evolve(model, 1)
    assert all(torch.equal(b, a) for (_, _, b), a in zip(feedback_weights(model), before, strict=True))
    with pytest.raises(ValueError, match="step must be 1 after the optimiser's first step, got 0"):
        evolve(model, 0)


def test_steps_and_settings_are_integers_of_any_type() -> None:
    a, b = mlp(), mlp()
    b.load_state_dict(a.state_dict())
    set_learning_rule(a, WeightMirror(every=2, samples=8, seed=3))
    set_learning_rule(b, WeightMirror(every=np.int64(2), samples=np.int32(8), seed=np.int64(3)))
    assert a[0].learning_rule == b[0].learning_rule
    assert str(a[0].learning_rule) == str(b[0].learning_rule)
    for m in (a, b):
        step_of_zero(m)
    evolve(a, 2)
    evolve(b, np.int64(2))
    assert torch.equal(a[0].feedback, b[0].feedback)
    for wrong in (0, -1, 1.0, "1", None):
        with pytest.raises(ValueError, match="step must be 1 after the optimiser's first step, got"):
            evolve(a, wrong)


@pytest.mark.parametrize("how", ["overwrite", "swap"])
@pytest.mark.parametrize("rule", EVOLVING, ids=str)
def test_a_move_that_makes_new_parameters_or_swaps_them_keeps_the_rule_going(
    rule: LearningRule, how: str
) -> None:
    switch = {
        "overwrite": torch.__future__.set_overwrite_module_params_on_conversion,
        "swap": torch.__future__.set_swap_module_params_on_conversion,
    }[how]
    moved, usual = mlp(), mlp()
    usual.load_state_dict(moved.state_dict())
    for model in (moved, usual):
        set_learning_rule(model, rule)
    usual.double()
    switch(True)
    try:
        moved.double()
    finally:
        switch(False)
    for model in (moved, usual):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number in range(1, 12):
            step(model, optimizer, number)
    for a, b in zip(moved.state_dict().values(), usual.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rule", EVOLVING, ids=str)
def test_a_resumed_run_evolves_as_an_uninterrupted_one(rule: LearningRule) -> None:
    whole = mlp()
    set_learning_rule(whole, rule)
    optimizer = torch.optim.Adam(whole.parameters())
    for number in range(1, 21):
        if number == 11:
            saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
        step(whole, optimizer, number)
    resumed = mlp()
    set_learning_rule(resumed, rule)
    resumed.load_state_dict(saved[0])
    optimizer = torch.optim.Adam(resumed.parameters())
    optimizer.load_state_dict(saved[1])
    for number in range(11, 21):
        step(resumed, optimizer, number)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rule", EVOLVING, ids=str)
def test_tied_weights_evolve_once_and_state_dict_has_no_more_than_feedback(rule: LearningRule) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    twin = nn.Sequential(nn.Linear(6, 6))
    twin[0].load_state_dict(model[0].state_dict())
    for m in (model, twin):
        set_learning_rule(m, rule)
        with torch.no_grad():
            m[0].weight.add_(0.1)
        evolve(m, 1)
        for number in range(2, 101):
            step_of_zero(m)
            evolve(m, number)
    assert model[1].feedback is model[0].feedback
    assert torch.equal(model[0].feedback, twin[0].feedback)
    assert set(twin.state_dict()) == {"0.weight", "0.bias", "0.feedback"}
    set_learning_rule(model, Backpropagation())
    assert type(model[0]) is nn.Linear
    assert not list(model.buffers())


def test_rules_that_copy_weights_in_learning_are_not_free_of_transport() -> None:
    model = mlp()
    x = torch.randn(3, 6)
    for rule, copied in [(PeriodicAlignment(every=7), "every 7 steps"), (SignSymmetry(), "signs")]:
        set_learning_rule(model, rule)
        report = audit_weight_transport(model, x, Tensor.sum)
        assert not report.culprits
        assert not report.free_of_transport
        assert copied in str(report)
    for rule in (KolenPollack(), WeightMirror()):
        set_learning_rule(model, rule)
        assert audit_weight_transport(model, x, Tensor.sum).free_of_transport


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PeriodicAlignment(every=0), "every must be a positive integer, got 0"),
        (lambda: PeriodicAlignment(cosine=2.0), r"cosine must be in \[-1, 1\]"),
        (lambda: SignSymmetry("random"), "magnitudes must be 'uniform', 'fixed' or 'batch'"),
        (lambda: SignSymmetry("batch", once=True), "drawn at each step"),
        (lambda: KolenPollack(decay=1.0), r"decay must be in \[0, 1\)"),
        (lambda: KolenPollack(start=Backpropagation()), "start must be RandomFeedback or SoftAlignment"),
        (lambda: WeightMirror(samples=1.5), "samples must be a positive integer"),
        (lambda: WeightMirror(rate=0.0), r"rate must be in \(0, 1\]"),
    ],
)
def test_bad_settings_get_one_clear_error(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()

"""Rules that change B, and what the optimiser did."""

import torch
from torch import Tensor, nn

from alignonce import evolve, evolve_after, feedback_weights, set_learning_rule
from situations.situation import ALL_FORMATS, Case, crossed, refused, right

TOPIC = "Rules that change B"

EVOLVING = (
    "KolenPollack",
    "SignSymmetry uniform",
    "SignSymmetry fixed",
    "SignSymmetry batch",
    "PeriodicAlignment",
    "WeightMirror",
)
CASES = crossed(rules=EVOLVING)


def _backward(model: nn.Module, x: Tensor) -> None:
    model.zero_grad()
    model(x).sin().sum().backward()


def _state(model: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def _learnt(case: Case, steps: int = 4) -> nn.Module:
    """A model that has learnt with ``evolve`` after each step: what all others are held against."""
    model, x = case.model(), case.inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for number in range(1, steps + 1):
        _backward(model, x)
        optimizer.step()
        evolve(model, number)
    return model


@right("you call `evolve_after(optimizer, model)` once", CASES, "as with `evolve` after each step")
def once(case: Case) -> None:
    model, x = case.model(), case.inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    evolve_after(optimizer, model)
    for _ in range(4):
        _backward(model, x)
        optimizer.step()
    torch.testing.assert_close(_state(model), _state(_learnt(case)), rtol=0, atol=0)


@right(
    "you call `evolve` twice after a step, or beside `evolve_after`", CASES, "the second call does nothing"
)
def twice(case: Case) -> None:
    for also in (True, False):
        model, x = case.model(), case.inputs()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        if also:
            evolve_after(optimizer, model)
        for number in range(1, 5):
            _backward(model, x)
            optimizer.step()
            evolve(model, number)
            evolve(model, number)
        torch.testing.assert_close(_state(model), _state(_learnt(case)), rtol=0, atol=0)


@refused(
    "you forget `evolve`",
    CASES,
    message=r"call alignonce.evolve\(model, step\) after each optimizer.step\(\), or once",
    error=RuntimeError,
    remedy="`evolve_after(optimizer, model)`, once",
    since="0.1.0",
)
def forgotten(case: Case) -> None:
    model, x = case.model(), case.inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        _backward(model, x)
        optimizer.step()


@right(
    "weights are frozen, get no gradient, or belong to no optimiser, and others learn",
    CASES,
    "neither they nor their B change",
)
def not_stepped(case: Case) -> None:
    for way in ("frozen", "no gradient", "nobody's"):
        model, x = case.model(), case.inputs()
        *still, last = [p for p in model.parameters() if p.dim() > 1]
        if way == "frozen":
            for p in still:
                p.requires_grad_(False)
        optimizer = torch.optim.AdamW([last] if way == "nobody's" else model.parameters(), lr=0.01)
        evolve_after(optimizer, model)
        before = [(w.detach().clone(), b.clone()) for _, w, b in feedback_weights(model) if w is not last]
        for _ in range(3):
            _backward(model, x)
            if way == "no gradient":
                for p in still:
                    p.grad = None
            optimizer.step()
        after = [(w, b) for _, w, b in feedback_weights(model) if w is not last]
        for (w, b), (w_after, b_after) in zip(before, after, strict=True):
            assert torch.equal(w, w_after)
            assert torch.equal(b, b_after)


@right("a gradient scaler skips a step", CASES, "it is no step: neither W nor B changes")
def skipped(case: Case) -> None:
    for fused in (False, True):
        model, x = case.model(torch.float32), case.inputs(torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        evolution = evolve_after(optimizer, model)
        for factor in (torch.inf, 1.0, torch.inf, torch.inf):
            before, steps = _state(model), evolution.steps
            optimizer.zero_grad()
            scaler.scale(model(x).sin().sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(_state(model), before) == (factor == torch.inf)
            assert evolution.steps == steps + (factor == 1.0)


@right(
    "your optimiser is not derived from `torch.optim.Optimizer`",
    CASES,
    "`evolve` follows the weights whose values have changed",
)
def own_optimiser(case: Case) -> None:
    model, x = case.model(), case.inputs()
    for number in range(1, 5):
        _backward(model, x)
        for p in model.parameters():
            p.data.sub_(p.grad, alpha=0.01)
        evolve(model, number)
    torch.testing.assert_close(_state(model), _state(_learnt(case)))


@right(
    "you set another default device (`torch.set_default_device`, `with torch.device(...)`)",
    [
        *crossed(rules=("RandomFeedback", "SoftAlignment", "SignSymmetry once", *EVOLVING)),
        *crossed(("Linear", "Conv2d"), formats=[f for f in ALL_FORMATS if f != "Dense"]),
    ],
    "as without it",
)
def default_device(case: Case) -> None:
    model, x = case.plain(), case.inputs()
    with torch.device("meta"):  # whatever names no device would have no values
        set_learning_rule(model, case.learning_rule, format=case.feedback_format)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for number in range(1, 5):
            _backward(model, x)
            optimizer.step()
            evolve(model, number)
    torch.testing.assert_close(_state(model), _state(_learnt(case)), rtol=0, atol=0)

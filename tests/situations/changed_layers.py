"""A layer is changed after the model has got its rule."""

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from alignonce import Backpropagation, RandomFeedback, evolve, set_learning_rule
from alignonce.layers import FeedbackLayer, forward_weight_names
from situations.by_hand import by_hand, flat_gradients
from situations.situation import ALL_FORMATS, Case, crossed, refused, right

TOPIC = "Layers changed after the rule was set"

EVOLVING = ("KolenPollack", "SignSymmetry uniform", "PeriodicAlignment", "WeightMirror")
AGAIN = "call set_learning_rule again"

Change = Callable[[nn.Module, str], object]


class _Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def _older_weight_norm(layer: nn.Module, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in use
        weight_norm(layer, name)


PARAMETRISATIONS: dict[str, Change] = {
    "weight_norm": lambda layer, name: parametrizations.weight_norm(layer, name),
    "spectral_norm": lambda layer, name: parametrizations.spectral_norm(layer, name),
    "one of your own": lambda layer, name: parametrize.register_parametrization(layer, name, _Halved()),
}
HOOKS: dict[str, Change] = {
    "pruning": lambda layer, name: prune.l1_unstructured(layer, name, 0.5),
    "weight_norm": _older_weight_norm,
    "spectral_norm": lambda layer, name: spectral_norm(layer, name),
}


def _weights(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for layer in list(model.modules()):
        for name in list(forward_weight_names(layer)):
            yield layer, name


def _change(model: nn.Module, change: Change) -> None:
    torch.manual_seed(0)  # spectral_norm begins at random
    for layer, name in _weights(model):
        change(layer, name)


def _with_each(case: Case, changes: dict[str, Change]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """A model under the rule, and its twin with B by hand, both changed alike."""
    for change in changes.values():
        model = case.model()
        twin = by_hand(model)
        for m in (model, twin):
            _change(m, change)
        yield model, twin


def _assert_alike(model: nn.Module, twin: nn.Module, x: Tensor) -> None:
    ours = flat_gradients(model, model(x).sin().sum())
    theirs = flat_gradients(twin, twin(x.double() if x.is_floating_point() else x).sin().sum())
    torch.testing.assert_close(ours, theirs)


def _step(model: nn.Module, x: Tensor, number: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    model(x).sin().sum().backward()
    optimizer.step()
    evolve(model, number)


# Formats whose product with the error is exact on every machine.
_CASES = [
    *crossed(rules=("SoftAlignment", "RandomFeedback")),
    *crossed(("Linear", "Conv2d"), formats=[f for f in ALL_FORMATS if f in ("LowRank", "Sparse")]),
]


@right(
    "you prune a layer, or put the older weight_norm or spectral_norm on it",
    _CASES,
    "gradients go into what W is computed from; B stays in W's place",
)
def hooks(case: Case) -> None:
    for model, twin in _with_each(case, HOOKS):
        _assert_alike(model, twin, case.inputs())


@right(
    "you parametrise a layer (`parametrizations.weight_norm`, ...)",
    _CASES,
    "gradients go into what W is computed from; B stays in W's place",
)
def parametrised(case: Case) -> None:
    for model, twin in _with_each(case, PARAMETRISATIONS):
        _assert_alike(model, twin, case.inputs())


@right(
    "you prune or parametrise a layer, then set `Backpropagation()`",
    crossed(rules=("SoftAlignment", "KolenPollack")),
    "the layer is plain, and still pruned or parametrised",
)
def back_to_plain(case: Case) -> None:
    for change in (*HOOKS.values(), *PARAMETRISATIONS.values()):
        model, plain = case.model(), case.plain()
        for m in (model, plain):
            _change(m, change)
        set_learning_rule(model, Backpropagation())
        assert not any(isinstance(m, FeedbackLayer) for m in model.modules())
        assert [type(m).__name__ for m in model.modules()] == [type(m).__name__ for m in plain.modules()]
        assert model.state_dict().keys() == plain.state_dict().keys()
        _assert_alike(model, plain, case.inputs())


@refused(
    "you prune or parametrise a layer, then set another rule",
    crossed(),
    message="remove_parametrizations on it first|remove that first",
    remedy="the message names the layer: remove the change, set the rule, change it again",
)
def another_rule(case: Case) -> None:
    errors = []
    for change in (*HOOKS.values(), *PARAMETRISATIONS.values()):
        model = case.model()
        _change(model, change)
        try:
            set_learning_rule(model, RandomFeedback())
        except ValueError as error:
            errors.append(error)
    assert len(errors) == len(HOOKS) + len(PARAMETRISATIONS), "one was not refused"
    raise errors[0]


@refused(
    "you prune or parametrise a layer under a rule that changes B, and train",
    crossed(rules=EVOLVING),
    message="is computed from others .*remove that, and call set_learning_rule again",
    error=RuntimeError,
    remedy="do it before you set the rule, or take a fixed rule",
)
def evolving(case: Case) -> None:
    errors = []
    for change in (*HOOKS.values(), *PARAMETRISATIONS.values()):
        model = case.model()
        _change(model, change)
        try:
            _step(model, case.inputs(), 1)
        except RuntimeError as error:
            errors.append(error)
    assert len(errors) == len(HOOKS) + len(PARAMETRISATIONS), "one was not refused"
    raise errors[0]


def _new_parameter(layer: nn.Module, name: str) -> None:
    setattr(layer, name, nn.Parameter(getattr(layer, name).detach().cos()))


@right("you replace W by another parameter", _CASES, "B stays as it is")
def replaced(case: Case) -> None:
    ((model, twin),) = _with_each(case, {"a new parameter": _new_parameter})
    _assert_alike(model, twin, case.inputs())


@refused(
    "you replace W by another parameter under a rule that changes B, and train",
    crossed(rules=EVOLVING),
    message=f"was replaced by another parameter: {AGAIN}",
    error=RuntimeError,
    remedy="set the rule again",
)
def replaced_evolving(case: Case) -> None:
    model = case.model()
    _change(model, _new_parameter)
    _step(model, case.inputs(), 1)


def _square(case: Case, tied: bool = False) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    if tied:
        model[2].weight = model[0].weight
    set_learning_rule(model, case.learning_rule, format=case.feedback_format)
    return model, torch.randn(3, 4, dtype=torch.float64)


@right("you tie the weights of two layers, or untie them", crossed(("Linear",)), "each layer keeps its B")
def tied(case: Case) -> None:
    model, x = _square(case)
    twin = by_hand(model)
    for m in (model, twin):
        m[2].weight = m[0].weight
    _assert_alike(model, twin, x)
    model, x = _square(case, tied=True)
    model[2].weight = nn.Parameter(model[2].weight.detach().cos())
    _assert_alike(model, by_hand(model), x)


@refused(
    "you tie the weights of two layers under a rule that changes B, and train",
    crossed(("Linear",), EVOLVING),
    message=f"was tied to another layer's, which has a feedback weight of its own: {AGAIN}",
    error=RuntimeError,
    remedy="set the rule again",
)
def tied_evolving(case: Case) -> None:
    model, x = _square(case)
    model[2].weight = model[0].weight
    _step(model, x, 1)


@refused(
    "you untie the weights of two layers under a rule that changes B, and train",
    crossed(("Linear",), EVOLVING),
    message=f"'2' .*was replaced by another parameter: {AGAIN}",
    error=RuntimeError,
    remedy="set the rule again",
)
def untied_evolving(case: Case) -> None:
    model, x = _square(case, tied=True)
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    _step(model, x, 1)


@refused(
    "you resize W (`resize_token_embeddings` with a tied head)",
    crossed(("Linear", "Conv2d", "Bilinear"), ("SoftAlignment", "KolenPollack")),
    message=f"feedback must have the shape of weight, .*{AGAIN}",
    remedy="set the rule again",
)
def resized(case: Case) -> None:
    model, x = case.model(), case.inputs()
    for layer, name in _weights(model):
        weight = getattr(layer, name)
        weight.data = torch.cat([weight.data, weight.data])
        if layer.bias is not None:
            layer.bias.data = torch.cat([layer.bias.data, layer.bias.data])
    model(x)


@right(
    "you load a state_dict with `assign=True`",
    crossed(rules=("SoftAlignment", *EVOLVING)),
    "rules go on from the weights and B that were loaded",
)
def assigned(case: Case) -> None:
    ends = []
    for assign in (False, True):
        model, x = case.model(), case.inputs()
        saved = {key: value.clone() for key, value in model.state_dict().items()}
        _step(model, x, 1)
        model.load_state_dict(saved, assign=assign)
        for number in (2, 3, 4):
            _step(model, x, number)
        ends.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
    torch.testing.assert_close(*ends)


def _initialise_again(model: nn.Module) -> None:
    with torch.no_grad():
        for layer, name in _weights(model):
            getattr(layer, name).normal_(generator=torch.Generator().manual_seed(1))


@right(
    "you initialise W again in place",
    crossed(rules=("SoftAlignment", "SignSymmetry uniform", "PeriodicAlignment", "WeightMirror")),
    "B stays as it is until its rule changes it",
)
def initialised_again(case: Case) -> None:
    model = case.model()
    twin = by_hand(model)
    for m in (model, twin):
        _initialise_again(m)
    _assert_alike(model, twin, case.inputs())
    _step(model, case.inputs(), 2)


@refused(
    "you initialise W again, or change it otherwise between two steps, under Kolen-Pollack",
    crossed(rules=("KolenPollack",)),
    message=f"something else has changed the forward weight .*{AGAIN}; or, if the change belongs to each",
    error=RuntimeError,
    remedy="set the rule again; or, for a change after each step, call `evolve` after it",
)
def initialised_again_kolen_pollack(case: Case) -> None:
    model, x = case.model(), case.inputs()
    _step(model, x, 1)
    _initialise_again(model)
    _step(model, x, 2)


@right(
    "you clip or project weights after each step under Kolen-Pollack, before `evolve`",
    crossed(rules=("KolenPollack",)),
    "it belongs to the step: W and B both get it",
)
def clipped(case: Case) -> None:
    model, x = case.model(), case.inputs()
    first = [(layer, n, getattr(layer, n).detach() - layer.feedback_of(n)) for layer, n in _weights(model)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in (1, 2, 3):
        model(x).sin().sum().backward()
        optimizer.step()
        with torch.no_grad():
            for p in model.parameters():
                p.clamp_(-0.2, 0.2)
        evolve(model, number)
    for layer, n, before in first:
        after = getattr(layer, n).detach() - layer.feedback_of(n)
        torch.testing.assert_close(after, before * (1 - case.learning_rule.decay) ** 3)

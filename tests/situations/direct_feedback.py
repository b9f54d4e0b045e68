"""Direct feedback: whatever way the model is called, errors go from its outputs through B."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignonce import Backpropagation, DirectFeedback, RandomFeedback, set_learning_rule
from alignonce.layers.modes import MODE_ATTRIBUTES
from situations.by_hand import flat_gradients
from situations.situation import Case, compiled_anew, crossed, refused, right

TOPIC = "Direct feedback"

LAYERS = ("Linear", "Conv2d", "MultiheadAttention", "LSTM", "GRUCell")
CASES = crossed(LAYERS, rules=("DirectFeedback",))
ONE = crossed(("Linear",), rules=("DirectFeedback",))


def gradients(model: nn.Module, output: Tensor) -> Tensor:
    return flat_gradients(model, output.sin().sum())


def agree(case: Case, call: Callable[[nn.Module, Tensor], Tensor], model: nn.Module | None = None) -> None:
    """A call of the model has the gradients of its own call, which tests/test_direct.py holds against B."""
    model, x = case.model() if model is None else model, case.inputs()
    expected = gradients(model, model(x))
    torch.testing.assert_close(gradients(model, call(model, x)), expected)


@right("you call `model.forward(x)`", CASES, "cuts stay in the graph, where the output finds them")
def forward(case: Case) -> None:
    agree(case, lambda model, x: model.forward(x))


@right("you call the model in parts: `model[3:](model[:3](x))`, `decode(encode(x))`", CASES)
def parts(case: Case) -> None:
    agree(case, lambda model, x: model[3:](model[:3](x)))


@right("a wrapper's `training_step` calls the model's own modules", CASES)
def wrapper(case: Case) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = case.plain()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, x: Tensor) -> Tensor:
            for layer in self.net:
                x = layer(x)
            return x

    model = Wrapper()
    set_learning_rule(model, case.learning_rule, inputs=case.inputs())
    agree(case, lambda model, x: model.training_step(x), model)


@right("logits are caught by a hook that is older than the rule", CASES)
def older_hook(case: Case) -> None:
    caught: list[Tensor] = []
    model = case.plain()
    model[-1].register_forward_hook(lambda module, args, output: caught.append(output))
    set_learning_rule(model, case.learning_rule, inputs=case.inputs())

    def call(model: nn.Module, x: Tensor) -> Tensor:
        model(x)
        return caught[-1]

    agree(case, call, model)


@right("a forward pass ends by an error, or is not used, before the next", CASES)
def unfinished(case: Case) -> None:
    model, x = case.model(), case.inputs()
    expected = gradients(model, model(x))
    handle = model[2].register_forward_hook(_fail)
    for call in (model, model.forward):
        with contextlib.suppress(ZeroDivisionError):
            call(x)
    handle.remove()
    unused = model[:3](x)
    for output in (model.forward(x), model(x)):
        torch.testing.assert_close(gradients(model, output), expected)
    assert unused.requires_grad


def _fail(module: nn.Module, args: Any, output: Any) -> None:
    raise ZeroDivisionError


@right("you give one example without a batch dimension", crossed(("Linear",), rules=("DirectFeedback",)))
def single(case: Case) -> None:
    x = case.inputs()
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    set_learning_rule(model, case.learning_rule, inputs=x)
    torch.testing.assert_close(gradients(model, model(x[0])), gradients(model, model(x[:1])))


@right("the model was compiled, and has run, before the rule is set", CASES, "compiled code is forgotten")
def compiled_model(case: Case) -> None:
    with torch._dynamo.config.patch(allow_rnn=True):
        model, x = case.plain(), case.inputs()
        compiled = compiled_anew(model)
        plain = gradients(model, compiled(x))
        set_learning_rule(compiled, case.learning_rule, inputs=x)
        agree(case, lambda _, x: compiled(x), model)
        set_learning_rule(compiled, Backpropagation())
        torch.testing.assert_close(gradients(model, compiled(x)), plain)


@right("a loss function that calls the model was compiled before", CASES, "compiled code is forgotten")
def compiled_loss(case: Case) -> None:
    with torch._dynamo.config.patch(allow_rnn=True):
        model, x = case.plain(), case.inputs()
        loss = compiled_anew(lambda x: model(x).sin().sum())
        flat_gradients(model, loss(x))
        set_learning_rule(model, case.learning_rule, inputs=x)
        expected = gradients(model, model(x))
        torch.testing.assert_close(flat_gradients(model, loss(x)), expected)


@right("a layer within the model is compiled", CASES)
def compiled_layer(case: Case) -> None:
    with torch._dynamo.config.patch(allow_rnn=True):
        model, x = case.model(), case.inputs()
        expected = gradients(model, model(x))
        torch.compiler.reset()
        model[2].compile(backend="aot_eager")
        torch.testing.assert_close(gradients(model, model(x)), expected)


@right("a compiled function calls the model in parts", ONE, "graphs break at cuts; `fullgraph=True` says so")
def compiled_parts(case: Case) -> None:
    model = case.model()
    compiled = compiled_anew(lambda x: model[3:](model[:3](x)))
    agree(case, lambda _, x: compiled(x), model)


@right("parts of the model are in checkpoints with `use_reentrant=False`", CASES)
def checkpoints(case: Case) -> None:
    for call in (
        lambda m, x: m[3:](checkpoint(m[:3], x, use_reentrant=False)),
        lambda m, x: checkpoint(m[3:], m[:3](x), use_reentrant=False),
        lambda m, x: checkpoint(m, x, use_reentrant=False),
        lambda m, x: checkpoint(m, x.clone().requires_grad_(), use_reentrant=True),
    ):
        model, x = case.model(), case.inputs()
        torch.testing.assert_close(accumulated(model, call(model, x)), gradients(model, model(x)))


def accumulated(model: nn.Module, output: Tensor) -> Tensor:
    """Reentrant checkpoints refuse torch.autograd.grad."""
    output.sin().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@refused(
    "parts of the model are in checkpoints with `use_reentrant=True`",
    CASES,
    message="is in a reentrant checkpoint.*use_reentrant=False",
    error=RuntimeError,
    remedy="use `use_reentrant=False`",
)
def reentrant(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    accumulated(model, model[3:](checkpoint(model[:3], x, use_reentrant=True)))


@refused(
    "the loss depends on hidden layers only",
    CASES,
    message="on no output layer that ran",
    error=RuntimeError,
    remedy="errors start at output layers: give what you train a rule of its own",
)
def features_only(case: Case) -> None:
    model = case.model()
    gradients(model, model[:3](case.inputs()))


@refused(
    "a layer runs that did not when the rule was set",
    ONE,
    message="'extra' did not run, or ran without gradients, when .*inputs= that run the model as in training",
    error=RuntimeError,
    remedy="set the rule with inputs that run it",
)
def new_layer(case: Case) -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.extra, self.skip = case.plain(), nn.Linear(3, 3).double(), True

        def forward(self, x: Tensor) -> Tensor:
            y = self.net(x)
            return y if self.skip else self.extra(y)

    model, x = Skipping(), case.inputs()
    set_learning_rule(model, case.learning_rule, inputs=x)
    model.skip = False
    model(x)


class Windows(nn.Module):
    """Folds the batch into another dimension for a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).unflatten(-1, (2, 2)).transpose(0, 1).reshape(-1, 1, 2).repeat(1, 1, 2)
        return self.head(self.inner(h).reshape(2, -1, 4).mean(0))


@refused(
    "a layer's input folds the batch into another dimension",
    ONE,
    message=r"input of 'inner' grows from .*not a dimension of its own in both.*DirectFeedback\(taps=",
    remedy="tap whole blocks with `taps=`",
)
def folded_batch(case: Case) -> None:
    set_learning_rule(Windows(), case.learning_rule, inputs=case.inputs())


@refused(
    "B would be larger than a gibibyte",
    ONE,
    message=r"B would take 5\.7 GiB in 2 modules, .*max_bytes=",
    remedy="tap less, or raise `max_bytes`; nothing was made",
)
def large(case: Case) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Conv2d(2, 1, 3))
    set_learning_rule(model, case.learning_rule, inputs=torch.zeros(2, 1, 256, 256))


class Box:
    """Of a class that torch.utils._pytree does not know."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Unboxing(nn.Linear):
    """Takes its input out of a box."""

    def forward(self, box: Box) -> Tensor:  # type: ignore[override]
        return super().forward(box.tensor)


@refused(
    "a layer takes its tensors in an object of your own class",
    ONE,
    message="'inner' reads what 'first' makes in another way than by tensors in its arguments",
    remedy="tap other modules with `taps=`",
)
def hidden_tensors(case: Case) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.head = nn.Linear(4, 4), Unboxing(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(Box(self.first(x))))

    set_learning_rule(Model().double(), case.learning_rule, inputs=case.inputs())


def _state(model: nn.Module) -> list[Any]:
    """All but what exact_gradients notes about its own calls."""
    hooks = ("_forward_pre_hooks", "_forward_hooks")
    return [
        (
            type(m),
            set(vars(m)) - set(MODE_ATTRIBUTES),
            [dict(vars(m)[h]) for h in hooks],
            {n: id(b) for n, b in m._buffers.items()},
        )
        for m in model.modules()
    ]


def _unchanged(case: Case, model: nn.Module, change: Callable[[], Any]) -> None:
    """A refused change leaves the model as it was."""
    before, x = _state(model), case.inputs()
    expected = gradients(model, model(x))
    try:
        change()
    except (ValueError, RuntimeError):
        assert _state(model) == before
        torch.testing.assert_close(gradients(model, model(x)), expected, rtol=0, atol=0)
        return
    raise AssertionError("not refused")


EVERY_RULE = crossed(("Linear", "LSTM"), rules=("SoftAlignment", "KolenPollack", "DirectFeedback"))


@right("direct feedback is refused (wrong inputs, taps, size)", EVERY_RULE, "the model is as it was")
def refusals(case: Case) -> None:
    model, x = case.model(), case.inputs()
    for rule, inputs in (
        (DirectFeedback(), x[..., :-1]),
        (DirectFeedback(taps="none"), x),
        (DirectFeedback(outputs="none"), x),
        (DirectFeedback(max_bytes=8), x),
        (DirectFeedback(), None),
    ):
        _unchanged(
            case, model, lambda rule=rule, inputs=inputs: set_learning_rule(model, rule, inputs=inputs)
        )


@right("another rule is refused by a model with direct feedback", CASES, "direct feedback stays")
def refused_after(case: Case) -> None:
    model = case.model()
    zero = copy.deepcopy(model)
    with torch.no_grad():
        for p in zero[2].parameters():
            p.zero_()
    _unchanged(case, model, lambda: set_learning_rule(model, RandomFeedback(), where="none"))
    _unchanged(case, zero, lambda: set_learning_rule(zero, RandomFeedback()))


@right("a model sets `requires_grad` on a hidden tensor, or freezes layers", ONE)
def requires_grad_within(case: Case) -> None:
    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = x[:, None]
            if self.training:
                h.requires_grad = True
            return self.head(self.second(self.first(h).tanh()).tanh())

    model, x = Speech().double(), case.inputs()
    model.first.requires_grad_(False)
    set_learning_rule(model, case.learning_rule, inputs=x)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    model.first.requires_grad_(True)  # thawed later
    assert all(g.any() for g in torch.autograd.grad(model(x).sin().sum(), list(model.parameters())))

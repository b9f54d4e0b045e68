"""Gradient checkpointing: what is computed again does what the first forward pass did, in any mode."""

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from alignonce import Backpropagation, SignSymmetry, exact_gradients, set_learning_rule
from situations.by_hand import flat_gradients
from situations.situation import LAYERS, Case, compiled_anew, crossed, refused, right

TOPIC = "Recomputation"

_CASES = [
    *crossed(LAYERS),
    *crossed(("Linear", "Conv2d", "LSTM"), rules=("RandomFeedback", "SignSymmetry batch", "KolenPollack")),
    *crossed(("Linear", "Bilinear", "ConvTranspose"), formats=("LowRank", "Sparse")),
]
_BOTH = [partial(checkpoint, use_reentrant=reentrant) for reentrant in (False, True)]


def _as_forward(run: Callable[[nn.Module, Tensor], Tensor], case: Case) -> None:
    """Forward in one mode and backward in the other gives the gradients of the forward pass's."""
    model, x = case.model(), case.inputs().requires_grad_()
    under_rule = case.expected(model, x)
    with exact_gradients(model):
        output = run(model, x)
    _close(_backward(model, output), _plain(model, x))
    output = run(model, x)
    with exact_gradients(model):
        gradients = _backward(model, output)
    _close(gradients, under_rule)


@right(
    "only the forward pass of a checkpointed model is inside `exact_gradients`, or only the backward pass",
    _CASES,
    "the forward pass decides, for what is computed again too",
)
def forward_or_backward_alone(case: Case) -> None:
    for recompute in _BOTH:
        _as_forward(recompute, case)


@right("checkpoints are nested, of one kind or of both", _CASES, "the outermost forward pass decides")
def nested(case: Case) -> None:
    for outer in _BOTH:
        for inner in _BOTH:
            _as_forward(lambda m, x, outer=outer, inner=inner: outer(partial(inner, m), x), case)


@right("a model is checkpointed in segments", _CASES, "each segment does what its forward pass did")
def segments(case: Case) -> None:
    for reentrant in (False, True):
        _as_forward(lambda m, x, r=reentrant: checkpoint_sequential(m, 2, x, use_reentrant=r), case)


@right("the context is inside the checkpointed function", _CASES, "it is entered again, and holds again")
def context_inside(case: Case) -> None:
    def half_exact(model: nn.Sequential, x: Tensor, inner: Callable[..., Tensor] | None = None) -> Tensor:
        with exact_gradients(model):
            x = model[:3](x) if inner is None else inner(model[:3], x)
        return model[3:](x)

    model, x = case.model(), case.inputs().requires_grad_()
    expected = flat_gradients(model, half_exact(model, x).sin().sum())
    for outer in _BOTH:
        for inner in (None, *_BOTH):
            _close(_backward(model, outer(half_exact, model, x, inner)), expected)


@right("one graph holds a pass in each mode", _CASES, "each part of the graph has its own mode")
def two_passes(case: Case) -> None:
    for first in _BOTH:
        for second in _BOTH:
            model, x = case.model(), case.inputs().requires_grad_()
            expected = case.expected(model, x) + _plain(model, x)
            with exact_gradients(model):
                exact = first(model, x)
            both = exact.sin().sum() + second(model, x).sin().sum()
            _close(_backward(model, both, as_it_is=True), expected)


@right("the backward pass of a checkpointed model is run twice", _CASES, "twice the gradients")
def backward_twice(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    with exact_gradients(model):
        loss = checkpoint(model, x, use_reentrant=False).sin().sum()
    model.zero_grad()
    loss.backward(retain_graph=True)
    loss.backward()
    _close(_grads(model), 2 * _plain(model, x))


@right("only a part of the model is inside `exact_gradients`", _CASES, "only this part is exact")
def part(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    with exact_gradients(model[2]):
        expected = flat_gradients(model, model(x).sin().sum())
    with exact_gradients(model):  # the part is switched with others, too
        model(x)
    for recompute in _BOTH:
        with exact_gradients(model[2]):
            output = recompute(model, x)
        _close(_backward(model, output), expected)


@right("an error is raised inside the context or in recomputing", _CASES, "the mode is as before")
def errors(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    fails = False

    def function(x: Tensor) -> Tensor:
        x = model[:3](x)
        if fails:  # not at the end, where a checkpoint has stopped since it has what it needs
            raise MemoryError
        return model[3:](x)

    for recompute in _BOTH:
        fails = False
        try:
            with exact_gradients(model):
                output = recompute(function, x)
                raise MemoryError
        except MemoryError:
            fails = True
        try:
            output.sum().backward()
        except MemoryError:
            _close(_backward(model, recompute(model, x)), case.expected(model, x))
        else:
            raise AssertionError("the recomputation did not fail")


@right(
    'the model has norm layers with `norms="fixed"`',
    crossed(("BatchNorm residual block", "TransformerEncoderLayer"), rules=("SoftAlignment", "KolenPollack")),
    "they too do again what they did",
)
def fixed_norms(case: Case) -> None:
    model, x = case.plain(), case.inputs().requires_grad_()
    set_learning_rule(model, case.learning_rule, norms="fixed")
    for norm in model.modules():
        if hasattr(norm, "eps"):
            norm.weight.data += 0.5  # away from the fixed scale
    under_rule = flat_gradients(model, model(x).sin().sum())
    for recompute in _BOTH:
        with exact_gradients(model):
            output = recompute(model, x)
        _close(_backward(model, output), _plain(model, x))
        output = recompute(model, x)
        with exact_gradients(model):
            gradients = _backward(model, output)
        _close(gradients, under_rule)


@right("a model is copied between a forward pass in the context and backward", _CASES)
def copied(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    with exact_gradients(model):
        output = checkpoint(model, x, use_reentrant=True)
    twin = copy.deepcopy(model)
    _close(_backward(twin, checkpoint(twin, x, use_reentrant=True)), case.expected(twin, x))
    _close(_backward(model, output), _plain(model, x))


@right(
    "a model is copied or saved inside `exact_gradients`",
    [*_CASES, Case("Linear", "DirectFeedback")],
    "the copy is in the context as long as it is open; what is loaded is not in it",
)
def copied_inside(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    under_rule, plain = flat_gradients(model, model(x).sin().sum()), _plain(model, x)
    with exact_gradients(model):
        with exact_gradients(model[2]):
            twin = copy.deepcopy(model)
            loaded = pickle.loads(pickle.dumps(model))
        _close(flat_gradients(twin, twin(x).sin().sum()), plain)
        outputs = [recompute(twin, x) for recompute in _BOTH]
        _close(flat_gradients(loaded, loaded(x).sin().sum()), under_rule)
    for output in outputs:
        _close(_backward(twin, output), plain)
    _close(flat_gradients(twin, twin(x).sin().sum()), under_rule)


@right(
    "contexts are left in another order than they were entered, as by threads",
    [*_CASES, Case("Linear", "DirectFeedback")],
    "a layer is exact as long as one is open",
)
def contexts_overlap(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    under_rule, plain = flat_gradients(model, model(x).sin().sum()), _plain(model, x)
    first, second = exact_gradients(model), exact_gradients(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    _close(flat_gradients(model, model(x).sin().sum()), plain)
    second.__exit__(None, None, None)
    _close(flat_gradients(model, model(x).sin().sum()), under_rule)


@right("a rule is set anew inside `exact_gradients`", crossed(), "it holds when the context is left")
def set_inside(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    with exact_gradients(model):
        set_learning_rule(model, SignSymmetry("fixed"))
        _close(flat_gradients(model, model(x).sin().sum()), _plain(model, x))
    _close(flat_gradients(model, model(x).sin().sum()), case.expected(model, x))
    with exact_gradients(model):
        set_learning_rule(model, Backpropagation())
    set_learning_rule(model, case.learning_rule)
    _close(flat_gradients(model, model(x).sin().sum()), case.expected(model, x))


_COMPILED = [
    Case(),
    Case("Conv2d", "KolenPollack", "Dense"),
    Case("Linear", "SoftAlignment", "LowRank"),
]


@right(
    "a compiled model is inside a checkpoint that is not compiled, and only the forward pass is inside "
    "`exact_gradients`",
    _COMPILED,
    "what runs for exact gradients has the checkpoint enter the context again",
)
def compiled_inside(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    plain = _plain(model, x)
    for run in _with_compiled_code(model):
        with exact_gradients(model):
            output = run(x)
        _close(_backward(model, output), plain)
    with exact_gradients(model):
        twin = copy.deepcopy(model)
        output = checkpoint(compiled_anew(twin), x, use_reentrant=False)
    _close(_backward(twin, output), plain)


@right(
    "a compiled model is inside a checkpoint that is not compiled, with both passes inside "
    "`exact_gradients`, or both outside, or with the context in the checkpointed function",
    _COMPILED,
)
def compiled_in_one_mode(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    under_rule, plain = case.expected(model, x), _plain(model, x)
    for run in _with_compiled_code(model):
        _close(_backward(model, run(x)), under_rule)
        with exact_gradients(model):
            with torch.no_grad():
                run(x)
            with exact_gradients(model[2]):  # one more does no harm
                output = run(x)
            _close(_backward(model, output), plain)
    compiled = compiled_anew(model)

    def function(x: Tensor) -> Tensor:
        with exact_gradients(model):
            return compiled(x)

    for recompute in _BOTH:
        output = recompute(function, x)
        with exact_gradients(model[0]):
            _close(_backward(model, output), plain)


@refused(
    "a compiled model is inside a checkpoint that is not compiled, and only the backward pass is inside "
    "`exact_gradients`",
    _COMPILED,
    message="would mix both kinds of gradients. Call backward outside the context, or compile the function",
    error=RuntimeError,
    remedy="call backward outside the context, or compile the function that checkpoints",
)
def compiled_backward_alone(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    messages = []
    for run in _with_compiled_code(model):
        output = run(x)
        with exact_gradients(model):
            try:
                output.sum().backward()
            except RuntimeError as error:
                messages.append(str(error))
            else:
                return
    assert len(set(messages)) == 1
    raise RuntimeError(messages[0])


@right(
    "code inside a reentrant checkpoint is compiled in one pass and not in the other",
    _COMPILED,
    "it is for the same gradients in both",
)
def compiled_in_one_pass(case: Case) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    plain = _plain(model, x)
    compiled = compiled_anew(model)
    _backward(model, compiled(x))
    for stance, later in (("default", "force_eager"), ("force_eager", "default")):
        with torch.compiler.set_stance(stance), exact_gradients(model):
            output = checkpoint(compiled, x, use_reentrant=True)
        with torch.compiler.set_stance(later):
            _close(_backward(model, output), plain)


@right("the function that checkpoints is compiled", _COMPILED, "the forward pass decides")
def compiled_around(case: Case) -> None:
    for recompute in _BOTH:
        compiled = compiled_anew(recompute)
        _as_forward(lambda m, x, compiled=compiled: compiled(m, x), case)


def _with_compiled_code(model: nn.Sequential) -> Iterator[Callable[[Tensor], Tensor]]:
    """Functions that checkpoint the model, of which all or a part is compiled."""
    for outer in _BOTH:
        compiled = compiled_anew(model)
        yield partial(outer, compiled)
        yield partial(outer, partial(_BOTH[outer is _BOTH[0]], compiled))  # the other kind
        part = compiled_anew(model[2])
        yield partial(outer, lambda x, part=part: model[3:](part(model[:2](x))))


def _backward(model: nn.Module, output: Tensor, as_it_is: bool = False) -> Tensor:
    model.zero_grad()
    (output if as_it_is else output.sin().sum()).backward()
    return _grads(model)


def _grads(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _plain(model: nn.Module, x: Tensor) -> Tensor:
    twin = copy.deepcopy(model)
    set_learning_rule(twin, Backpropagation())
    return flat_gradients(twin, twin(x).sin().sum())


def _close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected)

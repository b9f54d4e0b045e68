"""Direct feedback alignment: the error of the output goes to each layer directly.

The input of each layer is cut off from what made it, so that no error passes from layer to layer. At the
output layer, the inputs that were cut are joined to the output: in the backward pass each receives the
output's error through a random matrix of its own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from alignonce.layers import layer_kind
from alignonce.modes import Switch, runs_exactly
from alignonce.rules import LearningRule, generator_for
from alignonce.undisturbed import undisturbed

__all__ = ["DirectFeedback", "Tap", "install", "states_of", "uninstall"]


@dataclass(frozen=True)
class DirectFeedback(LearningRule):
    """Direct feedback alignment: the input h of each layer receives B·e, with e the error of the output.

    e is the gradient of the loss at the output of the layer that runs last, whatever the loss. B is random,
    fixed, and has one row for each output and one column for each element of h: B·e has about the norm of
    e. Where output and h share their leading dimensions (tokens of a sequence), B acts token by token.
    Otherwise the first dimension of both is that of the batch. Needs a batch to learn the shapes:
    ``set_learning_rule(model, DirectFeedback(), inputs=batch)``.

    Within attention and recurrent layers, which are several layers in one, the inner feedback weights are
    those of :class:`RandomFeedback`. Skip connections without weights carry the errors of the layers that
    they skip; tapping whole blocks cuts these too.

    Source: Nøkland 2016, arXiv 1609.01596, equation 6.

    Args:
        taps: ``"layers"``, or names or globs of modules (say, residual blocks) whose inputs are tapped
            instead; what is inside keeps the learning rule that it has.
        seed: with the module's name, decides B.
    """

    taps: str | Sequence[str] = "layers"
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.taps, str):
            object.__setattr__(self, "taps", tuple(self.taps))

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        raise TypeError("direct feedback belongs to a layer's input, not to a forward weight")


@dataclass(frozen=True)
class Tap:
    """A module whose inputs receive the output's error."""

    name: str
    module: nn.Module
    feedback: tuple[Tensor, ...]
    """For each tensor input that carries an error: B, (output size, input size)."""


class _Join(torch.autograd.Function):
    """The identity on the output, whose error goes to all tapped inputs as well."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, *feedback_and_inputs: Tensor) -> Tensor:
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *rest = inputs
        count = len(rest) // 2
        ctx.save_for_backward(*rest[:count])
        ctx.shapes = [(h.shape, h.dtype) for h in rest[count:]]

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        errors = []
        for feedback, (shape, dtype) in zip(ctx.saved_tensors, ctx.shapes, strict=True):
            rows = error.to(feedback.dtype).reshape(-1, feedback.shape[0])
            errors.append(rows.mm(feedback).reshape(shape).to(dtype))
        return (error, *[None] * len(errors), *errors)


class _State(Switch):
    """What the hooks of one model share."""

    def __init__(self, rule: DirectFeedback) -> None:
        self.rule = rule
        self.exact = False
        self.running = False
        self.tapped: list[tuple[Tensor, Tensor, str]] = []


class _Begin:
    def __init__(self, state: _State) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.state.running = True
        self.state.tapped.clear()


class _Cut:
    """Cut a module's inputs off, and remember them for the output's error."""

    def __init__(self, state: _State, name: str) -> None:
        self.state = state
        self.name = name

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if runs_exactly(self.state) or not torch.is_grad_enabled():
            return None
        done: dict[int, Tensor] = {}

        def cut(x: Tensor) -> Tensor:
            if not _carries_error(x):
                return x
            if id(x) in done:  # one tensor given twice (query and key) is one input
                return done[id(x)]
            feedback = getattr(module, _buffer_name(len(done)), None)
            done[id(x)] = x.detach()
            # In the recomputation of a checkpoint there is no output to come, only the graph to repeat.
            if self.state.running and x.requires_grad and feedback is not None:
                self.state.tapped.append((feedback, x, self.name))
            return done[id(x)]

        return tree_map_only(Tensor, cut, (args, kwargs))


class _JoinAtOutput:
    def __init__(self, state: _State) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self.state.tapped:
            return None
        feedbacks, inputs, names = zip(*self.state.tapped, strict=True)
        self.state.tapped.clear()
        first, *rest = output if isinstance(output, tuple) else (output,)
        for feedback, x, name in zip(feedbacks, inputs, names, strict=True):
            if first.numel() // feedback.shape[0] * feedback.shape[1] != x.numel():
                raise ValueError(
                    f"direct feedback: the input of {name!r} has shape {tuple(x.shape)} and the output "
                    f"{tuple(first.shape)}: other sizes than the batch that set_learning_rule was given"
                )
        # The compiler refuses one tensor given twice, as of a layer that runs twice.
        tensors = [*feedbacks, *inputs]
        tensors = [t.view_as(t) if any(t is u for u in tensors[:i]) else t for i, t in enumerate(tensors)]
        joined = _Join.apply(first, *tensors)
        return (joined, *rest) if isinstance(output, tuple) else joined


class _End:
    def __init__(self, state: _State) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.state.running = False
        if self.state.tapped:
            names = ", ".join(dict.fromkeys(repr(name) for *_, name in self.state.tapped))
            self.state.tapped.clear()
            raise RuntimeError(
                f"direct feedback: {names} ran after the output layer, or the output layer did not run; "
                "call set_learning_rule again with inputs= that run the model as in training"
            )


def install(model: nn.Module, rule: DirectFeedback, args: Any, kwargs: Any) -> list[Tap]:
    """Give a model direct feedback; its layers must be plain or keep their own rules.

    Args:
        model: the model, without direct feedback.
        rule: the settings.
        args: positional arguments of a forward pass.
        kwargs: keyword arguments of a forward pass.

    Returns:
        The taps, in the order in which they run.

    Raises:
        ValueError: if no module fits ``rule.taps``, or none of them runs on these inputs.
    """
    taps = _tapped_modules(model, rule)
    layers = _layers(model)
    runs = _trace(model, taps | layers, args, kwargs)
    output = next((run for run in reversed(runs) if run.name in layers), None)
    if output is None:
        raise ValueError("direct feedback: no layer with weights ran on inputs, so that there is no output")
    taps[output.name] = layers[output.name]

    state = _State(rule)
    model.register_forward_pre_hook(_Begin(state))
    installed: dict[str, Tap] = {}
    for run in runs:
        if run.name in installed or run.name not in taps:
            continue
        module = taps[run.name]
        device, dtype = _home(module, model)
        for i, shape in run.inputs.items():
            feedback = _random_feedback(rule, f"{run.name}/{i}", output.shape, shape)
            module.register_buffer(_buffer_name(i), feedback.to(device, dtype))
        module.register_forward_pre_hook(_Cut(state, run.name), with_kwargs=True)
        buffers = tuple(module.get_buffer(_buffer_name(i)) for i in run.inputs)
        installed[run.name] = Tap(run.name, module, buffers)
    layers[output.name].register_forward_hook(_JoinAtOutput(state))
    model.register_forward_hook(_End(state))
    return list(installed.values())


def uninstall(model: nn.Module) -> None:
    """Take direct feedback away, if there is any."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, _Begin | _Cut | _JoinAtOutput | _End):
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
        for name in [n for n in module._buffers if n.startswith("direct_feedback")]:
            delattr(module, name)


def states_of(model: nn.Module) -> Iterator[_State]:
    """The shared states of direct feedback in a model (none or one), to switch it to exact gradients."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _Begin):
                yield hook.state


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """All layers with forward weights; the output projection of an attention is a part of it."""
    layers = {name: module for name, module in model.named_modules() if layer_kind(type(module))}
    for name, module in list(layers.items()):
        if isinstance(module, nn.MultiheadAttention):
            del layers[f"{name}.out_proj".removeprefix(".")]
    return layers


def _tapped_modules(model: nn.Module, rule: DirectFeedback) -> dict[str, nn.Module]:
    if rule.taps == "layers":
        return _layers(model)
    modules = dict(model.named_modules())
    tapped: dict[str, nn.Module] = {}
    for pattern in [rule.taps] if isinstance(rule.taps, str) else rule.taps:
        fits = {name: module for name, module in modules.items() if name and fnmatchcase(name, pattern)}
        if not fits:
            raise ValueError(f"taps: {pattern!r} fits no module; 'layers' taps every layer with weights")
        tapped |= fits
    return tapped


@dataclass(frozen=True)
class _Run:
    """One run of a module: the shapes of its output and, by position, of inputs that can carry an error."""

    name: str
    inputs: dict[int, torch.Size]
    shape: torch.Size


def _trace(model: nn.Module, watched: dict[str, nn.Module], args: Any, kwargs: Any) -> list[_Run]:
    """Run the model once, and list the runs of the watched modules in the order in which they end."""
    runs: list[_Run] = []

    def recorder(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and _carries_error(x)]
            inputs = {id(x): x for x in leaves}.values()
            shapes = {i: x.shape for i, x in enumerate(inputs) if x.requires_grad}
            first = output[0] if isinstance(output, tuple) else output
            runs.append(_Run(name, shapes, first.shape))

        return record

    def differentiable(x: Tensor) -> Tensor:
        return x.detach().requires_grad_() if x.is_floating_point() else x

    handles = [m.register_forward_hook(recorder(n), with_kwargs=True) for n, m in watched.items()]
    try:
        args, kwargs = tree_map_only(Tensor, differentiable, (args, kwargs))
        with undisturbed(model, "eval"):  # BatchNorm in training mode refuses a batch of one
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return runs


def _random_feedback(rule: DirectFeedback, key: str, output: torch.Size, tapped: torch.Size) -> Tensor:
    by_token = len(output) > 2 and output[:-1] == tapped[:-1]
    first = -1 if by_token else 1
    rows, columns = math.prod(output[first:]), math.prod(tapped[first:])
    noise = torch.randn(rows, columns, dtype=torch.float64, generator=generator_for(f"{rule.seed}/{key}"))
    return noise / math.sqrt(columns)


def _carries_error(x: Tensor) -> bool:
    return x.is_floating_point() and x.dim() > 1


def _home(module: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for parameter in [*module.parameters(), *model.parameters()]:
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


def _buffer_name(index: int) -> str:
    return f"direct_feedback_{index}" if index else "direct_feedback"

"""One pass of a model in which every layer's inputs and outputs are kept, with their graph.

A layer's error at its input is what the layer itself sends back, not the sum over all users of the tensor
that it reads: in a residual block these differ. So each layer gets a copy of its input, and the gradient of
that copy is the layer's own. Its output is kept and a copy handed on: an in-place ReLU then changes the copy.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from alignonce.diagnostics._measuring import Batch, Loss, loss_on
from alignonce.layers import FeedbackLayer, feedback_name, forward_weight_names

_DATA_ARGUMENTS = ("input", "input1", "input2", "query", "key", "value", "hx")


@dataclass
class LayerCall:
    """One call of one layer."""

    name: str
    layer: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    """The outputs with a graph: several for recurrent layers, and attention that returns its weights."""

    @property
    def data(self) -> list[Tensor]:
        """The arguments that an error goes back to; the same tensor several times in self-attention."""
        tensors: list[Tensor] = []

        def collect(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor

        _map_data(collect, self.layer, self.args, self.kwargs)
        return tensors

    @property
    def inputs(self) -> list[Tensor]:
        """The data arguments, each tensor once."""
        return list({id(tensor): tensor for tensor in self.data}.values())


@dataclass(frozen=True)
class Recording:
    """The loss of a pass and the calls that led to it, from input to output."""

    loss: Tensor
    calls: list[LayerCall]

    def gradients(self, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of the loss, in one backward pass; None for tensors that it does not depend on."""
        if not tensors:
            return []
        return list(torch.autograd.grad(self.loss, tensors, retain_graph=True, allow_unused=True))

    def input_errors(self) -> dict[str, list[Tensor]]:
        """What each layer sends back, by its name, from input to output; without layers outside the loss."""
        inputs = [(call.name, tensor) for call in self.calls for tensor in call.inputs]
        errors: dict[str, list[Tensor]] = defaultdict(list)
        found = self.gradients([tensor for _, tensor in inputs])
        for (name, _), error in zip(inputs, found, strict=True):
            if error is not None:
                errors[name].append(error)
        return dict(errors)


def record(model: nn.Module, batch: Batch, loss: Loss) -> Recording:
    """Run a model on a batch and keep each call of each layer that has forward weights.

    Raises:
        ValueError: if the loss is no finite scalar, or depends on no weight and no layer input.
    """
    names = {m: name for name, m in model.named_modules() if any(True for _ in forward_weight_names(m))}
    begun: dict[nn.Module, list[LayerCall]] = defaultdict(list)
    calls: list[LayerCall] = []

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        copies: dict[int, Tensor] = {}

        def copy(tensor: Tensor) -> Tensor:
            # One copy for one tensor: self-attention is recognised by its three inputs being one.
            if id(tensor) not in copies:
                copies[id(tensor)] = tensor.clone() if tensor.requires_grad else _leaf(tensor)
            return copies[id(tensor)]

        args, kwargs = _map_data(copy, layer, args, kwargs)
        begun[layer].append(LayerCall(names[layer], layer, args, kwargs))
        return args, kwargs

    def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        calls.append(begun[layer].pop())
        calls[-1].outputs.extend(_with_graph(output))
        # Contiguous: dropout draws in the order of memory, which may differ between a rule's attention and
        # PyTorch's, so that two passes with the same random state would drop different elements.
        return tree_map_only(Tensor, lambda t: t.clone(memory_format=torch.contiguous_format), output)

    handles = []
    try:
        for layer in names:
            # Ours come first on both sides: direct feedback's hooks cut the input off and give the output's
            # error to what came in, and that is the error to be measured.
            handles.append(layer.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            handles.append(layer.register_forward_hook(after, prepend=True))
        value = loss_on(model, batch, loss)
    finally:
        for handle in handles:
            handle.remove()
    if not value.requires_grad:
        raise ValueError("the loss depends on no weight and no layer input: there is no gradient to measure")
    return Recording(value, calls)


def send_back(
    call: LayerCall, errors: list[Tensor], through_forward_weight: bool, create_graph: bool = False
) -> list[Tensor]:
    """What one layer, alone, makes of errors at its outputs: one signal for each data argument.

    Args:
        call: the call to repeat, on the inputs that it had.
        errors: for each of ``call.outputs``, of its shape.
        through_forward_weight: carry them back with W in B's place. All else stays the same: of attention
            only the input projections change, of a plain layer nothing does.
        create_graph: make the signals differentiable with respect to the errors.
    """
    data: list[Tensor] = []

    def fresh(tensor: Tensor) -> Tensor:
        data.append(_leaf(tensor))
        return data[-1]

    args, kwargs = _map_data(fresh, call.layer, call.args, call.kwargs)
    with _feedback_view(call.layer, through_forward_weight):
        # forward, not __call__: the caller's hooks have seen this call already.
        outputs = _with_graph(call.layer.forward(*args, **kwargs))
        return list(
            torch.autograd.grad(
                outputs, data, errors,
                create_graph=create_graph, allow_unused=True, materialize_grads=True,
            )
        )  # fmt: skip


@contextmanager
def _feedback_view(layer: nn.Module, through_forward_weight: bool) -> Iterator[None]:
    """Let a layer carry errors back through B (also inside ``exact_gradients``), or through a B that is W."""
    if not isinstance(layer, FeedbackLayer):
        yield
        return
    exact = layer.exact
    names = list(forward_weight_names(layer))
    feedback = {name: layer._buffers.get(feedback_name(name)) for name in names}  # none: compressed
    layer.exact = False
    try:
        if through_forward_weight:
            for name in names:
                # a buffer comes before a module of its name, as which compressed feedback weights are held
                layer._buffers[feedback_name(name)] = getattr(layer, name).detach()
        yield
    finally:
        layer.exact = exact
        for name in names:
            layer._buffers.pop(feedback_name(name), None)
            if feedback[name] is not None:
                layer._buffers[feedback_name(name)] = feedback[name]


def _map_data(
    function: Callable[[Tensor], Tensor], layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Apply a function to each tensor that an error goes back to: inputs and states, not masks or sizes."""
    count = 1
    if isinstance(layer, nn.MultiheadAttention):
        count = 3
    elif isinstance(layer, nn.Bilinear | nn.RNNBase | nn.RNNCellBase):
        count = 2

    def apply(value: Any) -> Any:
        return tree_map_only(Tensor, lambda t: function(t) if t.is_floating_point() else t, value)

    mapped = {key: apply(value) if key in _DATA_ARGUMENTS else value for key, value in kwargs.items()}
    return (*map(apply, args[:count]), *args[count:]), mapped


def _with_graph(output: Any) -> list[Tensor]:
    return [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()

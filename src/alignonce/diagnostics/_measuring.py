"""What every measurement shares: how a model is called on a batch, and that it stays as it was."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from alignonce.layers import forward_weight_names
from alignonce.model_access import call_arguments, unwrap, weight_names

Batch = tuple[Any, Any]
"""(inputs, targets). Inputs are a tensor, a tuple of positional or a mapping of keyword arguments."""
Loss = Callable[[Any, Any], Tensor]
"""(the model's output, targets) to a scalar: the mean over the batch."""


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a model on a batch's inputs."""
    args, kwargs = call_arguments(inputs)
    return model(*args, **kwargs)


def loss_on(model: nn.Module, batch: Batch, loss: Loss) -> Tensor:
    """The loss of a batch, as a scalar tensor with its graph.

    Raises:
        ValueError: if the loss is no finite scalar tensor.
    """
    inputs, targets = batch
    value = loss(call(model, inputs), targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"loss must return a scalar tensor, got {got}")
    if not torch.isfinite(value).all():
        raise ValueError(f"the loss on this batch is {value.item()}: there is nothing to measure")
    return value.reshape(())


def check_model(model: object) -> nn.Module:
    """The model without what torch.compile and DistributedDataParallel put around it.

    Raises:
        TypeError: if it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return unwrap(model)


def check_batch(batch: object) -> Batch:
    """A batch as a pair.

    Raises:
        ValueError: if it is no (inputs, targets) pair or holds no samples.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"a batch must be a pair (inputs, targets), got {_describe(batch)}")
    if batch_size((batch[0], batch[1])) == 0:
        raise ValueError("the batch is empty")
    return batch[0], batch[1]


def check_batches(batches: Iterable[Batch]) -> list[Batch]:
    """All batches, in a list.

    Raises:
        ValueError: if there are none, or one of them is no batch or holds no samples.
    """
    if isinstance(batches, Tensor) or (
        isinstance(batches, tuple | list) and any(isinstance(item, Tensor) for item in batches)
    ):
        raise ValueError("batches must be several (inputs, targets) pairs: put a single one into a list")
    pairs = [check_batch(batch) for batch in batches]
    if not pairs:
        raise ValueError("there are no batches")
    return pairs


def batch_size(batch: Batch) -> int:
    """How many samples a batch holds: the first dimension of its first tensor."""
    inputs = dict(batch[0]) if isinstance(batch[0], Mapping) else batch[0]
    tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    if not tensors or tensors[0].dim() == 0:
        raise ValueError(f"a batch's inputs must hold a tensor with a batch dimension, got {batch[0]!r}")
    return tensors[0].shape[0]


def batch_shares(batches: list[Batch]) -> list[float]:
    """Each batch's share of all samples, so that a short last batch counts for less."""
    sizes = [batch_size(batch) for batch in batches]
    return [size / sum(sizes) for size in sizes]


def learnt_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are not frozen, by name; shared ones once.

    Raises:
        ValueError: if there are none.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient")
    return parameters


def forward_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Iterate over (name, layer, parameter name) of all forward weights, a shared one once.

    The names are those of :func:`alignonce.feedback_weights`; layers need no feedback weights here.
    """
    names = weight_names(model)
    for layer in model.modules():
        for weight_name in forward_weight_names(layer):
            name = names.pop(id(getattr(layer, weight_name)), None)
            if name is not None:
                yield name, layer, weight_name


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    size = f" of length {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{size}"

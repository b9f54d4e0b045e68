"""Learning rules on several processes.

**DistributedDataParallel** keeps a whole model in each process. Feedback weights are the same in all of them
by construction, since they depend on a seed and a name: :func:`keep_feedback_local` has it send none of them.

**FSDP2** (PyTorch's ``fully_shard``) keeps a part of each parameter in each process, and gathers a layer's
weights when the layer runs, twice in a step: in the forward pass, and again in the backward pass. Feedback
weights are buffers, of which it would leave a whole copy in each process. :func:`shard` does better:

- a dense feedback weight, in any precision, is spread as its forward weight is, and gathered in the backward
  pass, where the error is multiplied by it;
- a compressed one stays whole in each process: it is small, and needs no communication at all;
- a layer with a feedback weight does not gather its forward weight again in the backward pass, which never
  reads it;
- a rule that changes B does so with the rows of W and B that a process has, and sends nothing for it but
  three sums, if the rule is soft alignment again and again;
- direct feedback sends nothing either: its random matrices are whole in each process.

So a step communicates as much as under backpropagation with dense feedback weights, and with compressed ones
without one of its three exchanges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alignonce.formats import Dense
from alignonce.formats.compressed import CompressedFeedback
from alignonce.layers.base import FeedbackLayer, feedback_name
from alignonce.layers.kinds import layer_kind
from alignonce.layers.modes import runs_exactly
from alignonce.rules.evolving import EvolvingRule

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["keep_feedback_local", "shard", "unsharded"]


def keep_feedback_local(model: nn.Module) -> None:
    """Let DistributedDataParallel leave feedback weights alone; call it before the model is wrapped.

    Other buffers, such as the statistics of BatchNorm, are still sent.

    Args:
        model: a model under any learning rule, the same in each process.
    """
    names = [
        f"{module_name}.{name}".removeprefix(".")
        for module_name, module in model.named_modules()
        for name in _buffers_of_the_rule(module)
    ]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


def shard(model: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> nn.Module:
    """Spread a model over the processes of a mesh, in place; make its optimiser afterwards.

    Each process must have built the same model under the same learning rule. Each layer with a forward weight
    is gathered on its own; all other parameters belong to the model as a whole.

    Args:
        model: the model, on the mesh's device, under a learning rule or none.
        mesh: of one dimension.
        dtype: what layers' weights are gathered in, where autocast computes in it; None is their own. Shards,
            and sums of gradients, keep their own.

    Returns:
        The same model. Its forward and feedback weights are ``DTensor`` s between forward passes.

    Raises:
        ValueError: if the learning rule changes feedback weights and needs them whole for it.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    _check_rules(model)
    policy = MixedPrecisionPolicy(dtype, reduce_dtype=dtype and torch.float32, cast_forward_inputs=False)
    for layer in _layers_of_their_own(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
        if isinstance(layer, FeedbackLayer):
            layer.register_forward_pre_hook(_gather_backward_only_if_exact)
    fully_shard(model, mesh=mesh)
    _spread_feedback(model, mesh)
    for layer in model.modules():
        if isinstance(layer, FeedbackLayer):
            layer.begin_evolution()  # of the weights as they are now, spread
    return model


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Within the context, each process holds all forward weights of the model whole, as plain tensors.

    Args:
        model: any module; one that was not sharded is left alone. All processes must enter.
    """
    parts: list[Any] = [module for module in model.modules() if hasattr(module, "unshard")]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.set_reshard_after_backward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            # As fully_shard begins: the model's own weights are wanted again at once in the backward pass.
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.set_reshard_after_backward(True, recurse=False)
            part.reshard()


def _buffers_of_the_rule(module: nn.Module) -> Iterator[str]:
    yield from (name for name in module._buffers if name.startswith("direct_feedback"))
    if not isinstance(module, FeedbackLayer):
        return
    for weight_name in module.present_names(module):
        feedback = getattr(module, feedback_name(weight_name))
        if isinstance(feedback, Tensor):
            yield feedback_name(weight_name)
        else:
            yield from (f"{feedback_name(weight_name)}.{name}" for name in feedback._buffers)


def _check_rules(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, FeedbackLayer) and layer.learning_rule.evolves:
            rule = layer.learning_rule
            if not (isinstance(rule, EvolvingRule) and rule.is_rowwise):
                raise ValueError(
                    f"{rule} changes each feedback weight as a whole, of which sharding leaves a process "
                    "some rows only: use DistributedDataParallel"
                )


def _layers_of_their_own(model: nn.Module) -> list[nn.Module]:
    """The outermost layers with forward weights, but for those that share a parameter with another module."""
    users = Counter(
        id(p) for m in model.modules() for p in m._parameters.values() if p is not None
    )  # fmt: skip
    found: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        alone = all(users[id(p)] == 1 for p in module.parameters())
        if module is not model and layer_kind(type(module)) is not None and alone:
            found.append(module)
        else:
            for child in module.children():
                search(child)

    search(model)
    return found


def _gather_backward_only_if_exact(layer: Any, args: Any) -> None:
    # Here and not once for all: with exact gradients it is the forward pass that decides.
    layer.set_unshard_in_backward(runs_exactly(layer))


def _spread_feedback(model: nn.Module, mesh: DeviceMesh) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    spread: dict[int, Tensor] = {}
    for layer in model.modules():
        if not isinstance(layer, FeedbackLayer) or layer.is_norm:
            continue
        for name in layer.present_names(layer):
            holder: nn.Module = layer
            buffer = feedback_name(name)
            feedback = getattr(layer, buffer)
            if isinstance(feedback, CompressedFeedback):
                if not isinstance(feedback.format, Dense):
                    continue  # small
                holder, buffer = feedback, "values"
            whole = holder.get_buffer(buffer)
            if not hasattr(whole, "full_tensor"):
                if id(whole) not in spread:
                    spread[id(whole)] = distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)
                holder._buffers[buffer] = spread[id(whole)]

"""The whole state of a network and its optimiser as plain tensors, whatever processes hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignonce.formats.base import gathered


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Gather the state of a network; all processes that it is spread over must call this.

    Args:
        model: the network.

    Returns:
        Its `state_dict` as whole tensors on the CPU, none sharing memory with another, as safetensors wants.
    """
    return _unshared((name, value) for name, value in model.state_dict().items())


def load_model_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a state back, on as many processes as the network is spread over now.

    Args:
        model: the network.
        state: from `model_state`, in each process.
    """
    targets = model.state_dict()
    model.load_state_dict({name: _spread_like(targets.get(name), value) for name, value in state.items()})


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Gather the state of an optimiser; all processes must call this.

    Args:
        optimizer: any whose state consists of tensors.

    Returns:
        The tensors, named `NUMBER/KEY` by the parameter's number, and the groups with their settings.
    """
    state = optimizer.state_dict()
    tensors = _unshared(
        (f"{number}/{key}", value)
        for number, values in state["state"].items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    )
    return tensors, state["param_groups"]


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Put an optimiser's state back.

    Args:
        optimizer: of the same kind, with the same parameters.
        tensors: from `optimizer_state`.
        groups: likewise.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        number, key = name.split("/")
        parameter = parameters[int(number)]
        target = parameter if value.shape == parameter.shape else None
        state.setdefault(int(number), {})[key] = _spread_like(target, value)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _unshared(items: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    seen: set[int] = set()
    state = {}
    for name, value in items:
        whole = gathered(value.detach()).cpu().contiguous()
        if whole.untyped_storage().data_ptr() in seen or len(whole.untyped_storage()) > whole.nbytes:
            whole = whole.clone()
        seen.add(whole.untyped_storage().data_ptr())
        state[name] = whole
    return state


def _spread_like(target: Any, value: Tensor) -> Tensor:
    if not hasattr(target, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh = target.device_mesh
    return distribute_tensor(value.to(target.device), mesh, target.placements, src_data_rank=None)

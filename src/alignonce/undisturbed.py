"""Running a model without leaving a trace in it, and as its code expects."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

__all__ = ["allowing_requires_grad", "undisturbed"]


@contextmanager
def undisturbed(model: nn.Module, mode: str = "present") -> Iterator[None]:
    """Within the context, gradients are on; after it, random state, modes and buffers are as before.

    Args:
        model: an unwrapped model.
        mode: ``"present"`` leaves train and eval mode as they are, as a training step would find them;
            ``"eval"`` makes the loss a function of the weights alone, as curvature and landscapes need it.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module._buffers, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    with torch.random.fork_rng([d.index for d in devices]), torch.enable_grad():
        try:
            if mode == "eval":
                model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
            for holder, name, buffer, values in buffers:
                # Through .data, so that a graph of the caller's which has saved the buffer stays valid.
                buffer.data.copy_(values)
                holder[name] = buffer


class _AllowingRequiresGrad(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _SET_REQUIRES_GRAD and args[1] and args[0].requires_grad:
            return None
        return func(*args, **(kwargs or {}))


_SET_REQUIRES_GRAD = Tensor.requires_grad.__set__  # type: ignore[attr-defined]


def allowing_requires_grad() -> _AllowingRequiresGrad:
    """A context in which models may set ``requires_grad = True`` on tensors that require gradients already.

    Some do so with what they take for a leaf. Where inputs require gradients it is none, and torch refuses.
    """
    return _AllowingRequiresGrad()

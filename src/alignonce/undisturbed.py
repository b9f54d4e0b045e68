"""Running a model without leaving a trace in it, and as its code expects."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
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
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (models of others draw from it)
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    with torch.random.fork_rng([d.index for d in devices]), torch.enable_grad():
        try:
            if mode == "eval":
                model.eval()
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            for module, training in modes:
                module.training = training
            for holder, name, buffer, values in buffers:
                # Through .data, so that a graph of the caller's which has saved the buffer stays valid.
                buffer.data.copy_(values)
                holder[name] = buffer


class allowing_requires_grad(TorchFunctionMode):
    """Within the context, a model may set ``requires_grad`` of tensors that were computed from its inputs.

    Speech encoders do so. It is allowed only while the inputs require no gradient: where they do, as in an
    audit, such a tensor carries one already, and setting it does nothing.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SETTERS and isinstance(args[0], Tensor) and not args[0].is_leaf:
            return args[0]
        return func(*args, **(kwargs or {}))


_SETTERS = (cast(Any, Tensor.requires_grad).__set__, Tensor.requires_grad_)

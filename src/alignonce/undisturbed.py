"""Running a model without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

__all__ = ["undisturbed"]


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

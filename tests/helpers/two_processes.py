"""Running a function in two processes that know of each other, and counting what they send."""

import os
import socket
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def run_in_two_processes(function: Callable[..., None], *args: Any) -> None:
    """Call ``function(rank, *args)`` in two processes, as torchrun would; raise if one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_process, (port, function, args), nprocs=2)


def _process(rank: int, port: int, function: Callable[..., None], args: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # PyTorch's own, about the speed of 1x1 convolutions in channels_last
        warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
        # Likewise, about attention; nothing here changes its output in place
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
        function(rank, *args)


class Sent(TorchDispatchMode):
    """Counts the bytes that a process receives of the others, by kind of exchange.

    Whatever is gathered comes from the others but for its own part, whatever is reduced goes around a ring.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = str(func)
        kind = next((k for k in ("gather", "scatter", "allreduce", "broadcast") if k in name), None)
        if "c10d" in name and kind is not None:
            tensors = [t for t in tree_leaves((args, output)) if isinstance(t, torch.Tensor)]
            size = max(t.numel() * t.element_size() for t in tensors)  # of all parts together
            received = {"gather": size // 2, "scatter": size // 2, "allreduce": size, "broadcast": size}
            self.bytes[kind] = self.bytes.get(kind, 0) + received[kind]
            self.calls.append((kind, size))
        return output

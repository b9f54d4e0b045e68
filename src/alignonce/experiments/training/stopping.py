"""Stopping a run where it can be resumed: a signal waits for the end of a step.

SIGINT is Ctrl-C. SIGTERM and SIGUSR1 are what batch systems such as Slurm send before the time is over.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

# Windows has no SIGUSR1.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopRequest:
    """Within the context, these signals are remembered; a second one of them is a KeyboardInterrupt.

    Only the main thread receives signals: in others nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # A worker whose parent decides for it has been told to ignore Ctrl-C.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

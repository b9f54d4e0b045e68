"""Measurements of a run in TensorBoard while it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from alignonce.experiments.training.metrics import Measurement, Metrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FOLDER = "tensorboard"


@contextmanager
def live_metrics(run: Path) -> Iterator[Metrics]:
    """Give a run its measurements; where TensorBoard is installed, each is written for it, too.

    What an unfinished run left for TensorBoard in this folder is removed.

    Args:
        run: the folder of the run.

    Yields:
        Measurements, none yet.
    """
    if find_spec("tensorboard") is None:
        yield Metrics()
        return
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(run / _FOLDER, ignore_errors=True)
    with SummaryWriter(str(run / _FOLDER)) as writer:
        yield _LiveMetrics(writer)


class _LiveMetrics(Metrics):
    def __init__(self, writer: SummaryWriter) -> None:
        super().__init__()
        self._writer = writer

    def extend(self, rows: Iterable[Measurement]) -> None:
        rows = list(rows)
        super().extend(rows)
        for row in rows:
            name = "/".join(filter(None, (row.metric, row.layer)))
            self._writer.add_scalar(name, row.value, row.step)

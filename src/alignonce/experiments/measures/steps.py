"""One step of a group of measures, with what to call it while it is running."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from alignonce.experiments.measures.table import Measured


class Step(NamedTuple):
    """`take` measures; `title` is shown meanwhile."""

    title: str
    take: Callable[[], Iterable[Measured]]

"""Measurements during training, as one tidy list of rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any, NamedTuple

from torch import nn

from alignonce.diagnostics._measuring import check_model
from alignonce.undisturbed import undisturbed

__all__ = ["Row", "Tracker", "rows_of"]

Measure = Callable[[nn.Module], Any]


class Row(NamedTuple):
    """One number."""

    step: int
    measure: str
    layer: str
    """Empty for a measure of the whole model."""
    value: float


class Tracker:
    """Takes chosen measures at chosen steps of a training loop.

    Example:
        tracker = Tracker(
            {"alignment": weight_alignment, "gradient": lambda m: compare_gradients(m, batch, loss)},
            steps=100,
        )
        for step in range(1000):
            tracker(step, model)
            ...  # one training step
        tracker.rows

    Args:
        measures: by name, functions of the model that return a number, a mapping from layer to number, a
            result of this package's diagnostics, or a nest of these.
        steps: a number k for each k-th step, 0 included; or the steps themselves.

    Raises:
        ValueError: if there are no measures, or ``steps`` is not positive.
    """

    def __init__(self, measures: Mapping[str, Measure], steps: int | Iterable[int] = 1) -> None:
        if not measures:
            raise ValueError("there are no measures to take")
        if isinstance(steps, int) and steps < 1:
            raise ValueError(f"steps must be positive, got {steps}")
        self.measures = dict(measures)
        self.steps = steps if isinstance(steps, int) else frozenset(steps)
        self.rows: list[Row] = []

    def due(self, step: int) -> bool:
        """Return whether this is a step to measure at.

        Args:
            step: how many updates have been made.

        Returns:
            Whether a call with this step takes measures.
        """
        return step % self.steps == 0 if isinstance(self.steps, int) else step in self.steps

    def __call__(self, step: int, model: nn.Module) -> None:
        """Take all measures, if this is a step to measure at; the model stays as it is.

        Args:
            step: how many updates have been made.
            model: as it is now.

        Raises:
            TypeError: if a measure returns what cannot be written as numbers.
        """
        if not self.due(step):
            return
        for name, measure in self.measures.items():
            with undisturbed(check_model(model)):
                self.rows.extend(rows_of(step, name, measure(model)))


def rows_of(step: int, measure: str, result: Any, layer: str = "") -> Iterator[Row]:
    """Write a result as rows.

    The fields of a dataclass and the positions in a sequence extend the measure's name
    (``gradient.weight.angle_deg``, ``left.0``); the keys of a mapping are the layers. None gives no row.

    Args:
        step: for all rows.
        measure: its name.
        result: a number, or a nest of dataclasses, mappings and sequences of numbers.
        layer: that the result belongs to.

    Yields:
        A row for each number.

    Raises:
        TypeError: if there is anything else in it, such as an array.
    """
    if isinstance(result, Real):
        yield Row(step, measure, layer, float(result))
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from rows_of(step, measure, value, str(key))
    elif is_dataclass(result) and not isinstance(result, type):
        for field in fields(result):
            yield from rows_of(step, f"{measure}.{field.name}", getattr(result, field.name), layer)
    elif isinstance(result, list | tuple):
        for position, value in enumerate(result):
            yield from rows_of(step, f"{measure}.{position}", value, layer)
    elif result is not None:
        raise TypeError(
            f"the measure {measure!r} returned {type(result).__name__}: rows hold numbers only, so let it "
            "return a number, or a mapping from layer to number"
        )

"""Which data a run learnt from, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_OLD_NAMES = {
    "train_images": "train_examples",
    "test_images": "test_examples",
    "image_shape": "example_shape",
    "num_classes": "outputs",
}


class DataFacts(BaseModel):
    """Which data a run learnt from, in numbers.

    An example is an image; a window of text; or a row of a table. Its shape is (channels, height, width);
    of a window (1, 1, tokens); of a row (columns, 1, 1). A network has an output for each class or token of
    the vocabulary, and one for a regression.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    train_examples: int
    test_examples: int
    example_shape: tuple[int, int, int]
    outputs: int

    @model_validator(mode="before")
    @classmethod
    def _of_any_version(cls, values: Any) -> Any:
        return with_present_names(values) if isinstance(values, Mapping) else values

    def same_as(self, other: DataFacts) -> bool:
        """Compare all but the source.

        Args:
            other: the facts of other data.

        Returns:
            Whether they are equal.
        """
        return self.model_copy(update={"source": other.source}) == other


def with_present_names(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the facts of older files, which spoke of images and classes whatever the task.

    Args:
        facts: as a file has them.

    Returns:
        The same under today's names.
    """
    return {_OLD_NAMES.get(name, name): value for name, value in facts.items()}

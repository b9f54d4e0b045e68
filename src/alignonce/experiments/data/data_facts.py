"""Which data a run learnt from, in numbers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from alignonce.experiments.data.image_data import ImageData


class DataFacts(BaseModel):
    """Which data a run learnt from, in numbers.

    The names are those of images, for which there were facts first. Of other tasks, `train_images` and
    `test_images` count examples. Text: windows of `image_shape` (1, 1, tokens), and `num_classes` tokens in
    the vocabulary. Tables: rows of `image_shape` (columns, 1, 1); `num_classes` is 1 for a regression.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    train_images: int
    test_images: int
    image_shape: tuple[int, int, int]
    num_classes: int

    def same_as(self, other: DataFacts) -> bool:
        """Compare all but the source.

        Args:
            other: the facts of other data.

        Returns:
            Whether they are equal.
        """
        return self.model_copy(update={"source": other.source}) == other

    @classmethod
    def of(cls, data: ImageData) -> DataFacts:
        """Describe images.

        Args:
            data: the images.

        Returns:
            Their facts.
        """
        return cls(
            name=data.name,
            source=data.source,
            train_images=len(data.train_labels),
            test_images=len(data.test_labels),
            image_shape=data.image_shape,
            num_classes=data.num_classes,
        )

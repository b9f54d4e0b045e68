"""Image classification."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.data.augmentation import Augmentation, augment
from alignonce.experiments.data.data_facts import DataFacts
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.files import write_atomically
from alignonce.experiments.models import build_run_model
from alignonce.experiments.tasks.evaluation import over_batches
from alignonce.experiments.tasks.scores import ACCURACY, Score
from alignonce.experiments.tasks.task import Forward

PREDICTIONS_FILE = "predictions.npz"
TEST_BATCH = 1000


@dataclass(frozen=True, eq=False)
class ImageClassification:
    """Learning the classes of images; see `Task` for what the methods are."""

    images: ImageData
    augmentation: Augmentation = "none"

    files: ClassVar[tuple[str, ...]] = (PREDICTIONS_FILE,)
    scores: ClassVar[tuple[Score, ...]] = (ACCURACY,)

    @classmethod
    def load(cls, config: TrainingConfig, source: DataSource) -> ImageClassification:
        """Load the images; see `load_data`."""
        return cls(load_data(config.data, source, limit=config.limit))

    @property
    def facts(self) -> DataFacts:
        """The data in numbers: an example is an image."""
        images = self.images
        return DataFacts(
            name=images.name,
            source=images.source,
            train_examples=len(images.train_labels),
            test_examples=len(images.test_labels),
            example_shape=images.image_shape,
            outputs=images.num_classes,
        )

    @property
    def examples(self) -> str:
        """Images."""
        return "images"

    @property
    def train_size(self) -> int:
        """How many training images there are."""
        return len(self.images.train_labels)

    def for_run(self, config: RunConfig, device: torch.device) -> ImageClassification:
        """Move the images and labels, and augment as configured."""
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        moved = {part: getattr(self.images, part).to(device) for part in parts}
        return replace(self, images=replace(self.images, **moved), augmentation=config.augment)

    def build_model(self, config: RunConfig) -> nn.Module:
        """Build the network that the configuration names."""
        data = self.images
        return build_run_model(config, data.image_shape, data.num_classes, data.mean, data.std)

    @classmethod
    def rebuild_model(cls, config: RunConfig, facts: DataFacts) -> nn.Module:
        """Build the network; mean and deviation of the pixels are buffers, which come with its state."""
        channels = facts.example_shape[0]
        return build_run_model(config, facts.example_shape, facts.outputs, [0.0] * channels, [1.0] * channels)

    def batch(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [0, 1], (n, channels, height, width), augmented if so chosen, and labels, (n,)."""
        images = self.images.train_images[examples]
        if self.augmentation != "none":
            # By the global random state, as dropout: a run sets it by its seed, and goes on with it.
            mirror = self.augmentation == "shift-mirror"
            images = augment(images, torch.default_generator, mirror=mirror)
        return as_pixels(images), self.images.train_labels[examples]

    def loss(self, forward: Forward, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats, and how many answers are right."""
        images, labels = batch
        logits = forward(images)
        hits = (logits.detach().argmax(dim=1) == labels).sum()
        return F.cross_entropy(logits, labels), {"accuracy": hits}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean cross-entropy and the fraction of right answers on the test images."""
        loss, accuracy = evaluate(model, self.images.test_images, self.images.test_labels)
        return {"test_loss": loss, "test_accuracy": accuracy}

    @classmethod
    def score(cls, facts: DataFacts) -> Score:
        """Accuracy."""
        return ACCURACY

    def save(self, folder: Path, model: nn.Module) -> None:
        """Write the label and the predicted class of each test image."""
        labels = self.images.test_labels.cpu().numpy()
        predicted = classify(model, self.images.test_images).numpy()
        write_atomically(
            folder / PREDICTIONS_FILE,
            lambda path: np.savez_compressed(path, label=labels, predicted=predicted),
        )


def as_pixels(images: Tensor) -> Tensor:
    """Turn stored images into what the networks take.

    Args:
        images: uint8, any shape.

    Returns:
        The same shape, float32 in [0, 1].
    """
    return images.to(torch.float32).div_(255)


def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, *, at_once: int = TEST_BATCH
) -> tuple[float, float]:
    """Test a network, in evaluation mode; it stays as it was.

    Args:
        model: maps pixels in [0, 1] to logits.
        images: uint8, (n, channels, height, width), on the network's device.
        labels: int64, (n,), likewise.
        at_once: images in a batch.

    Returns:
        Mean cross-entropy in nats, and the fraction of right answers.
    """

    def sums(images: Tensor, labels: Tensor) -> Tensor:
        logits = model(as_pixels(images))
        nats = F.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([nats.double(), (logits.argmax(dim=1) == labels).sum().double()])

    nats, hits = torch.stack(over_batches(model, sums, at_once, images, labels)).sum(dim=0).tolist()
    return nats / len(labels), hits / len(labels)


def classify(model: nn.Module, images: Tensor) -> Tensor:
    """Let a network classify images, in evaluation mode; it stays as it was.

    Args:
        model: maps pixels in [0, 1] to logits.
        images: uint8, (n, channels, height, width), anywhere.

    Returns:
        The classes, int64, (n,), on the CPU.
    """
    device = next(model.parameters()).device

    def classes(images: Tensor) -> Tensor:
        answers: Tensor = model(as_pixels(images.to(device))).argmax(dim=1)
        return answers.cpu()

    return torch.cat(over_batches(model, classes, TEST_BATCH, images))

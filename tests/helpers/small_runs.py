"""Small made data and configurations that the tests of the runs share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.runs.folder import RunFolder, RunRecord
from alignonce.experiments.tasks import ImageClassification
from alignonce.experiments.training.loop import TrainingResult, train
from alignonce.experiments.training.metrics import Measurement, Metrics


def made_data(*args: Any, **kwargs: Any) -> ImageClassification:
    """The task of `made_images`."""
    return ImageClassification(made_images(*args, **kwargs))


def made_images(
    train_size: int = 200, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 4
) -> ImageData:
    """Noisy copies of one random picture per class: easy, and never quite the same twice."""
    rng = np.random.default_rng(7)
    pictures = rng.integers(0, 200, (classes, *shape))

    def part(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = np.arange(size) % classes
        images = pictures[labels] + rng.integers(0, 56, (size, *shape))
        return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)

    return ImageData("made", "made up", *part(train_size), *part(60), tuple("abcd"[:classes]))


@dataclass(frozen=True, eq=False)
class WatchedTask(ImageClassification):
    """Shows each network when it is built, and the images of each batch that it learns; both may raise."""

    on_model: Callable[[RunConfig, nn.Module], None] = lambda config, model: None
    on_batch: Callable[[Tensor], None] = lambda images: None

    def build_model(self, config: RunConfig) -> nn.Module:
        model = super().build_model(config)
        self.on_model(config, model)
        return model

    def loss(self, forward: Any, batch: tuple[Tensor, Tensor]) -> Any:
        self.on_batch(batch[0])
        return super().loss(forward, batch)


def small_config(**changes: Any) -> RunConfig:
    defaults = {"data": "made", "depth": 2, "width": 16, "epochs": 2, "batch_size": 32, "learning_rate": 1e-3}
    return RunConfig(**(defaults | {"device": "cpu"} | changes))


def save_small_run(folder: Path, **changes: Any) -> RunRecord:
    data, config = made_data(), small_config(**changes)
    return RunFolder(folder).save(config, data, train(config, data))


def without_time(metrics: Metrics) -> list[Measurement]:
    return [row for row in metrics if row.metric != "seconds"]


def made_result(task: ImageClassification, config: RunConfig, accuracy: float) -> TrainingResult:
    """A finished run whose numbers are made up."""
    model = task.build_model(config)
    rows = [Measurement(step, step / 7, "test_accuracy", "", accuracy * step / 14) for step in range(15)]
    if config.rule != "bp":
        for layer in ("first", "second", "third"):
            rows += [
                Measurement(step, step / 7, "angle_deg", layer, 90 - 2 * step / math.e) for step in range(15)
            ]
    return TrainingResult("done", 14, 14, 1.0, "cpu", Metrics(rows), model)

"""Tables: predicting a number (regression) or a class from a row of numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.data.data_facts import DataFacts
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.data.tables import TableData, load_table
from alignonce.experiments.models.building import build_run_model
from alignonce.experiments.tasks.evaluation import over_batches
from alignonce.experiments.tasks.scores import ACCURACY, VARIANCE_EXPLAINED, Score
from alignonce.experiments.tasks.task import Forward


@dataclass(frozen=True, eq=False)
class Tabular:
    """Learning a table; see `Task` for what the methods are.

    To the network a row is an image of one pixel, with a channel for each column. A regression's loss is the
    mean squared error of the standardised target, so that predicting the mean costs 1 on the training rows.
    """

    data: TableData

    files: ClassVar[tuple[str, ...]] = ()
    scores: ClassVar[tuple[Score, ...]] = (ACCURACY, VARIANCE_EXPLAINED)

    @classmethod
    def load(cls, config: TrainingConfig, source: DataSource) -> Tabular:
        """Load the table, which comes with scikit-learn."""
        return cls(load_table(config.data, limit=config.limit))

    @property
    def facts(self) -> DataFacts:
        """The data in numbers: an example is a row."""
        data = self.data
        return DataFacts(
            name=data.name,
            source=data.source,
            train_examples=len(data.train_inputs),
            test_examples=len(data.test_inputs),
            example_shape=self._shape,
            outputs=max(1, len(data.classes)),
        )

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.data.train_inputs.shape[1], 1, 1

    @property
    def images(self) -> None:
        """None: there are no images."""

    @property
    def examples(self) -> str:
        """Rows."""
        return "rows"

    @property
    def train_size(self) -> int:
        """How many training rows there are."""
        return len(self.data.train_inputs)

    def for_run(self, config: RunConfig, device: torch.device) -> Tabular:
        """Move the rows."""
        parts = ("train_inputs", "train_targets", "test_inputs", "test_targets")
        return Tabular(replace(self.data, **{part: getattr(self.data, part).to(device) for part in parts}))

    def build_model(self, config: RunConfig) -> nn.Module:
        """Build the perceptron that the configuration describes; its first part standardises the columns."""
        rows = self.data.train_inputs
        return build_run_model(
            config, self._shape, self.facts.outputs, rows.mean(dim=0), rows.std(dim=0, correction=0)
        )

    @classmethod
    def rebuild_model(cls, config: RunConfig, facts: DataFacts) -> nn.Module:
        """Build the perceptron; what standardises the columns comes with its state."""
        columns = facts.example_shape[0]
        return build_run_model(config, facts.example_shape, facts.outputs, [0.0] * columns, [1.0] * columns)

    def batch(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, (n, columns, 1, 1), and targets, (n,)."""
        return _as_pixels(self.data.train_inputs[examples]), self.data.train_targets[examples]

    def loss(self, forward: Forward, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error; for classes, mean cross-entropy in nats, and how many answers are right."""
        rows, targets = batch
        outputs = forward(rows)
        if not self.data.classes:
            return F.mse_loss(outputs.squeeze(1), targets), {}
        hits = (outputs.detach().argmax(dim=1) == targets).sum()
        return F.cross_entropy(outputs, targets), {"accuracy": hits}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The loss on the test rows; and the fraction of right answers, or the part of variance explained."""
        rows, targets = self.data.test_inputs, self.data.test_targets
        # All rows at once: they are few.
        ((loss, scores),) = over_batches(
            model, lambda *batch: self.loss(model, batch), len(rows), _as_pixels(rows), targets
        )
        measured = {"test_loss": float(loss)}
        if self.data.classes:
            return measured | {"test_accuracy": int(scores["accuracy"]) / len(targets)}
        return measured | {"test_r2": 1 - float(loss / targets.var(correction=0))}

    @classmethod
    def score(cls, facts: DataFacts) -> Score:
        """Accuracy; of a regression the part of the variance that is explained."""
        return VARIANCE_EXPLAINED if facts.outputs == 1 else ACCURACY

    def save(self, folder: Path, model: nn.Module) -> None:
        """There is nothing to write beside the network."""


def _as_pixels(rows: Tensor) -> Tensor:
    return rows[:, :, None, None]

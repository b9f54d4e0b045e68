"""What all else needs to know of a task, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.data.data_facts import DataFacts
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.tasks.scores import Score

Forward = Callable[..., Any]
"""The network as the loop calls it: compiled, in mixed precision or spread over processes, if so asked."""


class Task(Protocol):
    """A network, what it learns from, and how well it does.

    The training examples are numbered from 0; the loop draws numbers, and the task makes batches of them. So
    the order of the examples is the loop's affair: the same for each learning rule, and the same again when a
    run is resumed or spread over several processes.
    """

    files: ClassVar[tuple[str, ...]]
    """Names of the files that `save` writes."""
    scores: ClassVar[tuple[Score, ...]]
    """What runs may be compared by: `score` chooses one."""

    @classmethod
    def load(cls, config: TrainingConfig, source: DataSource) -> Self:
        """Load the data that a configuration names.

        Args:
            config: names them.
            source: where data come from.

        Returns:
            The task, with its data on the CPU.

        Raises:
            ValueError: the name leads nowhere, or to what is not usable.
            DataUnavailable: the data are unavailable.
        """

    @property
    def facts(self) -> DataFacts:
        """The data in numbers: with the configuration, enough to build the network again."""

    @property
    def examples(self) -> str:
        """What an example is called, in the plural."""

    @property
    def images(self) -> ImageData | None:
        """The images, for what can be measured on images only; None where there are none."""

    @property
    def train_size(self) -> int:
        """How many training examples there are; an epoch sees each once."""

    def for_run(self, config: RunConfig, device: torch.device) -> Self:
        """Prepare for a run, after `build_model`.

        Args:
            config: the run: of what a batch is made of, only augmentation depends on it.
            device: where the data go.

        Returns:
            The task as this run uses it.
        """

    def build_model(self, config: RunConfig) -> nn.Module:
        """Build the network under its learning rule, as both are before the first step.

        Args:
            config: the run.

        Returns:
            The network, on the CPU, in training mode; a function of the configuration and the data alone.
        """

    @classmethod
    def rebuild_model(cls, config: RunConfig, facts: DataFacts) -> nn.Module:
        """Build the network of a saved run, for its state to be loaded into; the data are not at hand.

        Args:
            config: the run.
            facts: about the data that it learnt from.

        Returns:
            The network, on the CPU, in training mode.
        """

    def batch(self, examples: Tensor) -> Any:
        """Make a batch.

        Args:
            examples: int64, (n,), numbers of training examples, on the task's device.

        Returns:
            What `loss` takes.
        """

    def loss(self, forward: Forward, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Run the network on a batch.

        Args:
            forward: the network.
            batch: from `batch`.

        Returns:
            The mean loss of the examples, a scalar; and by name, scores that are to be averaged over an
            epoch's examples, each as its sum over the batch, without gradients: `accuracy` is written down as
            `train_accuracy`.
        """

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Test the network, in evaluation mode; it stays as it was.

        Args:
            model: the network.

        Returns:
            Measurements by name, `test_loss` and that of the score among them.
        """

    @classmethod
    def score(cls, facts: DataFacts) -> Score:
        """Choose the one number that runs are compared by.

        Args:
            facts: about the data.

        Returns:
            One of `scores`.
        """

    def save(self, folder: Path, model: nn.Module) -> None:
        """Write what, besides its weights, is worth keeping of a trained network: `files`.

        Args:
            folder: of the run.
            model: the trained network.
        """

"""What the training loop needs to know of a task, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.data_facts import DataFacts

Forward = Callable[..., Any]
"""The network as the loop calls it: compiled, in mixed precision or spread over processes, if so asked."""


class Task(Protocol):
    """A network and what it learns from.

    The training examples are numbered from 0; the loop draws numbers, and the task makes batches of them. So
    the order of the examples is the loop's affair: the same for each learning rule, and the same again when a
    run is resumed or spread over several processes.
    """

    @property
    def train_size(self) -> int:
        """How many training examples there are; an epoch sees each once."""

    def to(self, device: torch.device) -> Task:
        """Move the data; called after `build_model`.

        Args:
            device: where to.

        Returns:
            The task with its data there.
        """

    def build_model(self, config: RunConfig) -> nn.Module:
        """Build the network under its learning rule, as both are before the first step.

        Args:
            config: the run.

        Returns:
            The network, on the CPU, in training mode; a function of the configuration and the data alone.
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
            Measurements by name, `test_loss` among them.
        """


class SavedTask(Task, Protocol):
    """A task whose runs can be saved in folders."""

    @property
    def facts(self) -> DataFacts:
        """What is learnt from, in numbers: with the configuration, enough to build the network again."""

    def save_beside(self, folder: Path) -> None:
        """Write what, besides its weights, is needed to use a trained network.

        Args:
            folder: of the run.
        """

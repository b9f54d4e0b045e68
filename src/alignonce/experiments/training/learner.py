"""What the training loop needs to know of that which learns, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from alignonce.experiments.training.resuming import ResumePoint


class Measured(NamedTuple):
    """A network as it is now: what its task tests, by name, and cosine(W, B) by layer."""

    tests: Mapping[str, float]
    cosines: Mapping[str, float]


class Learner(Protocol):
    """The networks of one or more runs, which learn step by step; each run has a network of its own.

    The first dimension of tensors counts the runs; a run by itself has no such dimension.
    """

    def step(self, examples: Tensor, rate: float, number: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Make one step of training.

        Args:
            examples: int64, (runs, n) or (n,), the numbers of each run's examples.
            rate: the learning rate.
            number: of the step, from 1.

        Returns:
            Of each run, (runs,) or (): a process's share in the mean loss before the step; and by name, sums
            of scores over the examples.
        """

    def measure(self) -> list[Measured]:
        """Measure the networks as they are now.

        Returns:
            Of each run, what was measured.
        """

    def network(self, run: int) -> nn.Module:
        """Take out a network; all processes must call this.

        Args:
            run: whose.

        Returns:
            The network, with the values of now.
        """

    def state(self, run: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Copy all that changes while a run goes on; all processes must call this.

        Args:
            run: whose.

        Returns:
            Tensors of the network, the optimiser and the random states; and the optimiser's settings.
        """

    def load(self, points: Sequence[ResumePoint]) -> None:
        """Go on from what `state` returned; all processes must call this.

        Args:
            points: one for each run.

        Raises:
            ValueError: the number of processes is another, and what is learnt depends on it.
        """

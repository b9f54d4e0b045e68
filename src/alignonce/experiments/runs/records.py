"""What is written down about a run besides its measurements: how it ended, on which data, with what."""

from __future__ import annotations

import math
import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

import alignonce
from alignonce.experiments.data.data_facts import DataFacts
from alignonce.experiments.tasks import Task
from alignonce.experiments.tasks.scores import ACCURACY, Score
from alignonce.experiments.training.loop import Status, TrainingResult
from alignonce.experiments.training.metrics import Metrics

VERSION = 2
"""Of summary.json as it is written now."""


class Summary(BaseModel):
    """How a run ended. Scores, losses and the angle are the newest measured; None: none, or not finite.

    `mean_angle_deg` is the mean over the layers whose feedback weight carries an error back, so over all but
    the first: no error is sent on to the pixels. What tasks without classes are scored by has a field of its
    own, named as it is measured: `test_bits_per_byte`, `test_r2`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    status: Status
    step: int
    total_steps: int
    seconds: float
    test_accuracy: float | None
    test_loss: float | None
    train_accuracy: float | None
    train_loss: float | None
    mean_angle_deg: float | None
    parameters: int
    data: DataFacts
    version: int = 1
    """Of the file. In files of version 1, the data are described as images whatever the task."""

    def value(self, score: Score) -> float | None:
        """Read a score.

        Args:
            score: that of the run's task.

        Returns:
            Its final value, as measured.
        """
        value: float | None = getattr(self, score.metric, None)
        return value


class Environment(BaseModel):
    """What a run was computed with."""

    model_config = ConfigDict(frozen=True)

    time: str
    device: str
    alignonce: str
    python: str
    torch: str
    numpy: str
    platform: str
    cpu: str
    threads: int


def summarise(task: Task, result: TrainingResult) -> Summary:
    """Draw the final numbers of a run from its measurements.

    Args:
        task: what the run learnt.
        result: what came out of it.

    Returns:
        The summary.
    """
    metrics, facts = result.metrics, task.facts

    def last(metric: str, layer: str = "") -> float | None:
        value = metrics.last(metric, layer)
        return value if value is not None and math.isfinite(value) else None

    angles = [last("angle_deg", layer) for layer in error_carrying_layers(metrics)]
    known = [angle for angle in angles if angle is not None]
    return Summary(
        version=VERSION,
        status=result.status,
        step=result.step,
        total_steps=result.total_steps,
        seconds=result.seconds,
        test_loss=last("test_loss"),
        train_accuracy=last("train_accuracy"),
        train_loss=last("train_loss"),
        mean_angle_deg=sum(known) / len(known) if known else None,
        parameters=sum(weight.numel() for weight in result.model.parameters()),
        data=facts,
        **{metric: last(metric) for metric in (ACCURACY.metric, task.score(facts).metric)},
    )


def error_carrying_layers(metrics: Metrics) -> list[str]:
    """Name the layers whose feedback weight is used: all with one but the first, which would feed the pixels.

    Args:
        metrics: measurements of a run of this package's networks.

    Returns:
        The layers, from input to output.
    """
    return metrics.layers("angle_deg")[1:]


def describe_environment(device: str) -> Environment:
    """Describe the software and the machine.

    Args:
        device: the name of what computes.

    Returns:
        The description.
    """
    return Environment(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        alignonce=alignonce.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        platform=platform.platform(),
        cpu=_cpu_name(),
        threads=torch.get_num_threads(),
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

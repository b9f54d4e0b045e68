"""The score of a run: the one number that runs of its task are compared by."""

from __future__ import annotations

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.runs.folder import RunRecord
from alignonce.experiments.runs.records import Summary
from alignonce.experiments.tasks import TASKS
from alignonce.experiments.tasks.scores import ACCURACY, Score

__all__ = ["ACCURACY", "SCORES", "Score", "final_score", "score_of"]

SCORES = tuple(dict.fromkeys(score for task in TASKS.values() for score in task.scores))
"""Of all tasks."""


def score_of(run: RunRecord) -> Score:
    """Name the score of a run.

    Args:
        run: the run.

    Returns:
        That of its task.
    """
    return TASKS[run.config.task].score(run.summary.data)


def final_score(config: RunConfig, summary: Summary) -> tuple[Score, float | None]:
    """Read the score of a run from its summary.

    Args:
        config: the run.
        summary: how it ended.

    Returns:
        The score, and its final value in the score's unit; None if there is none.
    """
    score = TASKS[config.task].score(summary.data)
    value = summary.value(score)
    return score, None if value is None else score.factor * value

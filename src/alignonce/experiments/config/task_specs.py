"""What a configuration needs to know of each task: its words, its networks, its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from alignonce.experiments.config.network import ModelName
from alignonce.experiments.data.known import KNOWN_DATA

TaskName = Literal["images", "lm", "tabular"]


@dataclass(frozen=True)
class TaskSpec:
    """A task, as configurations see it.

    Attributes:
        title: What is learnt.
        data: What the setting `data` may be.
        examples: What an example is called, in the plural.
        models: The networks that learn it.
        defaults: What stands where a configuration leaves a setting out, if not what stands for images.
    """

    title: str
    data: str
    examples: str
    models: tuple[ModelName, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)


TASK_SPECS: Mapping[TaskName, TaskSpec] = MappingProxyType({
    "images": TaskSpec(
        "image classification",
        f"{', '.join(KNOWN_DATA)}, hub:OWNER/NAME, or the path of a folder or .npz file",
        "images",
        ("mlp", "resnet", "vgg", "resnet18", "vit", "lstm"),
    ),
    "lm": TaskSpec(
        "language modelling",
        "python-stdlib, hub:OWNER/NAME, or the path of a text file or a folder",
        "windows of text",
        ("gpt",),
        {
            "model": "gpt", "data": "python-stdlib", "limit": 4800, "epochs": 1, "batch_size": 8,
            "learning_rate": 2e-3, "warmup": 0.1, "rule": "soft-kp:0.9",
            "rules": (
                "bp", "fa", "dfa", "soft:0.5", "soft:1", "periodic:100", "soft-mirror:1", "soft-kp:0.9",
            ),
        },
    ),
    "tabular": TaskSpec(
        "regression or classification of the rows of a table",
        "diabetes (a number), breast-cancer or wine (classes)",
        "rows",
        ("mlp",),
        {
            "data": "diabetes", "depth": 2, "width": 64, "epochs": 100, "batch_size": 32,
            "learning_rate": 1e-3,
        },
    ),
})  # fmt: skip


def spec_of(task: object) -> TaskSpec | None:
    """Find a task by a name that may be wrong.

    Args:
        task: the name, or whatever stands in its place.

    Returns:
        The task; None if there is none of this name.
    """
    return next((spec for name, spec in TASK_SPECS.items() if name == task), None)

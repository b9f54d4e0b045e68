"""Training many small runs at once: those that share a shape learn in one program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignonce.experiments.config.rule_specs import parse_rule
from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.tasks import Task
from alignonce.experiments.tasks.images import as_pixels
from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.learner import Measured
from alignonce.experiments.training.loop import (
    STEPS_PER_CHECK,
    Progress,
    TrainingResult,
    build_optimizer,
    train_runs,
)
from alignonce.experiments.training.metrics import Metrics
from alignonce.experiments.training.resuming import ResumePoint, ResumePoints, under
from alignonce.experiments.training.stacked import CALLS_BEFORE_TRACING, StackedNetworks
from alignonce.experiments.training.state import (
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)

# Test images times networks that are computed at once, so that testing takes no more memory than training.
_TESTED_AT_ONCE = 10_000

# What the loop below knows to do. A run that asks for anything else trains by itself.
_NETWORKS = ("mlp", "resnet")
_KNOWN_SETTINGS = {
    "model", "depth", "width", "init", "shortcuts", "hidden_norm", "norms", "data", "limit", "epochs",
    "batch_size", "optimizer", "learning_rate", "momentum", "weight_decay", "feedback_scale", "device",
    "checkpoints", "schedule", "warmup", "clip", "augment",
}  # fmt: skip


class Group(NamedTuple):
    """Runs that train together, as positions in a list; or one, and the reason why it trains alone."""

    runs: tuple[int, ...]
    alone: str = ""


def groups_of(configs: Sequence[RunConfig], at_most: int = 32) -> list[Group]:
    """Find out which runs can train together.

    Runs of a group differ in their seeds and learning rules only. Backpropagation and direct feedback, whose
    networks are made otherwise, form groups of their own.

    Args:
        configs: the runs.
        at_most: runs in a group, which all have to fit the memory at once.

    Returns:
        The groups, by their first runs; each run is in one of them.

    Raises:
        ValueError: `at_most` is below 1.
    """
    if at_most < 1:
        raise ValueError(f"at_most must be 1 or more, got {at_most}")
    shapes: dict[str, list[int]] = {}
    groups: list[Group] = []
    for index, config in enumerate(configs):
        if obstacle := _obstacle(config):
            groups.append(Group((index,), obstacle))
        else:
            shapes.setdefault(_shape(config), []).append(index)
    for alike in shapes.values():
        parts = [alike[first : first + at_most] for first in range(0, len(alike), at_most)]
        groups += [
            Group(tuple(part), "" if len(part) > 1 else "there is no other run of its shape")
            for part in parts
        ]
    return sorted(groups)


def train_together(
    configs: Sequence[RunConfig],
    task: Task,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    *,
    on_checkpoint: Callable[[int, int, nn.Module], None] = lambda run, step, network: None,
    metrics: Sequence[Metrics] | None = None,
    resume: Sequence[ResumePoints] | None = None,
    steps_per_check: int = STEPS_PER_CHECK,
    calls_before_tracing: int = CALLS_BEFORE_TRACING,
) -> list[TrainingResult]:
    """Train the runs of a group at once, each to the result that `train` gives, up to rounding.

    Each run has the forward weights, the feedback weights and the batches of its own seed. A run that
    diverges ends there, and the others go on. Signals end all of them as `interrupted`, as in `train`. The
    clock is common: `seconds` of each run are those of all of them.

    Args:
        configs: the runs, of one of the groups of `groups_of`.
        task: what is to be learnt; of images.
        on_progress: called every few steps, with the mean test accuracy of the runs that have not diverged.
        on_checkpoint: called with the run's position in `configs`, the step and the network at each
            checkpoint of the configuration.
        metrics: where the measurements of each run go; None makes places for them.
        resume: the resume points of each run: they go on from the newest that all of them have.
        steps_per_check: as in `train`.
        calls_before_tracing: as in `StackedNetworks`.

    Returns:
        The trained networks and their measurements, in the order of `configs`.

    Raises:
        ValueError: the runs cannot train together.
    """
    _check_group(configs)
    shared = configs[0]
    engine = Engine(shared)
    if task.images is None:
        raise ValueError(f"stacked training supports task images, not {shared.task}")
    return train_runs(
        Stack(configs, task, engine, calls_before_tracing), configs, task.train_size, engine, on_progress,
        on_checkpoint=on_checkpoint,
        metrics=[Metrics() for _ in configs] if metrics is None else metrics,
        resume=resume,
        steps_per_check=steps_per_check,
    )  # fmt: skip


class Stack:
    """The networks of a group's runs, stacked, and one optimiser; see `Learner` for what the methods are.

    Args:
        configs: the runs.
        task: what is to be learnt.
        engine: what to compute with.
        calls_before_tracing: as in `StackedNetworks`.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        task: Task,
        engine: Engine,
        calls_before_tracing: int = CALLS_BEFORE_TRACING,
    ) -> None:
        self._clip, self._augments = configs[0].clip, configs[0].augment != "none"
        self._models = [task.build_model(config).to(engine.device) for config in configs]
        self._task = task.for_run(configs[0], engine.device)
        self._networks = StackedNetworks(self._models, task.loss, calls_before_tracing)
        # Adam, AdamW and SGD treat each number by itself, so that one of them serves all runs.
        self._optimizer = build_optimizer(self._networks.weights, configs[0])
        self._noise = [torch.Generator().manual_seed(derived_seed(c.seed, "noise/0")) for c in configs]

    def step(self, examples: Tensor, rate: float, number: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Make one step of training."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        losses, scores = self._networks.learn(self._batch(examples.view(len(self._models), -1)))
        if self._clip is not None:
            self._networks.clip(self._clip)
        self._optimizer.step()
        return losses, scores

    def _batch(self, examples: Tensor) -> tuple[Tensor, ...]:
        """The batches of all runs, stacked; what is random in each is that of its own run."""
        if not self._augments:
            return self._task.batch(examples)
        batches = []
        for generator, own in zip(self._noise, examples, strict=True):
            torch.default_generator.set_state(generator.get_state())
            batches.append(self._task.batch(own))
            generator.set_state(torch.default_generator.get_state())
        return tuple(torch.stack(parts) for parts in zip(*batches, strict=True))

    def measure(self) -> list[Measured]:
        """Test the networks, and measure their alignment."""
        tests, cosines = self._test(), self._networks.cosines()
        return [
            Measured(own, {layer: values[i] for layer, values in cosines.items()})
            for i, own in enumerate(tests)
        ]

    def _test(self) -> list[dict[str, float]]:
        """Mean cross-entropy of each network on the test images, and its fraction of right answers."""
        data = self._task.images
        assert data is not None  # for the type checker: train_together has looked
        images, labels = data.test_images, data.test_labels
        count = len(self._models)
        loss = torch.zeros(count, dtype=torch.float64, device=labels.device)
        hits = torch.zeros(count, dtype=torch.int64, device=labels.device)
        size = max(1, _TESTED_AT_ONCE // count)
        for some_images, some_labels in zip(images.split(size), labels.split(size), strict=True):
            means, scores = self._networks.test((as_pixels(some_images), some_labels))
            loss += means.double() * len(some_labels)
            hits += scores["accuracy"]
        size = len(labels)
        return [
            {"test_loss": own_loss, "test_accuracy": right / size}
            for own_loss, right in zip((loss / size).tolist(), hits.tolist(), strict=True)
        ]

    def network(self, run: int) -> nn.Module:
        """Take a network out of the stack."""
        return self._networks.network(run)

    def state(self, run: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Copy what is the run's, as a run by itself has it."""
        optimizer, groups = optimizer_state(self._optimizer)
        tensors = {f"model/{name}": value for name, value in model_state(self.network(run)).items()}
        for name, value in optimizer.items():
            # A number for all of them is how many steps there were.
            tensors[f"optimizer/{name}"] = value[run].clone() if value.dim() else value
        return tensors | {"random/cpu/0": self._noise[run].get_state()}, groups

    def load(self, points: Sequence[ResumePoint]) -> None:
        """Put the runs' states back into the stack."""
        for run, (model, point) in enumerate(zip(self._models, points, strict=True)):
            load_model_state(model, under("model/", point.tensors))
            self._networks.put_back(run)
            self._noise[run].set_state(point.tensors["random/cpu/0"])
        states = [under("optimizer/", point.tensors) for point in points]
        stacked = {
            name: torch.stack([state[name] for state in states]) if value.dim() else value
            for name, value in states[0].items()
        }
        load_optimizer_state(self._optimizer, stacked, points[0].facts["optimizer"])


def _obstacle(config: RunConfig) -> str:
    """Why a run cannot train with others; empty if it can."""
    if parse_rule(config.rule, 0).evolves:
        return f"the feedback weights of {config.rule} change as it learns"
    if config.model not in _NETWORKS:
        return f"stacked training supports {' and '.join(_NETWORKS)}, not {config.model}"
    unknown = [
        f"{name}={getattr(config, name)}"
        for name, setting in TrainingConfig.model_fields.items()
        if name not in _KNOWN_SETTINGS and getattr(config, name) != setting.default
    ]
    return f"stacked training does not support {', '.join(unknown)}" if unknown else ""


def _shape(config: RunConfig) -> str:
    """What runs must have in common, as text."""
    rule = parse_rule(config.rule, 0)
    # Networks of these two have no feedback weights, or none that belong to forward weights.
    kind = "feedback weights" if rule.has_layer_feedback else config.rule
    return f"{kind}, {config.model_dump_json(exclude={'rule', 'seed'})}"


def _check_group(configs: Sequence[RunConfig]) -> None:
    if not configs:
        raise ValueError("configs must hold at least one run")
    for config in configs:
        if obstacle := _obstacle(config):
            raise ValueError(
                f"run {config.rule}, seed {config.seed}, cannot be trained in a stack: {obstacle}"
            )
    if len({_shape(config) for config in configs}) > 1:
        raise ValueError(
            "configs must differ only in seed and rule, bp and dfa apart from the others: see groups_of"
        )

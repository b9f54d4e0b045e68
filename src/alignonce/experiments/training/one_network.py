"""One network that learns, on one process or several. A step of training is `step`, from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignonce import alignment, evolve
from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.tasks import Task
from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.learner import Measured
from alignonce.experiments.training.randomness import random_states, restore_random_states
from alignonce.experiments.training.resuming import ResumePoint, under
from alignonce.experiments.training.state import (
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)


class OneNetwork:
    """A network, its task and its optimiser; see `Learner` for what the methods are.

    Args:
        config: the run.
        task: what is to be learnt.
        engine: what to compute with.
    """

    def __init__(self, config: RunConfig, task: Task, engine: Engine) -> None:
        self._engine = engine
        self._build = partial(task.build_model, config)
        self._model = self._build()
        self._forward = engine.set_up(self._model)
        self._task = task.for_run(config, engine.device)
        self._plain_optimizer = build_optimizer(self._model, config)
        self._optimizer = engine.set_up_optimizer(self._plain_optimizer)

    def step(self, examples: Tensor, rate: float, number: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Make one step of training."""
        for group in self._plain_optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        losses: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        for part in self._engine.micro_batches(examples):
            loss, scores = self._task.loss(self._forward, self._task.batch(part.examples))
            self._engine.backward(self._forward, loss, part)
            losses.append(part.share_of(loss.detach()))
            for name, score in scores.items():
                counted = score if part.weight else torch.zeros_like(score)
                sums[name] = sums[name] + counted if name in sums else counted
        self._engine.clip(self._forward, self._optimizer)
        self._optimizer.step()
        evolve(self._model, number)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return loss, sums

    def measure(self) -> list[Measured]:
        """Test the network, and measure its alignment."""
        with self._engine.fabric.autocast():
            tests = self._task.evaluate(self._model)
        return [Measured(tests, alignment(self._model))]

    def network(self, run: int) -> nn.Module:
        """Gather the network, if it is spread over processes."""
        return self._engine.whole(self._model, self._build)

    def state(self, run: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Gather network, optimiser and random states."""
        optimizer, groups = optimizer_state(self._optimizer)
        tensors = {f"model/{name}": value for name, value in model_state(self._model).items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizer.items()}
        tensors |= {f"random/{name}": value for name, value in random_states(self._engine).items()}
        return tensors, groups

    def load(self, points: Sequence[ResumePoint]) -> None:
        """Put the state of a point back, perhaps on another number of processes."""
        (point,) = points
        before, now = point.facts["processes"], self._engine.processes
        if before != now and _has_batch_statistics(self._model):
            raise ValueError(
                f"resume: the run was on {before} processes, now there are {now}; "
                "its norm layers take statistics over a process's share of the batch, so that it would "
                f"learn differently: resume with {before} processes"
            )
        load_model_state(self._model, under("model/", point.tensors))
        load_optimizer_state(self._optimizer, under("optimizer/", point.tensors), point.facts["optimizer"])
        restore_random_states(self._engine, under("random/", point.tensors))


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimiser. It sees forward weights only: feedback weights are buffers.

    Args:
        model: the network.
        config: names the optimiser and its settings.

    Returns:
        The optimiser, in its fused form, one call for all weights, where there is one.
    """
    weights, rate, decay = list(model.parameters()), config.learning_rate, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=decay, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)
    # PyTorch has no fused SGD for weights that are spread over processes.
    fused = not any(hasattr(weight, "to_local") for weight in weights)
    return torch.optim.SGD(weights, lr=rate, momentum=config.momentum, weight_decay=decay, fused=fused)


def _has_batch_statistics(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())

"""`alignonce audit`."""

from __future__ import annotations

from typing import Annotated

import tyro
from pydantic import Field, field_validator

from alignonce.cli.common import FOUND_TRANSPORT, FROM_ANYWHERE, OK, Source, data_line, load_data_of
from alignonce.experiments.config.rule_specs import canonical_rule
from alignonce.experiments.config.run import RULE_HELP, RunConfig, TaskConfig


class AuditConfig(TaskConfig):
    """What to audit."""

    rule: str = Field("soft:0.5", description=f"Learning rule: {RULE_HELP}.")
    seed: int = Field(0, ge=0, description="Seed of forward and feedback weights.")

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, spec: str) -> str:
        return canonical_rule(spec)


def audit(config: Annotated[AuditConfig, tyro.conf.arg(name="")], source: Source = FROM_ANYWHERE) -> int:
    """Test whether the backward pass reads forward weights.

    Takes a real batch, overwrites each forward weight between the forward and the backward pass, and lists
    the weights for which that changed a gradient. Exit code 0: none; 1: at least one.

    For example:
      alignonce audit --rule fa
      alignonce audit --rule bp               # backpropagation does transport weights
      alignonce audit --model resnet          # BatchNorm reads its own scale
      alignonce audit --model resnet --norms fixed
      alignonce audit --task lm --rule mirror --norms fixed

    Args:
        config: what to audit.
        source: where data come from.

    Returns:
        The exit code.
    """
    import torch

    from alignonce import audit_weight_transport

    run = RunConfig(**config.model_dump(), limit=config.batch_size)
    task = load_data_of(run, source)
    inputs, targets = task.batch(torch.arange(task.train_size))
    print(data_line(task))
    report = audit_weight_transport(
        task.build_model(run), inputs, lambda outputs: task.loss(lambda _: outputs, (inputs, targets))[0]
    )
    print(report)
    if config.has_norms and config.norms == "exact":
        print(
            "Note: going back, a norm layer multiplies the error by its own scale, one number per channel. "
            "The audit counts that; with --norms fixed the scale's initial value takes its place."
        )
    return OK if report.free_of_transport else FOUND_TRANSPORT

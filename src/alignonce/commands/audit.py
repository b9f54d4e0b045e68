"""`alignonce audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field, field_validator

from alignonce.commands.common import FOUND_TRANSPORT, OK, data_line, load_images
from alignonce.experiments.config import RULE_HELP, RunConfig
from alignonce.experiments.network_config import NetworkConfig
from alignonce.experiments.rule_specs import canonical_rule


class AuditConfig(NetworkConfig):
    """What to audit."""

    rule: str = Field("soft:0.5", description=f"Learning rule: {RULE_HELP}.")
    seed: int = Field(0, ge=0, description="Seed of forward and feedback weights.")
    data: str = Field("fashion-mnist", min_length=1, description="Data set that the batch comes from.")
    batch_size: int = Field(128, ge=1, description="Images in the batch.")

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, spec: str) -> str:
        return canonical_rule(spec)


def audit(
    config: Annotated[AuditConfig, tyro.conf.arg(name="")], cache: Path | None = None, hub: bool = True
) -> int:
    """Find out by experiment whether the backward pass reads forward weights.

    Takes a real batch, spoils each forward weight between the forward and the backward pass, and reports the
    weights that made a difference. Exit code 0: none did; 1: some did.

    For example:
      alignonce audit --rule fa
      alignonce audit --rule bp               # backpropagation does transport weights
      alignonce audit --model resnet          # BatchNorm reads its own scale
      alignonce audit --model resnet --norms fixed

    Args:
        config: what to audit.
        cache: Folder where downloaded data sets are kept.
        hub: Whether a data set that is not on this machine may be downloaded.

    Returns:
        The exit code.
    """
    from torch.nn import functional as F

    from alignonce import audit_weight_transport
    from alignonce.experiments.models import build_run_model
    from alignonce.experiments.training import as_pixels

    data = load_images(config.data, cache, hub, config.batch_size)
    run = RunConfig(**{name: value for name, value in config if name in RunConfig.model_fields})
    model = build_run_model(run, data.image_shape, data.num_classes, data.mean, data.std)
    images, labels = as_pixels(data.train_images), data.train_labels
    print(data_line(data))
    report = audit_weight_transport(model, images, lambda logits: F.cross_entropy(logits, labels))
    print(report)
    if config.has_norms and config.norms == "exact":
        print(
            "Note: a norm layer multiplies the error by its own scale, one number per channel, going back. "
            "The audit counts that; with --norms fixed the scale's initial value takes its place."
        )
    return OK if report.free_of_transport else FOUND_TRANSPORT

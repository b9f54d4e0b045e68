"""The full configuration of a run, and of a comparison of several learning rules."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from alignonce import DirectFeedback
from alignonce.experiments.config.network import NetworkConfig
from alignonce.experiments.config.rule_specs import (
    KNOWN_RULES,
    canonical_rule,
    has_fixed_feedback,
    parse_rule,
)
from alignonce.experiments.config.schedules import Schedule
from alignonce.experiments.config.task_specs import TASK_SPECS, TaskName, spec_of
from alignonce.experiments.data.augmentation import Augmentation

DATA_HELP = f"Data set. {'. '.join(f'{name}: {spec.data}' for name, spec in TASK_SPECS.items())}."
TASK_HELP = ", ".join(f"{name} ({spec.title})" for name, spec in TASK_SPECS.items())
DEFAULT_RULES = ("bp", "fa", "soft:0.25", "soft:0.5", "soft:0.75", "soft:1")
RULE_HELP = ", ".join(f"{kind.usage} ({kind.title})" for kind in KNOWN_RULES.values())
# What decides which data a run learns from.
DATA_FIELDS = frozenset({"task", "data", "limit", "context", "vocabulary"})
# How a run is computed, not what is computed: an unfinished run may go on with others of these.
COMPUTING_FIELDS = frozenset({"device", "compile", "accumulate", "strategy", "devices", "num_nodes"})

# The largest number that all libraries count with.
_MOST = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=_MOST)]
Positive = Annotated[int, Field(ge=1, le=_MOST)]


class TaskConfig(NetworkConfig):
    """What is learnt, and by which network."""

    task: TaskName = Field(
        "images",
        description=f"Task: {TASK_HELP}. Some defaults depend on it.",
    )
    data: str = Field("fashion-mnist", min_length=1, description=DATA_HELP)
    batch_size: Positive = Field(128, description="Examples per batch.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_by_task(cls, values: Any) -> Any:
        """Take what is left out from the task's defaults; the network's own come after."""
        if not isinstance(values, dict):
            return values
        # A task that is unknown, or no text at all, is refused by the field itself.
        spec = spec_of(values.get("task", "images"))
        defaults = {} if spec is None else spec.defaults
        return {name: value for name, value in defaults.items() if name in cls.model_fields} | values

    @model_validator(mode="after")
    def _network_fits_the_task(self) -> Self:
        fitting = TASK_SPECS[self.task].models
        if self.model not in fitting:
            raise ValueError(f"model must be {', '.join(fitting)} with task {self.task}, got {self.model}")
        return self


class TrainingConfig(TaskConfig):
    """Everything about a run but its learning rule and its seed."""

    limit: Positive | None = Field(
        None,
        description="Use at most this many training and test examples each (images, windows of text, rows).",
    )
    augment: Augmentation = Field(
        "none",
        description="Augmentation of training images: none; shift, at random by up to an eighth of their "
        "sides; shift-mirror, half of them mirrored too (not for digits and letters).",
    )
    epochs: Positive = Field(6, description="Passes through the training examples.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Optimiser.")
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False, description="Learning rate.")
    schedule: Schedule = Field(
        "constant", description="Learning rate after warm-up: constant, or cosine decay to just above 0."
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="Warm-up fraction: part of the steps, in which the learning rate rises."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum; sgd only.")
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="Weight decay.")
    feedback_scale: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Factor on the initial feedback weights, for rules that keep them fixed (fa, soft, "
        "sign); bp has none.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device. auto: the GPU if there is one."
    )
    checkpoints: Count = Field(
        0,
        description="Checkpoints to keep, evenly spaced over training, start and end included.",
    )
    compile: bool = Field(
        False,
        description="Compile the network with torch.compile. On a CPU this pays off for convolutions and "
        "transformers in runs of several thousand steps, not for small perceptrons (benchmarks/README.md).",
    )
    precision: Literal["32", "bf16-mixed", "16-mixed"] = Field(
        "32", description="Precision of matrix products: float32, or mixed with bfloat16 or float16."
    )
    accumulate: Positive = Field(
        1,
        description="Micro-batches per step (gradient accumulation); saves memory.",
    )
    clip: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Clip norm: a larger gradient is scaled down to it."
    )
    strategy: Literal["auto", "ddp", "fsdp"] = Field(
        "auto",
        description="How several processes share the work: ddp, each has the whole network; fsdp, each has "
        "a shard of the weights (FSDP2). auto: ddp, if there are several.",
    )
    devices: Positive = Field(1, description="GPUs (or processes on CPUs) per node.")
    num_nodes: Positive = Field(1, description="Nodes.")

    @model_validator(mode="after")
    def _only_images_are_augmented(self) -> Self:
        if self.augment != "none" and self.task != "images":
            raise ValueError(f"augment must be none with task {self.task}, got {self.augment}")
        return self


class RunConfig(TrainingConfig):
    """The full configuration of one run."""

    rule: str = Field("soft:0.5", description=f"Learning rule: {RULE_HELP}.")
    seed: Count = Field(0, description="Seed of forward weights, batches and feedback weights.")

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, spec: str) -> str:
        return canonical_rule(spec)

    @model_validator(mode="after")
    def _feedback_fits_the_rule(self) -> Self:
        if self.format != "dense" and not has_fixed_feedback(self.rule):
            raise ValueError(
                f"format {self.format} is for rules with one fixed feedback weight for each layer, "
                f"such as fa, soft and sign, got rule {self.rule}"
            )
        if self.format != "dense" and self.feedback_scale != 1:
            raise ValueError(
                f"feedback_scale must be 1 with format {self.format}, got {self.feedback_scale:g}"
            )
        _check_feedback_scale(self.feedback_scale, [self.rule])
        _check_where(self.where, [self.rule])
        return self


class CompareConfig(TrainingConfig):
    """The configuration of a comparison: the same run under several learning rules and seeds."""

    rules: tuple[str, ...] = Field(
        DEFAULT_RULES, min_length=1, description=f"Learning rules to compare: {RULE_HELP}."
    )
    seeds: tuple[int, ...] = Field(
        (0,),
        min_length=1,
        description="Each rule is trained once per seed, from the same weights.",
    )

    @field_validator("rules")
    @classmethod
    def _known_rules(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(canonical_rule(spec) for spec in specs)

    @model_validator(mode="after")
    def _no_repeats(self) -> Self:
        for name, values in (("rules", self.rules), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must differ from each other, got {' '.join(map(str, values))}")
        if not 0 <= min(self.seeds) <= max(self.seeds) <= _MOST:
            raise ValueError(
                f"seeds must be 0 or more, and below 2**63, got {min(self.seeds)} to {max(self.seeds)}"
            )
        if self.devices * self.num_nodes > 1:
            raise ValueError(
                "devices and num_nodes must be 1 in a comparison; use alignonce train for a run on several"
            )
        _check_feedback_scale(self.feedback_scale, self.rules)
        _check_where(self.where, self.rules)
        return self

    def runs(self) -> list[RunConfig]:
        """List the runs, seed by seed, so that a comparison cut short still has whole seeds.

        Returns:
            One configuration for each seed and rule.
        """
        shared = self.model_dump(exclude={"rules", "seeds", "format"})
        formats = {rule: self.format if has_fixed_feedback(rule) else "dense" for rule in self.rules}
        return [
            RunConfig(**shared, rule=rule, seed=seed, format=formats[rule])
            for seed in self.seeds
            for rule in self.rules
        ]


def _check_feedback_scale(scale: float, rules: Sequence[str]) -> None:
    """Refuse what would undo the scale: B that is drawn to W's norm, or that is no copy of W's shape."""
    for spec in rules if scale != 1 else ():
        rule = parse_rule(spec, seed=0)
        if rule.evolves or rule.has_direct_feedback:
            why = "goes from the output to each layer" if not rule.evolves else "changes in learning"
            raise ValueError(
                f"feedback_scale must be 1 with the rule {spec}, whose feedback {why}; got {scale:g}"
            )


def _check_where(where: Sequence[str], rules: Sequence[str]) -> None:
    for spec in rules if where else ():
        if isinstance(parse_rule(spec, seed=0), DirectFeedback):
            raise ValueError(f"where must be left out with the rule {spec}, which takes the whole network")

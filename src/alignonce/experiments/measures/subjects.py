"""The runs of an analysis: found on disk, checked to be comparable, loaded with what they are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from torch import nn

from alignonce import feedback_weights
from alignonce.experiments.config.rule_specs import KNOWN_RULES, split_rule
from alignonce.experiments.config.run import COMPUTING_FIELDS
from alignonce.experiments.facts import Fact
from alignonce.experiments.measures.example_sets import ExampleSets
from alignonce.experiments.runs.folder import RunFolder, RunRecord
from alignonce.experiments.training.checkpoints import checkpoint_file

# What runs of one comparison may differ in.
_FREE = {"rule", "seed", "format", "checkpoints"} | COMPUTING_FIELDS


def find_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read all runs in some folders, and check that figures may compare them.

    Args:
        paths: run folders, or folders that hold run folders.

    Returns:
        The runs by rule, then seed; each once.

    Raises:
        FileNotFoundError: a folder is missing or holds no run.
        ValueError: the runs differ in more than rule and seed, or two are the same in both.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        inside = [path, *sorted(path.iterdir())] if path.is_dir() else []
        found = [folder for folder in inside if (folder / "summary.json").is_file()]
        if not found:
            raise FileNotFoundError(f"{path} holds no run: neither it nor a folder in it has a summary.json")
        # A run folder is one run, whatever lies in it.
        folders |= {folder.resolve(): folder for folder in (found[:1] if found[0] == path else found)}
    runs = sorted((RunFolder(folder).load() for folder in folders.values()), key=_order)
    for run in runs[1:]:
        _check_alike(runs[0], run)
    for first, second in pairwise(runs):
        if (first.config.rule, first.config.seed) == (second.config.rule, second.config.seed):
            raise ValueError(
                f"{first.folder} and {second.folder} are both {first.config.rule} with seed "
                f"{first.config.seed}: analyse only one of them"
            )
    return runs


def _order(run: RunRecord) -> tuple[int, tuple[float, ...], int]:
    kind, values = split_rule(run.config.rule)
    return list(KNOWN_RULES).index(kind.name), values, run.config.seed


def _check_alike(first: RunRecord, other: RunRecord) -> None:
    ours, theirs = (run.config.model_dump(exclude=_FREE) for run in (first, other))
    ours["images"], theirs["images"] = (
        run.summary.data.model_dump(exclude={"source"}) for run in (first, other)
    )
    odd = [f"{key} ({ours[key]} and {theirs[key]})" for key in ours if ours[key] != theirs[key]]
    if odd:
        raise ValueError(
            f"{first.folder} and {other.folder} differ in {', '.join(odd)}: one figure cannot compare "
            "them; analyse them separately"
        )


@dataclass(frozen=True, eq=False)
class Subject:
    """A run to be measured.

    `reference` is backpropagation's run of the same seed, `start` where a line to this run's solution begins:
    the reference or else the first run of the seed. Both are None where they would be the run itself.
    """

    name: str
    record: RunRecord
    examples: ExampleSets
    reference: Subject | None = None
    start: Subject | None = None
    step: int | None = None
    """Of a checkpoint; None is the final network."""

    @cached_property
    def model(self) -> nn.Module:
        """The trained network under its rule, in training mode, on the device of the images."""
        return RunFolder(self.record.folder).load_model(self.step).to(self.examples.device)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the file of weights: the same as long as the network is; "" if there is none."""
        folder = self.record.folder
        file = folder / "model.safetensors" if self.step is None else checkpoint_file(folder, self.step)
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""

    def named(self, group: str, fact: Fact) -> Fact:
        """Say of a number which run it is about.

        Args:
            group: of the number.
            fact: what was measured.

        Returns:
            The fact of the table.
        """
        config = self.record.config
        return fact._replace(run=self.name, rule=config.rule, seed=config.seed, group=group)

    @property
    def has_batch_norm(self) -> bool:
        """Whether evaluation depends on statistics that are no weights."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules())

    @property
    def has_feedback(self) -> bool:
        """Whether layers have feedback weights of their own (direct feedback has none)."""
        return any(True for _ in feedback_weights(self.model))


def make_subjects(runs: Sequence[RunRecord], examples: ExampleSets) -> list[Subject]:
    """Name the runs and give each its reference.

    Args:
        runs: as `find_runs` gives them.
        examples: what they are measured on.

    Returns:
        One for each run, in their order.
    """
    names = [run.folder.name for run in runs]
    unique = [n if names.count(n) == 1 else str(r.folder) for n, r in zip(names, runs, strict=True)]
    subjects: list[Subject] = []
    for name, run in zip(unique, runs, strict=True):
        # Runs are ordered by rule, backpropagation first: whatever is referred to is there already.
        same_seed = [s for s in subjects if s.record.config.seed == run.config.seed]
        usable = [s for s in same_seed if s.record.summary.status != "diverged"]
        reference = next((s for s in usable if s.record.config.rule == "bp"), None)
        start = reference or next(iter(usable), None)
        subjects.append(Subject(name, run, examples, reference, start))
    return subjects

"""The groups of measures: what each needs, and the steps that it is taken in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from alignonce.experiments.measures import curvature, layers, performance, robustness
from alignonce.experiments.measures.plan import AnalysisPlan, GroupName, Step
from alignonce.experiments.measures.subjects import Subject


@dataclass(frozen=True)
class Group:
    """One group of measures.

    `fields` of the plan it depends on besides the images and the seed; `others` are the runs that it needs
    besides its own: `reference`, `start`. `library` is a module that it cannot do without.
    """

    name: GroupName
    steps: Callable[[Subject, AnalysisPlan], list[Step]]
    fields: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    library: tuple[str, str] | None = None
    """The module, and the extra that brings it."""
    at_checkpoints: tuple[str, ...] = ()
    """Titles of the steps that are taken at checkpoints, too: those that cost little."""


_GROUPS = (
    Group("alignment", layers.alignment_steps, at_checkpoints=("signals", "gradients")),
    Group("flow", layers.flow_steps, at_checkpoints=("norms",)),
    Group(
        "curvature", curvature.curvature_steps,
        ("eigenvalues", "products", "density_runs", "radius", "adaptive_radius"),
        library=("hessian_eigenthings", "diagnostics"), at_checkpoints=("eigenvalues", "trace"),
    ),
    Group("landscape", curvature.landscape_steps, ("points",), ("start",)),
    Group("generalisation", performance.generalisation_steps),
    Group(
        "corruptions", robustness.corruption_steps, ("severities",), library=("kornia", "robustness")
    ),
    Group("weights", performance.weight_steps, ("repeats",)),
    Group(
        "adversarial", robustness.adversarial_steps, ("eps", "attacks", "steps", "queries"),
        ("reference",), library=("art", "robustness"),
    ),
)  # fmt: skip
GROUPS: dict[GroupName, Group] = {group.name: group for group in _GROUPS}


def check_libraries(groups: Sequence[Group]) -> None:
    """Find out before any work whether all libraries are there.

    Args:
        groups: what is to be measured.

    Raises:
        ValueError: one is missing; names the groups that need it and how to install it.
    """
    missing = {
        group.name: group.library[1]
        for group in groups
        if group.library is not None and find_spec(group.library[0]) is None
    }
    if missing:
        extras = ",".join(sorted(set(missing.values())))
        left = " ".join(group.name for group in groups if group.name not in missing)
        raise ValueError(
            f"{' and '.join(missing)} cannot be measured without more packages: "
            f"pip install 'alignonce[{extras}]'" + (f", or leave them out: --measures {left}" if left else "")
        )

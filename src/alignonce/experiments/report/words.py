"""What was run, on what, with what, and how to read the numbers: in words, for the page and for Markdown."""

from __future__ import annotations

from alignonce.experiments.config.task_specs import TASK_SPECS
from alignonce.experiments.figures.panels import NONE
from alignonce.experiments.figures.style import label_of
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.subjects import diverged_runs
from alignonce.experiments.studies.study import Part, Study

METHOD = (
    "Words in “ ” are of the paper's abstract (Cheon, Bae and Paik 2025, arXiv 2505.20892); the rest of each "
    "claim is ours, sharpened until it can be measured.",
    "Within a seed, all learning rules start from the same forward weights and see the same batches, so that "
    "rules are compared seed by seed.",
    "A claim's estimate is the mean over its seeds, of a ratio the geometric mean. Its 95% interval is a "
    "bootstrap over seeds, widened to what Student's t asks for so few, and over test images where the "
    "measure is a share of images. A claim is supported if the whole interval lies on the claimed side of "
    "its threshold, not supported if it lies on the other side, and inconclusive otherwise. Intervals are "
    "not corrected for the number of claims: where nothing differs, one in twenty is decided by chance.",
    "The accuracy of a run that diverged counts as chance; its network is not measured further. Curvature is "
    "always measured by exact gradients.",
    "In the other figures diamonds and thick lines are means over the seeds, and bars are one standard "
    "deviation.",
)


def run_words(content: ReportContent) -> str:
    """Count the runs.

    Args:
        content: of the report.

    Returns:
        Such as `54 of 60 runs finished, 1 of them diverged; 2 failed.`
    """
    finished = {fact.key for fact in content.facts.pick(group="run")}
    text = f"{len(finished)} of {content.study.count()} runs finished"
    if diverged := len(diverged_runs(content.facts)):
        text += f", {diverged} of them diverged"
    if content.failures:
        text += f"; {len(content.failures)} failed"
    return f"{text}."


def diverged_words(content: ReportContent) -> list[str]:
    """Name the runs that diverged.

    Args:
        content: of the report.

    Returns:
        Such as `depth depth=20: random feedback, seed 1`.
    """
    return [
        f"{' '.join(filter(None, (part, cell)))}: {label_of(rule)}, seed {seed}"
        for part, cell, rule, seed in sorted(diverged_runs(content.facts))
    ]


def environment_words(content: ReportContent) -> list[tuple[str, str]]:
    """Describe the machine and the software of the runs.

    Args:
        content: of the report.

    Returns:
        Names and values; several values where the runs differ.
    """
    environments = content.environments

    def all_of(name: str) -> str:
        return "; ".join(dict.fromkeys(str(getattr(one, name)) for one in environments))

    times = sorted(one.time for one in environments)
    date = times[0][:10] if times[0][:10] == times[-1][:10] else f"{times[0][:10]} to {times[-1][:10]}"
    return [
        ("Date", date),
        ("Seeds", ", ".join(map(str, content.seeds))),
        ("Processor", f"{all_of('cpu')}; threads of a run: {all_of('threads')}"),
        ("Computed on", all_of("device")),
        ("System", all_of("platform")),
        (
            "Versions",
            f"alignonce {all_of('alignonce')}, Python {all_of('python')}, PyTorch {all_of('torch')}, "
            f"NumPy {all_of('numpy')}",
        ),
    ]


def part_words(part: Part, study: Study) -> dict[str, str]:
    """Describe a part of a study.

    Args:
        part: the part.
        study: that it belongs to.

    Returns:
        Its title, data, network, training, what is varied, rules, seeds and number of runs.
    """
    cells = list(part.cells(study.seeds))
    first = cells[0].config
    limit = f", {first.limit:,} {TASK_SPECS[first.task].examples}" if first.limit else ""
    known = {"depth": first.depth, "width": first.width}
    size = " ".join(
        f"{name} {value}" for name, value in known.items() if value is not None and name not in part.vary
    )
    training = {
        "optimizer": first.optimizer,
        "learning_rate": f"learning rate {first.learning_rate:g}",
        "batch_size": f"batches of {first.batch_size}",
        "epochs": f"{first.epochs} epoch{'s' * (first.epochs > 1)}",
    }
    return {
        "title": part.title,
        "data": "varied" if "data" in part.vary else f"{first.data}{limit}",
        "network": ", ".join(filter(None, ("" if "model" in part.vary else first.model, size))),
        "training": ", ".join(text for name, text in training.items() if name not in part.vary),
        "varied": "; ".join(
            f"{name.replace('_', ' ')}: {', '.join(map(str, values))}" for name, values in part.vary.items()
        )
        or NONE,
        "rules": ", ".join(map(label_of, first.rules)),
        "seeds": ", ".join(map(str, first.seeds)),
        "runs": str(len(cells) * len(first.rules) * len(first.seeds)),
    }

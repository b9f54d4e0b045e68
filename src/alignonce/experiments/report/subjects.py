"""The parts and cells of a study, as figures show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from alignonce.experiments.facts import Fact, Facts, Key, cell_settings
from alignonce.experiments.studies.study import Part, Study


class Subject(NamedTuple):
    """One cell with all its facts: what one panel is about."""

    part: str
    cell: str
    title: str
    """The part's title and the cell, as far as they are needed to tell it from others."""
    facts: Facts


def subjects(study: Study, facts: Facts, parts: tuple[str, ...] | None = None) -> list[Subject]:
    """List the cells that facts are about, in the order of the study.

    Args:
        study: the study.
        facts: of any parts and cells.
        parts: names of those to list; left out, all.

    Returns:
        One for each cell that has facts.
    """
    known = set(facts.distinct("part", "cell"))
    chosen = [
        cell
        for cell in study.cells()
        if (cell.part, cell.name) in known and (parts is None or cell.part in parts)
    ]
    titles = {part.name: part.title for part in study.parts}
    several = len({cell.part for cell in chosen}) > 1
    return [
        Subject(
            cell.part,
            cell.name,
            " · ".join(filter(None, (titles[cell.part] if several or not cell.name else "", cell.name))),
            facts.pick(part=cell.part, cell=cell.name),
        )
        for cell in chosen
    ]


def swept_setting(part: Part) -> str | None:
    """Find the number that a part varies, for the horizontal axis of its figure.

    Args:
        part: of a study.

    Returns:
        The setting's name; the depth goes before others. None if it varies no number.
    """
    swept = [
        name
        for name, values in part.vary.items()
        if len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    ]
    return next((name for name in swept if name == "depth"), swept[0] if swept else None)


def along_words(swept: str) -> str:
    """Name a swept setting for people.

    Args:
        swept: such as `learning_rate`.

    Returns:
        Such as `learning rate`.
    """
    return "hidden layers" if swept == "depth" else swept.replace("_", " ")


def steady_parts(study: Study) -> tuple[str, ...]:
    """List the parts that vary no number.

    Args:
        study: the study.

    Returns:
        Their names.
    """
    return tuple(part.name for part in study.parts if swept_setting(part) is None)


def swept_cells(study: Study) -> frozenset[tuple[str, str]]:
    """List the cells of the parts that vary a number: the many that make up one figure.

    Args:
        study: the study.

    Returns:
        Part and name of each.
    """
    steady = steady_parts(study)
    return frozenset((cell.part, cell.name) for cell in study.cells() if cell.part not in steady)


def other_settings(cell: str, swept: str) -> str:
    """Read off a cell's name all but the swept setting.

    Args:
        cell: such as `depth=10 shortcuts=false`.
        swept: such as `depth`.

    Returns:
        Such as `shortcuts=false`.
    """
    return " ".join(f"{name}={value}" for name, value in cell_settings(cell).items() if name != swept)


def swept_groups(part: Part, facts: Facts) -> Iterator[tuple[str, list[Fact]]]:
    """Group the facts of a part by the choice of all that it varies besides the swept setting.

    Args:
        part: one with a swept setting.
        facts: of any parts.

    Yields:
        The choice, such as `shortcuts=false`, and its facts.
    """
    swept = swept_setting(part) or ""
    groups: dict[str, list[Fact]] = {}
    for fact in facts.pick(part=part.name):
        groups.setdefault(other_settings(fact.cell, swept), []).append(fact)
    yield from groups.items()


def diverged_runs(facts: Facts) -> frozenset[Key]:
    """Find the runs that diverged.

    Args:
        facts: of any runs.

    Returns:
        Part, cell, rule and seed of each.
    """
    return frozenset(fact.key for fact in facts.pick(group="run", measure="diverged") if fact.value)

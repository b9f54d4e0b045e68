"""The study file: what it may say, and the runs that it means."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from alignonce.experiments.config.run import RULE_HELP, CompareConfig, RunConfig, TrainingConfig
from alignonce.experiments.measures.plan import AnalysisPlan
from alignonce.experiments.studies.yaml_file import read_yaml

_NAME = r"^[a-z0-9][a-z0-9-]*$"
_Value = bool | int | float | str

MOST_RUNS = 10_000
"""A study with more is refused before any of them is made: it is a slip, or worth several studies."""
_LONGEST_NAME = 100


class Cell(NamedTuple):
    """One comparison within a part: all its rules and seeds at one choice of what the part varies."""

    part: str
    name: str
    """Such as `depth=10 shortcuts=false`; "" where the part varies nothing."""
    config: CompareConfig
    measure: AnalysisPlan | None

    @property
    def folder(self) -> Path:
        """Where its runs lie, within the folder of the study."""
        return Path(self.part) / (self.name.replace(" ", ",") or "runs")


class Part(BaseModel):
    """A grid of runs: each rule with each seed, at each choice of the varied settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=_NAME,
        max_length=_LONGEST_NAME,
        description="Short name: lower-case letters, digits, hyphens.",
    )
    title: str = Field(description="What the part is about, in a few words.")
    rules: tuple[str, ...] = Field(min_length=1, description=f"Learning rules: {RULE_HELP}.")
    seeds: tuple[int, ...] | None = Field(None, description="Seeds; left out, those of the study.")
    train: dict[str, Any] = Field(
        default_factory=dict, description="Settings of every run: data, model, depth, epochs and so on."
    )
    vary: dict[str, tuple[_Value, ...]] = Field(
        default_factory=dict, description="Settings that take several values; all combinations are run."
    )
    measure: AnalysisPlan | None = Field(
        None, description="What to measure of the trained networks, as `alignonce analyse` does."
    )

    @field_validator("train", "vary")
    @classmethod
    def _known_settings(cls, values: dict[str, Any]) -> dict[str, Any]:
        if unknown := sorted(set(values) - set(TrainingConfig.model_fields)):
            known = ", ".join(TrainingConfig.model_fields)
            raise ValueError(f"unknown settings {', '.join(unknown)}; known are {known}")
        return values

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if both := sorted(set(self.train) & set(self.vary)):
            raise ValueError(f"{', '.join(both)} cannot be both in train and in vary")
        if empty := sorted(name for name, values in self.vary.items() if not values):
            raise ValueError(f"vary: {', '.join(empty)} must have at least one value")
        if not all(
            isinstance(value, bool | int | float) or (value.isprintable() and not set(value) & set(" =/,"))
            for values in self.vary.values()
            for value in values
        ):
            raise ValueError("vary: texts must not contain blanks, '=', '/', ',' or unprintable characters")
        _check_runs(self.count((0,)))
        cells = list(self.cells((0,)))
        names = {cell.name for cell in cells}
        if len(names) < len(cells):
            raise ValueError("vary: values of one setting must differ, also when written with six digits")
        if (longest := max(len(name.encode()) for name in names)) > 2 * _LONGEST_NAME:
            raise ValueError(
                f"vary: settings and values make the name of a folder, which would be {longest} bytes long; "
                f"the limit is {2 * _LONGEST_NAME}"
            )
        others = {cell.config.task for cell in cells} - {"images"}
        if self.measure and others:
            raise ValueError(f"measure is for task images; leave it out with {', '.join(sorted(others))}")
        return self

    def count(self, seeds: tuple[int, ...]) -> int:
        """Count the runs of the part, without making them.

        Args:
            seeds: of the study, for a part without its own.

        Returns:
            How many there are.
        """
        own = seeds if self.seeds is None else self.seeds
        return math.prod(map(len, self.vary.values())) * len(self.rules) * len(own)

    def cells(self, seeds: tuple[int, ...]) -> Iterator[Cell]:
        """List the comparisons of the part.

        Args:
            seeds: of the study, for a part without its own.

        Yields:
            One for each combination of the varied settings.
        """
        for values in itertools.product(*self.vary.values()):
            varied = dict(zip(self.vary, values, strict=True))
            name = " ".join(f"{setting}={_written(value)}" for setting, value in varied.items())
            config = CompareConfig(
                **{**self.train, **varied},
                rules=self.rules,
                seeds=seeds if self.seeds is None else self.seeds,
            )
            yield Cell(self.name, name, config, self.measure)


class Study(BaseModel):
    """A study: its parts, and the seeds that they share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=_NAME,
        max_length=_LONGEST_NAME,
        description="Short name: lower-case letters, digits, hyphens.",
    )
    title: str = Field(description="The question, in one line.")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="Each run is made once per seed; within a seed all start alike."
    )
    parts: tuple[Part, ...] = Field(min_length=1, description="The grids of runs.")
    # Made once, when the study is checked.
    _cells: tuple[Cell, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"parts must have different names, got {' '.join(names)}")
        _check_runs(self.count())
        self._cells = tuple(cell for part in self.parts for cell in part.cells(self.seeds))
        return self

    def count(self) -> int:
        """Count the runs, without making them.

        Returns:
            How many there are.
        """
        return sum(part.count(self.seeds) for part in self.parts)

    def cells(self) -> list[Cell]:
        """List all comparisons.

        Returns:
            Part by part.
        """
        return list(self._cells)

    def runs(self) -> list[tuple[Cell, RunConfig]]:
        """List all runs.

        Returns:
            Each with the cell that it belongs to; seed by seed within a cell.
        """
        return [(cell, run) for cell in self.cells() for run in cell.config.runs()]


def shipped_studies() -> dict[str, Path]:
    """List the studies that come with the library.

    Returns:
        Names and files.
    """
    folder = resources.files("alignonce.experiments.studies") / "shipped"
    return {path.stem: path for path in sorted(Path(str(folder)).glob("*.yaml"), key=lambda path: path.stem)}


def load_study(name_or_file: str | Path) -> Study:
    """Read a study file.

    Args:
        name_or_file: the name of a shipped study, such as `quick`, or a YAML file.

    Returns:
        The study.

    Raises:
        FileNotFoundError: there is no such file, and no shipped study of this name.
        ValueError: the file is not YAML, or not a study; says what is wrong and where.
    """
    shipped = shipped_studies()
    path = shipped.get(str(name_or_file), Path(name_or_file))
    if not path.is_file():
        raise FileNotFoundError(
            f"study: {name_or_file} is neither a file nor a shipped study ({', '.join(shipped)})"
        )
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"study: {path} cannot be read: {error}") from error
    return parse_study(content, path)


def parse_study(content: object, source: Path) -> Study:
    """Make a study of what a file says.

    Args:
        content: as YAML or JSON has it.
        source: the file, for errors.

    Returns:
        The study.

    Raises:
        ValueError: it is not a study; says what is wrong and where.
    """
    if not isinstance(content, dict):
        raise ValueError(f"study: {source} must hold a mapping with name, title and parts")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"study: {source}: {_told(error)}") from error
    except UnicodeEncodeError as error:  # half a character, "\\ud800"
        raise ValueError(f"study: {source}: {error}") from error


def study_schema() -> str:
    """Write the JSON schema of study files, for editors that check and complete.

    Returns:
        JSON text.
    """
    return json.dumps(Study.model_json_schema(), indent=2) + "\n"


def _written(value: _Value) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _check_runs(runs: int) -> None:
    if runs > MOST_RUNS:
        raise ValueError(f"it would have {runs:,} runs; the limit is {MOST_RUNS:,}")


def _told(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    # Where an item is wrong, pydantic also finds too few that are right.
    details = [d for d in details if d["type"] != "too_short" or len(details) == 1]
    messages = []
    for detail in details[:5]:
        message, where = detail["msg"].removeprefix("Value error, "), ".".join(map(str, detail["loc"]))
        messages.append(_shortened(f"{where}: {message}" if where else message))
    return "; ".join(messages) + (f"; and {len(details) - 5} more" if len(details) > 5 else "")


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 1000 else f"{text[:1000]}..."

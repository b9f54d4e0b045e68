"""Resume points: all that an unfinished run needs to go on as if it had never stopped.

| in `resume/` of a run's folder | what is in it |
|---|---|
| `run.json` | format of this folder, and which run it is: an unfinished run goes on as itself only |
| `step-000120/state.safetensors` | network, feedback weights, optimiser, random states, after 120 updates |
| `step-000120/state.json` | everything else: measurements so far, settings of the optimiser, the position |
| `step-000120/SHA256SUMS` | checksums of both, as `sha256sum --check` reads them |

A point is written beside its place, flushed to the disk, and moved there as a whole. The newest two are kept:
one that turns out to be damaged is passed over for the one before it. `checkpoints/` is another thing: the
network at chosen steps, kept for analysis.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignonce.experiments.data.data_facts import with_present_names
from alignonce.experiments.files import write_atomically

FORMAT = 1
_KEPT = 2
_NAME = re.compile(r"step-(\d+)")
_STATE, _FACTS, _SUMS = "state.safetensors", "state.json", "SHA256SUMS"


@dataclass(frozen=True)
class SaveEvery:
    """How often a run writes a resume point: after so many seconds, or so many steps, whichever is first.

    None: never for that reason. One is also written when SIGINT, SIGTERM or SIGUSR1 stops the run.
    """

    seconds: float | None = 60.0
    steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("steps", self.steps)):
            if value is not None and not value > 0:
                raise ValueError(f"save-every-{name} must be positive, got {value}")


@dataclass(frozen=True)
class ResumePoint:
    """A run after `step` updates: its tensors, and its other facts as JSON takes them."""

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class ResumePoints:
    """The resume points of one run.

    Args:
        run: the run's folder.
        identity: what makes the run this one, as JSON takes it: configuration and data.
        every: how often to write one.
        clock: seconds since some moment.

    Raises:
        ValueError: the folder holds points of another run or of another version of this package.
    """

    def __init__(
        self,
        run: Path,
        identity: Mapping[str, Any],
        every: SaveEvery | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = run / "resume"
        self.every = every or SaveEvery()
        self._identity = json.loads(json.dumps(identity))
        self._clock = clock
        self._last = clock(), 0
        present = read_identity(run)
        if present is not None and present != self._identity:
            raise ValueError(
                f"out: {run} holds an unfinished run with {_differences(present, self._identity)}: "
                "finish that one with its own settings, or choose another folder"
            )

    def exist(self) -> bool:
        """Return whether there are any.

        Returns:
            True also if they are damaged.
        """
        return bool(_points(self.folder))

    def newest(self, at_most: int | None = None) -> ResumePoint | None:
        """Read the newest point that is undamaged.

        Args:
            at_most: updates made; later points are passed over.

        Returns:
            The point; None if there has never been one.

        Raises:
            ValueError: there are points, and all of them are damaged.
        """
        folders = [path for path in _points(self.folder) if at_most is None or _step(path) <= at_most]
        for folder in reversed(folders):
            try:
                point = _read(folder)
            except (OSError, ValueError, SafetensorError) as error:
                warnings.warn(f"{folder} is damaged and passed over: {error}", stacklevel=2)
                continue
            self._last = self._clock(), point.step
            return point
        if folders:
            raise ValueError(
                f"resume: all points in {self.folder} are damaged; remove that folder to begin anew"
            )
        return None

    def due(self, step: int) -> bool:
        """Return whether it is time to write a point.

        Args:
            step: updates made.

        Returns:
            Whether it is.
        """
        then, last_step = self._last
        seconds, steps = self.every.seconds, self.every.steps
        late = seconds is not None and self._clock() - then >= seconds
        return late or (steps is not None and step - last_step >= steps)

    def write(self, point: ResumePoint) -> None:
        """Write a point; if that fails (a full disk), warn and go on: older points stay as they are.

        Args:
            point: the point.
        """
        self._last = self._clock(), point.step
        target = self.folder / f"step-{point.step:06}"
        unfinished = self.folder / f".unfinished-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(self.folder)
            identity = {"format": FORMAT, "run": self._identity}
            write_atomically(self.folder / "run.json", json.dumps(identity, indent=2) + "\n")
            if target.exists():
                if _is_whole(target):
                    return
                shutil.rmtree(target)
            unfinished.mkdir()
            _write(unfinished, point)
            os.replace(unfinished, target)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            warnings.warn(f"no resume point of step {point.step} could be written: {error}", stacklevel=2)
            return
        # Points of later steps are damaged ones that were passed over.
        points = _points(self.folder)
        now = points.index(target)
        for other in [*points[: max(0, now + 1 - _KEPT)], *points[now + 1 :]]:
            shutil.rmtree(other)

    def remove(self) -> None:
        """Remove all points, when the run is finished and saved."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_identity(run: Path) -> dict[str, Any] | None:
    """Return which unfinished run a folder holds points of.

    Args:
        run: the run's folder.

    Returns:
        What `ResumePoints` was given; None if there are no points.

    Raises:
        ValueError: they are of another version of this package, or of an unknown one.
    """
    file = run / "resume" / "run.json"
    if not _points(file.parent):
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        version, identity = found["format"], dict(found["run"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); remove the folder it is in to begin anew"
        ) from error
    if version != FORMAT:
        raise ValueError(
            f"{file.parent} was written in format {version!r}, and this version of alignonce reads format "
            f"{FORMAT}: go on with the version that wrote it, or choose another folder"
        )
    if isinstance(identity.get("data"), dict):
        identity["data"] = with_present_names(identity["data"])
    return identity


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick the tensors of a point whose names begin with a prefix.

    Args:
        prefix: such as `model/`.
        tensors: the point's.

    Returns:
        Those tensors, by the rest of their names.
    """
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _points(folder: Path) -> list[Path]:
    return sorted(
        (path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()),
        key=_step,
    )


def _step(point: Path) -> int:
    return int(point.name.removeprefix("step-"))


def _write(folder: Path, point: ResumePoint) -> None:
    save_file(dict(point.tensors), folder / _STATE)
    facts = {"step": point.step, **point.facts}
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
    sums = "".join(f"{_checksum(folder / name)}  {name}\n" for name in (_STATE, _FACTS))
    (folder / _SUMS).write_text(sums, encoding="utf-8")
    for name in (_STATE, _FACTS, _SUMS):
        _flush(folder / name)
    _flush(folder)


def _is_whole(folder: Path) -> bool:
    try:
        _verify(folder)
    except (OSError, ValueError):
        return False
    return True


def _verify(folder: Path) -> None:
    for checksum, name in _sums(folder):
        if _checksum(folder / name) != checksum:
            raise ValueError(f"{name} does not fit its checksum")


def _read(folder: Path) -> ResumePoint:
    _verify(folder)
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return ResumePoint(facts.pop("step"), load_file(folder / _STATE), facts)


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
    sums = [(checksum, name) for checksum, _, name in (line.partition("  ") for line in lines)]
    if [name for _, name in sums] != [_STATE, _FACTS]:
        raise ValueError(f"{_SUMS} does not list {_STATE} and {_FACTS}")
    yield from sums


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Bring a file or a folder to the disk: after a power cut, what was moved into place must be there."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # Windows opens no folders, and flushes only what may be written
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob(".unfinished-*"):
        shutil.rmtree(path)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    parts = []
    for group in dict.fromkeys([*there, *here]):
        ours, theirs = here.get(group) or {}, there.get(group) or {}
        names = [key for key in dict.fromkeys([*theirs, *ours]) if theirs.get(key) != ours.get(key)]
        parts += [f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in names]
    return ", ".join(parts)

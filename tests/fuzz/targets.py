"""What is fuzzed: each target reads bytes as a user's file, and may refuse them by a clear error only."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from pydantic import ValidationError

from alignonce.experiments.config import CompareConfig
from alignonce.experiments.data.idx import read_idx
from alignonce.experiments.metrics import Metrics
from alignonce.experiments.resuming import ResumePoint, ResumePoints, read_identity
from alignonce.experiments.runs import RunFolder

IDENTITY = {"config": {"epochs": 2}}
POINT = ResumePoint(3, {"a": torch.arange(4.0)}, {"metrics": [1.5]})


@contextmanager
def refused_naming(folder: Path) -> Iterator[None]:
    """Allow an error that names the file or the folder that is wrong."""
    try:
        yield
    except ValueError as error:
        if str(folder) not in str(error):
            raise AssertionError(f"an error that names no file: {error}") from error


def idx(content: bytes, folder: Path) -> None:
    """An IDX file."""
    (folder / "file").write_bytes(content)
    with refused_naming(folder):
        read_idx(folder / "file")


def config(content: bytes, folder: Path) -> None:
    """The configuration of a saved run."""
    (folder / "config.json").write_bytes(content)
    with refused_naming(folder):
        RunFolder(folder).config()


def comparison(content: bytes, folder: Path) -> None:
    """The configuration of a comparison."""
    with suppress(ValidationError):
        CompareConfig.model_validate_json(content)


def metrics(content: bytes, folder: Path) -> None:
    """Measurements of a saved run."""
    (folder / "metrics.csv").write_bytes(content)
    with refused_naming(folder):
        Metrics.read_csv(folder / "metrics.csv")


def identity(content: bytes, folder: Path) -> None:
    """Which run resume points are of."""
    (folder / "resume" / "step-000003").mkdir(parents=True, exist_ok=True)
    (folder / "resume" / "run.json").write_bytes(content)
    with refused_naming(folder):
        read_identity(folder)


def point(content: bytes, folder: Path) -> None:
    """A resume point, one of whose files (the first byte says which) has been overwritten somewhere."""
    ResumePoints(folder, IDENTITY).write(POINT)
    files = sorted((folder / "resume" / "step-000003").iterdir())
    if not content:
        return
    file = files[content[0] % len(files)]
    before = file.read_bytes()
    at = int.from_bytes(content[1:3], "big") % (len(before) + 1)
    file.write_bytes(before[:at] + content[3:] + before[at + len(content) - 3 :])
    with warnings.catch_warnings(), refused_naming(folder):
        warnings.simplefilter("ignore")
        found = ResumePoints(folder, IDENTITY).newest()
        # What is read is what was written, or nothing.
        assert found is not None
        assert torch.equal(found.tensors["a"], POINT.tensors["a"])
        assert found.facts == POINT.facts


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    target.__name__: target for target in (idx, config, comparison, metrics, identity, point)
}


def run(name: str, content: bytes) -> None:
    """Run a target in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        TARGETS[name](content, Path(folder))

"""What is fuzzed: each target reads bytes as a user's file, and may refuse them by a clear error only."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
from pydantic import ValidationError

from alignonce.experiments.config.run import CompareConfig, RunConfig
from alignonce.experiments.data.idx import read_idx
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.studies.folder import StudyFolder
from alignonce.experiments.studies.study import MOST_RUNS, load_study
from alignonce.experiments.tasks import ImageClassification
from alignonce.experiments.training.loop import train
from alignonce.experiments.training.metrics import Metrics
from alignonce.experiments.training.resuming import ResumePoint, ResumePoints, read_identity

IDENTITY = {"config": {"epochs": 2}}
POINT = ResumePoint(3, {"a": torch.arange(4.0)}, {"metrics": [1.5]})


@cache
def saved_run() -> dict[str, bytes]:
    """The files of a small saved run."""
    images, labels = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2), torch.tensor([0, 1])
    data = ImageClassification(ImageData("made", "made up", images, labels, images, labels, ("a", "b")))
    config = RunConfig(data="made", depth=1, width=2, epochs=1, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        RunFolder(Path(folder)).save(config, data, train(config, data))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.is_file()}


def overwritten(before: bytes, content: bytes) -> bytes:
    """Some bytes of a file replaced: the first two of `content` say where, the others by what."""
    at = int.from_bytes(content[:2], "big") % (len(before) + 1)
    return before[:at] + content[2:] + before[at + max(0, len(content) - 2) :]


@contextmanager
def refused_naming(folder: Path, length: int | None = None) -> Iterator[None]:
    """Allow an error that names the file or the folder that is wrong, and is not too long to be read."""
    try:
        yield
    except ValueError as error:
        if str(folder) not in str(error):
            raise AssertionError(f"an error that names no file: {error}") from error
        if length is not None and len(str(error)) > length:
            raise AssertionError(f"an error of {len(str(error))} characters") from error


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


def study(content: bytes, folder: Path) -> None:
    """A study file; one that is accepted has runs that can be told apart, and can be saved and read again."""
    (folder / "study.yaml").write_bytes(content)
    with refused_naming(folder, length=8000):
        found = load_study(folder / "study.yaml")
        runs = found.runs()
        assert 1 <= len(runs) <= MOST_RUNS
        assert len({(cell.folder, run.rule, run.seed) for cell, run in runs}) == len(runs)
        (folder / runs[0][0].folder).mkdir(parents=True)
        StudyFolder(folder).begin(found)
        assert StudyFolder(folder).study() == found


def saved_study(content: bytes, folder: Path) -> None:
    """The study in the folder of its results."""
    (folder / "study.json").write_bytes(content)
    with refused_naming(folder, length=8000):
        StudyFolder(folder).study()


def summary(content: bytes, folder: Path) -> None:
    """How a saved run ended."""
    (folder / "summary.json").write_bytes(content)
    with refused_naming(folder):
        RunFolder(folder).status()


def failures(content: bytes, folder: Path) -> None:
    """What failed in a study: a note only, without which the study goes on."""
    (folder / "failures.json").write_bytes(content)
    assert all(isinstance(reason, str) for reason in StudyFolder(folder).failures().values())


def network(content: bytes, folder: Path) -> None:
    """The network of a saved run, overwritten somewhere."""
    made = saved_run()
    for name, before in made.items():
        (folder / name).write_bytes(before)
    (folder / "model.safetensors").write_bytes(overwritten(made["model.safetensors"], content))
    with refused_naming(folder):
        RunFolder(folder).load_model()


def predictions(content: bytes, folder: Path) -> None:
    """The predictions of a saved run, overwritten somewhere."""
    (folder / "predictions.npz").write_bytes(overwritten(saved_run()["predictions.npz"], content))
    with refused_naming(folder):
        RunFolder(folder).classified_rightly()


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
    file.write_bytes(overwritten(file.read_bytes(), content[1:]))
    with warnings.catch_warnings(), refused_naming(folder):
        warnings.simplefilter("ignore")
        found = ResumePoints(folder, IDENTITY).newest()
        # What is read is what was written, or nothing.
        assert found is not None
        assert torch.equal(found.tensors["a"], POINT.tensors["a"])
        assert found.facts == POINT.facts


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    target.__name__: target
    for target in (
        idx,
        config,
        comparison,
        study,
        saved_study,
        summary,
        failures,
        network,
        predictions,
        metrics,
        identity,
        point,
    )
}


def run(name: str, content: bytes) -> None:
    """Run a target in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        TARGETS[name](content, Path(folder))

"""A run on disk: one folder that can be read years later without this code.

| file | what is in it |
|---|---|
| `config.json` | the full configuration |
| `environment.json` | versions, machine, time |
| `metrics.csv` | everything measured: step, epoch, metric, layer, value |
| `model.safetensors` | the trained network, feedback weights included (not after a divergence) |
| `checkpoints/step-000000.safetensors`, ... | the network at these steps, likewise, if any were asked for |
| `predictions.npz` | `label` and `predicted` class of each test image, in the order of the data; likewise |
| `tokenizer.json` | the byte pairs of a language model, as the tokenizers library reads them |
| `resume/` | all that an unfinished run needs to go on: see `training.resuming`; gone when it is finished |
| `diagnostics.csv` | what a tracker measured, as a table of facts; if there was one |
| `tensorboard/` | the measurements once more, for watching the run in TensorBoard |
| `summary.json` | how the run ended, final numbers, the data; written last |

Each file is written beside its place and then moved there, so that a reader never meets half a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from alignonce.diagnostics import Tracker
from alignonce.experiments.config.run import COMPUTING_FIELDS, RunConfig
from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.runs.records import Environment, Summary, describe_environment, summarise
from alignonce.experiments.tasks import TASKS, Task
from alignonce.experiments.tasks.images import PREDICTIONS_FILE
from alignonce.experiments.training.checkpoints import checkpoint_file, saved_steps
from alignonce.experiments.training.loop import Status, TrainingResult
from alignonce.experiments.training.metrics import Metrics
from alignonce.experiments.training.resuming import ResumePoints, SaveEvery, read_identity
from alignonce.experiments.training.state import model_state

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class RunRecord:
    """A run, read back from its folder."""

    folder: Path
    config: RunConfig
    environment: Environment
    metrics: Metrics
    summary: Summary


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    def prepare(self) -> None:
        """Make the folder, and prove that a run can be saved in it, before any work is spent.

        Raises:
            FileExistsError: it holds a finished run, which is never overwritten.
        """
        ensure_writable(self.path)
        if self.is_finished():
            raise FileExistsError(f"out: {self.path} already holds a finished run; choose another folder")

    def is_finished(self) -> bool:
        """Return whether it holds a run that ran to its end; a divergence is an end, an interruption is not.

        Returns:
            False also if there is no run in it.
        """
        return self.finished() is not None

    def finished(self) -> Summary | None:
        """Read how the run in it ended, if it did.

        Returns:
            None where `is_finished` is false.
        """
        if not (self.path / "summary.json").exists():
            return None
        summary = self.summary()
        return None if summary.status == "interrupted" else summary

    def status(self) -> Status | None:
        """Return how the run ended.

        Returns:
            None if there is no run in it, or an unfinished one.
        """
        return self.summary().status if (self.path / "summary.json").exists() else None

    def summary(self) -> Summary:
        """Read how the run ended.

        Returns:
            The summary.

        Raises:
            FileNotFoundError: there is no complete run in the folder.
            ValueError: the file is damaged.
        """
        if not (self.path / "summary.json").exists():
            raise FileNotFoundError(f"{self.path} holds no run (there is no summary.json in it)")
        return _read_json(self.path / "summary.json", Summary)

    def config(self) -> RunConfig:
        """Read the configuration of the run.

        Returns:
            The configuration.

        Raises:
            FileNotFoundError: there is no run in the folder.
            ValueError: the file is damaged.
        """
        return _read_json(self.path / "config.json", RunConfig)

    def is_free_for(self, config: RunConfig) -> bool:
        """Return whether no unfinished run of another configuration could still go on here.

        Args:
            config: of the run that would come here.

        Returns:
            True also if this very run is the unfinished one.
        """
        unfinished = read_identity(self.path)
        return unfinished is None or unfinished["config"] == _what_is_computed(config)

    def resume_points(
        self,
        config: RunConfig,
        task: Task,
        tracker: Tracker | None = None,
        every: SaveEvery | None = None,
    ) -> ResumePoints:
        """Open the resume points of a run.

        Args:
            config: its configuration.
            task: what it learns.
            tracker: what measures it on the way.
            every: how often a point is written.

        Returns:
            The points, of which there may be none.

        Raises:
            ValueError: there are some of another run, or of another version of this package.
        """
        identity = {
            "config": _what_is_computed(config),
            "data": task.facts.model_dump(mode="json", exclude={"source"}),
            "tracked": {"measures": list(tracker.measures), "steps": str(tracker.steps)} if tracker else None,
        }
        return ResumePoints(self.path, identity, every)

    def save(self, config: RunConfig, task: Task, result: TrainingResult) -> RunRecord:
        """Write a run; what an unfinished run left here is replaced.

        Args:
            config: its configuration.
            task: what it learnt.
            result: what came out of it.

        Returns:
            The run as `load` would return it.
        """
        self.prepare()
        summary = summarise(task, result)
        environment = describe_environment(result.device)
        # While the other files change, no old summary may vouch for them.
        (self.path / "summary.json").unlink(missing_ok=True)
        model_file, rows_file = self.path / "model.safetensors", self.path / "diagnostics.csv"
        write_atomically(self.path / "config.json", _as_json(config))
        write_atomically(self.path / "environment.json", _as_json(environment))
        write_atomically(self.path / "metrics.csv", result.metrics.write_csv)
        if result.diagnostics:
            tracked = Facts(
                Fact.of_row(row)._replace(
                    run=self.path.name, rule=config.rule, seed=config.seed, group="tracked"
                )
                for row in result.diagnostics
            )
            write_atomically(rows_file, tracked.write_csv)
        else:
            rows_file.unlink(missing_ok=True)
        if result.status == "diverged":
            model_file.unlink(missing_ok=True)
            for name in task.files:
                (self.path / name).unlink(missing_ok=True)
        else:
            _save_state(model_file, result.model)
            task.save(self.path, result.model)
        write_atomically(self.path / "summary.json", _as_json(summary))
        return RunRecord(self.path, config, environment, result.metrics, summary)

    def environment(self) -> Environment:
        """Read what the run was computed with.

        Returns:
            Versions, machine and time.

        Raises:
            FileNotFoundError: there is no run in the folder.
            ValueError: the file is damaged.
        """
        return _read_json(self.path / "environment.json", Environment)

    def metrics(self) -> Metrics:
        """Read the measurements of the run.

        Returns:
            The measurements.
        """
        return Metrics.read_csv(self.path / "metrics.csv")

    def load(self) -> RunRecord:
        """Read a run.

        Returns:
            The run, without its network: see `load_model`.

        Raises:
            FileNotFoundError: there is no complete run in the folder.
        """
        summary = self.summary()
        return RunRecord(self.path, self.config(), self.environment(), self.metrics(), summary)

    def classified_rightly(self) -> NDArray[np.bool_] | None:
        """Return which test images the trained network classifies rightly.

        Returns:
            (n,) in the order of the data; None for a diverged run, and for one of an older version.

        Raises:
            ValueError: the file is damaged.
        """
        file = self.path / PREDICTIONS_FILE
        if not file.exists():
            return None
        try:
            # Opened here: NumPy leaves the file of a damaged archive open.
            with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
                right: NDArray[np.bool_] = np.equal(arrays["label"], arrays["predicted"])
        except Exception as error:  # zipfile, zlib and NumPy's header parser each have their own
            raise ValueError(f"{file} is damaged: {error}") from error
        return right

    def save_checkpoint(self, step: int, model: nn.Module) -> None:
        """Write the network as it is during training.

        Args:
            step: updates made.
            model: the network.
        """
        file = checkpoint_file(self.path, step)
        file.parent.mkdir(parents=True, exist_ok=True)
        _save_state(file, model)

    def checkpoint_steps(self) -> list[int]:
        """List the checkpoints.

        Returns:
            Their steps, ascending; none if the run kept none.
        """
        return saved_steps(self.path)

    def load_model(self, step: int | None = None) -> nn.Module:
        """Rebuild the trained network, under its learning rule.

        Args:
            step: of a checkpoint; None takes the final network.

        Returns:
            The network, on the CPU, in training mode.

        Raises:
            FileNotFoundError: no run, or none with a network or with this checkpoint, is in the folder.
            ValueError: the file is damaged, or holds another network.
        """
        run = self.load()
        file = self.path / "model.safetensors" if step is None else checkpoint_file(self.path, step)
        if not file.exists():
            if step is None:
                raise FileNotFoundError(f"{self.path} holds no network: its run {run.summary.status}")
            known = " ".join(map(str, self.checkpoint_steps())) or "none"
            raise FileNotFoundError(f"{self.path} holds no checkpoint of step {step}; there are: {known}")
        model = TASKS[run.config.task].rebuild_model(run.config, run.summary.data)
        try:
            state = load_file(file)
            # A run saves all of its network. Feedback weights that are missing would only bring a warning.
            if missing := sorted(model.state_dict().keys() - state.keys()):
                raise ValueError(f"it lacks {', '.join(missing)}")
            model.load_state_dict(state)
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise ValueError(f"{file} does not hold the network of config.json: {error}") from error
        return model


def _save_state(file: Path, model: nn.Module) -> None:
    state = model_state(model)
    write_atomically(file, lambda path: save_file(state, path))


def _what_is_computed(config: RunConfig) -> dict[str, Any]:
    """A configuration without what only says where and how."""
    dumped = config.model_dump(mode="json", exclude=set(COMPUTING_FIELDS))
    return dict(json.loads(json.dumps(dumped)))


def _as_json(values: BaseModel) -> str:
    return values.model_dump_json(indent=2) + "\n"


def _read_json(path: Path, kind: type[_Model]) -> _Model:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise ValueError(f"{path} cannot be read: {where}: {first['msg']}") from error

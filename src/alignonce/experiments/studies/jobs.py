"""What a study consists of: training one run, and measuring the trained networks of one seed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from alignonce.experiments.config.run import DATA_FIELDS, RunConfig, TrainingConfig
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.files import locked
from alignonce.experiments.measures.plan import AnalysisPlan
from alignonce.experiments.measures.run import analyse, failure_lines
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.train_into import train_and_save
from alignonce.experiments.tasks import Task, load_task
from alignonce.experiments.training.checkpoints import remove_checkpoints
from alignonce.experiments.training.live import live_metrics
from alignonce.experiments.training.together import train_together


def load_once(config: RunConfig, source: DataSource) -> Task:
    """Load what a run learns; a process keeps the last that it loaded.

    Args:
        config: the run.
        source: where data come from.

    Returns:
        The task.

    Raises:
        ValueError: the data are unavailable. A study never takes other data in their place.
    """
    return _load(TrainingConfig(**config.model_dump(include=set(DATA_FIELDS))), source)


_load = lru_cache(maxsize=1)(load_task)


@dataclass(frozen=True)
class Train:
    """Train one run, and save it in its folder."""

    name: str
    config: RunConfig
    folder: Path
    source: DataSource

    @property
    def covers(self) -> tuple[str, ...]:
        """Itself."""
        return (self.name,)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """None: a run depends on its configuration and its data alone."""
        return ()

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return self.folder

    def moved(self, old: Path, new: Path) -> Train:
        """Make the same job in another place."""
        return replace(self, folder=new / self.folder.relative_to(old))

    def __call__(self) -> None:
        """Train."""
        train_and_save(self.config, load_once(self.config, self.source), RunFolder(self.folder))


@dataclass(frozen=True)
class TrainTogether:
    """Train several runs in one program, and save each in its folder; all lie in one folder."""

    runs: tuple[Train, ...]

    @property
    def name(self) -> str:
        """The first run, and how many more."""
        return f"{self.runs[0].name} and {len(self.runs) - 1} more"

    @property
    def covers(self) -> tuple[str, ...]:
        """All its runs."""
        return tuple(run.name for run in self.runs)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """None, as for a single run."""
        return ()

    @property
    def output(self) -> Path:
        """The folder of their folders."""
        return self.runs[0].folder.parent

    def moved(self, old: Path, new: Path) -> TrainTogether:
        """Make the same job in another place."""
        return TrainTogether(tuple(run.moved(old, new) for run in self.runs))

    def __call__(self) -> None:
        """Train."""
        configs = [run.config for run in self.runs]
        folders = [RunFolder(run.folder) for run in self.runs]
        task = load_once(configs[0], self.runs[0].source)
        with ExitStack() as stack:
            for folder in folders:
                folder.prepare()
                stack.enter_context(locked(folder.path))
            resume = [
                folder.resume_points(config, task) for folder, config in zip(folders, configs, strict=True)
            ]
            for folder, points in zip(folders, resume, strict=True):
                if not points.exist():
                    remove_checkpoints(folder.path)
            metrics = [stack.enter_context(live_metrics(folder.path)) for folder in folders]
            results = train_together(
                configs, task,
                on_checkpoint=lambda run, step, network: folders[run].save_checkpoint(step, network),
                metrics=metrics,
                resume=resume,
            )  # fmt: skip
            for folder, config, result, points in zip(folders, configs, results, resume, strict=True):
                folder.save(config, task, result)
                if result.status != "interrupted":
                    points.remove()


@dataclass(frozen=True)
class Measure:
    """Measure trained networks of one seed, which are compared with each other."""

    name: str
    runs: tuple[Path, ...]
    plan: AnalysisPlan
    out: Path
    source: DataSource

    @property
    def covers(self) -> tuple[str, ...]:
        """Itself."""
        return (self.name,)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The runs, and what was measured of them before."""
        return (*self.runs, self.out)

    @property
    def output(self) -> Path:
        """The folder of the measurements."""
        return self.out

    def moved(self, old: Path, new: Path) -> Measure:
        """Make the same job in another place."""
        runs = tuple(new / run.relative_to(old) for run in self.runs)
        return replace(self, runs=runs, out=new / self.out.relative_to(old))

    def __call__(self) -> None:
        """Measure.

        Raises:
            RuntimeError: some measures failed; the others are saved.
        """
        result = analyse(
            self.runs, self.plan, self.out, lambda run: load_once(run.config, self.source), figures=False
        )
        if result.failures:
            raise RuntimeError("; ".join(failure_lines(result.failures)))

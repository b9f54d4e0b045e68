"""From a configuration to the data of its task."""

from __future__ import annotations

from pathlib import Path

from alignonce.experiments.config.run import TrainingConfig
from alignonce.experiments.data import load_data, load_data_or_digits
from alignonce.experiments.data.corpora import load_corpus
from alignonce.experiments.data.data_facts import DataFacts
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.tables import load_table
from alignonce.experiments.data.tokens import learn_tokens
from alignonce.experiments.tasks.images import ImageClassification
from alignonce.experiments.tasks.language import LanguageModelling
from alignonce.experiments.tasks.tabular import Tabular
from alignonce.experiments.tasks.task import SavedTask, Task

Learnable = ImageData | SavedTask
"""What a run can learn from."""

# No token of a byte-pair vocabulary is so long in the mean, so that so many bytes are enough text.
_BYTES_PER_TOKEN = 8


def load_learnable(
    config: TrainingConfig, *, cache: Path | None = None, hub: bool = True, or_digits: bool = False
) -> Learnable:
    """Load what a run learns from.

    Args:
        config: names it.
        cache: the folder where downloaded data sets are kept; None is the default place.
        hub: whether a hub may be asked.
        or_digits: whether the digits may stand in for Fashion-MNIST where that is not to be had.

    Returns:
        Images, text or a table, by the configuration's task.

    Raises:
        ValueError: the name leads nowhere.
        DataUnavailable: the data are not to be had.
    """
    if config.task == "images":
        load = load_data_or_digits if or_digits else load_data
        return load(config.data, cache=cache, hub=hub, limit=config.limit)
    if config.task == "tabular":
        return Tabular(load_table(config.data, limit=config.limit))
    return _load_text(config.data, config.vocabulary, config.context, config.limit, hub)


def _load_text(name: str, vocabulary: int, context: int, limit: int | None, hub: bool) -> LanguageModelling:
    needed = None if limit is None else limit * context * (1 if vocabulary == 256 else _BYTES_PER_TOKEN)
    corpus = load_corpus(name, hub=hub, max_bytes=needed)
    return LanguageModelling.of(corpus, learn_tokens(corpus.train, vocabulary), context, limit)


def as_task(data: Learnable) -> Task:
    """Make a task of what a run learns from.

    Args:
        data: the data.

    Returns:
        The data themselves, if they are a task.
    """
    return ImageClassification(data) if isinstance(data, ImageData) else data


def facts_of(data: Learnable) -> DataFacts:
    """Describe what a run learns from.

    Args:
        data: the data.

    Returns:
        Their facts.
    """
    return DataFacts.of(data) if isinstance(data, ImageData) else data.facts

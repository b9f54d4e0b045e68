"""Texts from a hub, or in a hub's own format in a local folder, read row by row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alignonce.experiments.data.corpora import Corpus, is_held_out, joined
from alignonce.experiments.data.hub import import_datasets, open_on_hub, told

DEFAULT_MAX_BYTES = 100_000_000
TEST_BYTES = 1_000_000
_COLUMN = "text"
_TEST_SPLITS = ("validation", "test", "valid", "val")
_FORMAT_SUFFIXES = frozenset({".parquet", ".arrow", ".jsonl"})
_SAVED_BY_LIBRARY = ("dataset_dict.json", "state.json")


def load_hub_text(dataset_id: str, max_bytes: int | None) -> Corpus:
    """Read the beginning of a text data set on a hub; what is not needed is not fetched.

    Args:
        dataset_id: "owner/name", or "owner/name/configuration", such as
            "Salesforce/wikitext/wikitext-103-raw-v1", "roneneldan/TinyStories" or
            "HuggingFaceFW/fineweb/sample-10BT".
        max_bytes: read about so many bytes for training; None reads 100 MB.

    Returns:
        The corpus. Test text is from the split `validation` or `test`, or else each tenth row or so.

    Raises:
        ValueError: the id is malformed, or the data set has no column of texts.
        DataUnavailable: the hub cannot be reached or lacks the data set, or the library is missing.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+){1,2}", dataset_id):
        raise ValueError(
            f'data must be "hub:owner/name" or "hub:owner/name/configuration", got "hub:{dataset_id}"'
        )
    owner, name, *configuration = dataset_id.split("/")
    dataset = open_on_hub(f"{owner}/{name}", configuration[0] if configuration else None, streaming=True)
    return _corpus(dataset, dataset_id, f"the hub's data set {dataset_id}", max_bytes)


def in_hub_format(folder: Path) -> bool:
    """Tell whether a folder is in a hub's format rather than one of text files.

    Args:
        folder: the folder.

    Returns:
        Whether it holds Parquet, Arrow or JSON-lines files, or what `save_to_disk` writes.
    """
    if any((folder / file).is_file() for file in _SAVED_BY_LIBRARY):
        return True
    return any(file.suffix in _FORMAT_SUFFIXES for file in folder.rglob("*"))


def load_hub_text_folder(folder: Path, max_bytes: int | None) -> Corpus:
    """Read a folder in a hub's format: what `datasets.load_dataset` opens, or `save_to_disk` wrote.

    Args:
        folder: the folder.
        max_bytes: as for `load_hub_text`.

    Returns:
        The corpus, divided as by `load_hub_text`.

    Raises:
        ValueError: the folder does not open, or has no column of texts.
        DataUnavailable: the datasets library is missing.
    """
    datasets, source = import_datasets(), f"the folder {folder}"
    try:
        if any((folder / file).is_file() for file in _SAVED_BY_LIBRARY):
            dataset = datasets.load_from_disk(str(folder))
        else:
            dataset = datasets.load_dataset(str(folder), streaming=True)
    except Exception as error:  # the library's errors have many classes, which change with its versions
        raise ValueError(f"{source}: the datasets library cannot open it: {told(error)}") from error
    return _corpus(dataset, folder.resolve().name, source, max_bytes)


def _corpus(dataset: Any, name: str, source: str, max_bytes: int | None) -> Corpus:
    splits = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    if "train" not in splits:
        raise ValueError(f"{source}: there must be a split named train, got {', '.join(splits) or 'none'}")
    wanted = DEFAULT_MAX_BYTES if max_bytes is None else max_bytes
    learnt = _texts(splits["train"], source)
    test_split = next((split for split in _TEST_SPLITS if split in splits), None)
    if test_split is not None:
        checked = _texts(splits[test_split], source)
        source = f"{source} (splits train and {test_split})"
        train, test = joined(_as_many(learnt, wanted)), joined(_as_many(checked, TEST_BYTES))
    else:
        source = f"{source} (split train, one row of ten held out)"
        rows = list(enumerate(_as_many(learnt, wanted + min(wanted // 9, TEST_BYTES))))
        train = joined(text for row, text in rows if not is_held_out(str(row)))
        test = joined(text for row, text in rows if is_held_out(str(row)))
    if not (train and test):
        raise ValueError(
            f"{source}: there must be text to train and to test on, got {len(train)} and {len(test)} bytes"
        )
    return Corpus(name, source, train, test)


def _texts(rows: Iterable[dict[str, Any]], source: str) -> Iterator[bytes]:
    for row in rows:
        text = row.get(_COLUMN)
        if not isinstance(text, str):
            raise ValueError(
                f"{source}: there must be a column {_COLUMN!r} of texts, got columns {list(row)}"
            )
        if text.strip():
            yield text.encode()


def _as_many(texts: Iterable[bytes], size: int) -> Iterator[bytes]:
    for text in texts:
        yield text
        size -= len(text)
        if size <= 0:
            return

"""Texts to learn from, divided into training and held-out documents, always in the same way."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignonce.experiments.data.hub import import_datasets, message_of, open_on_hub
from alignonce.experiments.data.image_data import DataUnavailable
from alignonce.experiments.data.source import DataSource

STDLIB = "python-stdlib"
# Directories of the standard library that hold other people's packages, or tests full of odd data.
_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
_HELD_OUT_PART = 10
_SEPARATOR = b"\n\n"


@dataclass(frozen=True)
class Corpus:
    """Text to learn from and text to test on, as bytes of UTF-8 or of whatever the files hold."""

    name: str
    source: str
    train: bytes
    test: bytes


def load_corpus(name: str, source: DataSource | None = None, *, max_bytes: int | None = None) -> Corpus:
    """Read a corpus.

    Args:
        name: "python-stdlib", the sources of Python's standard library on this machine, the language
            reference among them (as `pydoc_data/topics.py`); the path of a text file; the path of a folder
            of text files, or of one in a hub's format (see `load_hub_text`); or "hub:owner/name" or
            "hub:owner/name/configuration", a data set on a hub with a column `text`.
        source: whether a hub may be asked over the network; None lets it.
        max_bytes: of data in a hub's format, read about so many bytes for training, and no more.

    Returns:
        The corpus. Where it does not come divided, one document of ten is held out, chosen by the hash of its
        name; of fewer than ten documents, the last tenth of the text.

    Raises:
        ValueError: the name leads to no text, or to too little.
        DataUnavailable: a hub, or the library that reads its format, is unavailable.
    """
    if name == STDLIB:
        return _python_stdlib()
    if name.startswith("hub:"):
        if source is not None and not source.hub:
            raise DataUnavailable(f"{name} is on a hub, and hub=False")
        return load_hub_text(name.removeprefix("hub:"), max_bytes)
    path = Path(name).expanduser()
    if path.is_file():
        return _divided(path.name, f"the file {path}", [(path.name, path.read_bytes())])
    if name and path.is_dir():
        if in_hub_format(path):
            return load_hub_text_folder(path, max_bytes)
        return _divided(path.resolve().name, f"the folder {path}", _text_files(path))
    raise ValueError(
        f'data must be "{STDLIB}", "hub:owner/name", or the path of an existing text file or folder with '
        f"task lm; got {name!r}, which is none of them"
    )


def joined(documents: Iterable[bytes]) -> bytes:
    """Put documents together, with an empty line between two.

    Args:
        documents: the documents.

    Returns:
        One text.
    """
    return _SEPARATOR.join(documents)


def is_held_out(key: str) -> bool:
    """Return whether a document of this name is for testing: one of ten is, whatever the others are.

    Args:
        key: the document's name.

    Returns:
        The same answer on every machine.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % _HELD_OUT_PART == 0


def _python_stdlib() -> Corpus:
    root = Path(sysconfig.get_path("stdlib"))
    files = (file for file in sorted(root.rglob("*.py")) if not _NOT_STDLIB & set(file.parts))
    documents = [(file.relative_to(root).as_posix(), file.read_bytes()) for file in files]
    version = sysconfig.get_python_version()
    return _divided(STDLIB, f"the sources of Python {version}'s standard library, {root}", documents)


def _text_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in relative.parts):
            content = file.read_bytes()
            if b"\0" not in content:  # which no text holds, and nearly all else does
                yield relative.as_posix(), content


def _divided(name: str, source: str, documents: Iterable[tuple[str, bytes]]) -> Corpus:
    documents = list(documents)
    train = joined(content for key, content in documents if not is_held_out(key))
    test = joined(content for key, content in documents if is_held_out(key))
    if len(documents) < _HELD_OUT_PART or not (train and test):
        # Chance divides a handful too unevenly.
        whole = joined(content for _, content in documents)
        cut = len(whole) - len(whole) // _HELD_OUT_PART
        train, test = whole[:cut], whole[cut:]
    if not (train and test):
        raise ValueError(f"{source}: there must be some text to learn from, got {len(train + test)} bytes")
    return Corpus(name, source, train, test)


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
    """Return whether a folder is in a hub's format rather than one of text files.

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
        raise ValueError(f"{source}: the datasets library cannot open it: {message_of(error)}") from error
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

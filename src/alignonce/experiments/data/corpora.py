"""Texts to learn from, divided into training and held-out documents, always in the same way."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alignonce.experiments.data.image_data import DataUnavailable

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


def load_corpus(name: str, *, hub: bool = True, max_bytes: int | None = None) -> Corpus:
    """Read a corpus.

    Args:
        name: "python-stdlib", the sources of Python's standard library on this machine, the language
            reference among them (as `pydoc_data/topics.py`); the path of a text file; the path of a folder
            of text files, or of one in a hub's format (see `load_hub_text`); or "hub:owner/name" or
            "hub:owner/name/configuration", a data set on a hub with a column `text`.
        hub: whether a hub may be asked over the network.
        max_bytes: of data in a hub's format, read about so many bytes for training, and no more.

    Returns:
        The corpus. Where it does not come divided, one document of ten is held out, chosen by the hash of its
        name; of fewer than ten documents, the last tenth of the text.

    Raises:
        ValueError: the name leads to no text, or to too little.
        DataUnavailable: a hub, or the library that reads its format, is not to be had.
    """
    if name == STDLIB:
        return _python_stdlib()
    if name.startswith("hub:"):
        from alignonce.experiments.data.hub_text import load_hub_text

        if not hub:
            raise DataUnavailable(f"{name} is on a hub, and hub=False")
        return load_hub_text(name.removeprefix("hub:"), max_bytes)
    path = Path(name).expanduser()
    if path.is_file():
        return _divided(path.name, f"the file {path}", [(path.name, path.read_bytes())])
    if name and path.is_dir():
        from alignonce.experiments.data.hub_text import in_hub_format, load_hub_text_folder

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
    """Tell whether a document of this name is for testing: one of ten is, whatever the others are.

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

"""Writing files: whole or not at all, and only where writing is possible."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def ensure_writable(folder: Path) -> None:
    """Make a folder, and prove that files can be written into it.

    Args:
        folder: the folder; missing parents are made, too.

    Raises:
        PermissionError: it cannot be made or written.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"out: cannot write into {folder} ({error.strerror}); choose a folder that can be written"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder. A process that dies, however it dies, gives it free.

    Args:
        folder: the folder, which must exist.

    Raises:
        BlockingIOError: another process works in it.
    """
    # Where a file system has no real locks this fails: soft ones would outlive a process that is killed.
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(
            f"out: another process is at work in {folder}; wait for it, or choose another folder"
        ) from None
    with held:
        yield


def is_locked(folder: Path) -> bool:
    """Return whether another process, or another part of this one, holds a folder's lock.

    Args:
        folder: the folder, which may be missing.

    Returns:
        Whether `locked` would fail.
    """
    if not (folder / ".lock").exists():
        return False
    try:
        with locked(folder):
            return False
    except BlockingIOError:
        return True


def write_atomically(path: Path, content: str | bytes | Callable[[Path], None]) -> None:
    """Write a file so that a reader finds either the old or the whole new one.

    Args:
        path: the file.
        content: its text or bytes, or what writes it to a given path.
    """
    # The suffix stays: some writers choose the format by it.
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

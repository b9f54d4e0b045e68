"""The IDX format of MNIST and its kin: one array per file, plain or gzip-compressed.

A file is two zero bytes, one byte for the element type, one byte for the number of dimensions, one
big-endian 32-bit size per dimension, then the elements, big-endian, last dimension fastest.

Source: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot pack more than 1032 bytes into one, so a file's size bounds what it can hold.
_MOST_BYTES_PER_COMPRESSED_BYTE = 1032
_CHUNK_BYTES = 1 << 20
_MOST_DIMENSIONS = 32  # what every NumPy that we support can hold


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read one IDX file, plain or gzip-compressed (by its first bytes, not its name).

    The declared size is checked against the file's size before anything is allocated, so a broken or
    hostile header cannot exhaust memory.

    Args:
        path: The file.

    Returns:
        The array, writable, in the machine's byte order, of the shape that the file declares.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a complete IDX file, or holds more than it declares.
    """
    path = Path(path)
    with _open_regular_file(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        if file_bytes == 0:
            raise ValueError(f"{path}: the file is empty; an IDX file begins with a 4-byte header")
        compressed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if not compressed:
            return _read_array(file, path, most_bytes=file_bytes)
        most_bytes = file_bytes * _MOST_BYTES_PER_COMPRESSED_BYTE
        try:
            with gzip.open(file, "rb") as unpacked:
                return _read_array(cast(BinaryIO, unpacked), path, most_bytes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path}: the gzip data is truncated or damaged ({error}); get it again"
            ) from error


def _open_regular_file(path: Path) -> BinaryIO:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected an IDX file, plain or gzip-compressed")
    # Opening a pipe would wait for ever, and a device has no size to check against.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: not a regular file; expected an IDX file, plain or gzip-compressed")
    return path.open("rb")


def _read_array(file: BinaryIO, path: Path, most_bytes: int) -> NDArray[Any]:
    dtype, shape = _read_header(file, path)
    header_bytes = 4 + 4 * len(shape)
    declared = math.prod(shape) * dtype.itemsize
    if declared > most_bytes:
        raise ValueError(
            f"{path}: truncated, or the header is wrong: it declares shape {shape}, {declared} bytes, "
            f"but a file of this size holds at most {most_bytes}"
        )
    data = bytearray()
    while chunk := file.read(min(_CHUNK_BYTES, declared + 1 - len(data))):
        data += chunk
    if len(data) < declared:
        raise ValueError(
            f"{path}: truncated: the header declares shape {shape}, {declared} bytes of data, got {len(data)}"
        )
    if len(data) > declared:
        raise ValueError(
            f"{path}: bytes follow the data: the header declares shape {shape}, "
            f"so the file must end after {header_bytes + declared} bytes"
        )
    try:
        array = np.frombuffer(data, dtype=dtype).reshape(shape)
    except ValueError as error:  # a size of 0 beside sizes whose product NumPy cannot index
        raise ValueError(f"{path}: NumPy cannot hold the declared shape {shape} ({error})") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(file: BinaryIO, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4:
        raise ValueError(
            f"{path}: truncated: {len(magic)} bytes, but an IDX file begins with a 4-byte header"
        )
    if magic[:2] != b"\0\0":
        raise ValueError(
            f"{path}: not an IDX file: its first two bytes must be 0000 (hex), got {magic[:2].hex()}"
        )
    if magic[2] not in DTYPES:
        codes = ", ".join(f"0x{code:02x} ({dtype.name})" for code, dtype in DTYPES.items())
        raise ValueError(f"{path}: unknown IDX element type 0x{magic[2]:02x}; must be one of {codes}")
    dimensions = magic[3]
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ValueError(
            f"{path}: the number of dimensions must be in 1..{_MOST_DIMENSIONS}, got {dimensions}"
        )
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise ValueError(
            f"{path}: truncated: {dimensions} dimensions need {4 * dimensions} size bytes, got {len(sizes)}"
        )
    return DTYPES[magic[2]], struct.unpack(f">{dimensions}I", sizes)


def to_idx_gz(array: NDArray[np.uint8]) -> bytes:
    """Return the content of a gzip-compressed IDX file that holds an array.

    Args:
        array: Any shape, unsigned bytes (images and labels need no other type).

    Returns:
        The file's bytes, the same for the same array on every run.

    Raises:
        ValueError: The array is not of unsigned bytes.
    """
    if array.dtype != np.uint8:
        raise ValueError(f"array must be uint8, got {array.dtype}")
    header = bytes([0, 0, 0x08, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=6, mtime=0)

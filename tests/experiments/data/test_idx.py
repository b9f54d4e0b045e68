"""The IDX reader against bytes written by hand."""

import gzip
import os
import struct
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignonce.experiments.data.idx import read_idx, to_idx_gz

# element code -> (struct's letter for one element, NumPy's name)
ELEMENTS = {
    0x08: ("B", "uint8"),
    0x09: ("b", "int8"),
    0x0B: ("h", "int16"),
    0x0C: ("i", "int32"),
    0x0D: ("f", "float32"),
    0x0E: ("d", "float64"),
}


def idx_bytes(code, shape, values):
    header = bytes([0, 0, code, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape)
    return header + b"".join(struct.pack(">" + ELEMENTS[code][0], value) for value in values)


def values_of(code, count):
    letter, name = ELEMENTS[code]
    if letter in "fd":
        numbers = st.floats(width=8 * struct.calcsize(letter), allow_nan=False)
    else:
        limits = np.iinfo(name)
        numbers = st.integers(int(limits.min), int(limits.max))
    return st.lists(numbers, min_size=count, max_size=count)


@st.composite
def idx_contents(draw):
    code = draw(st.sampled_from(sorted(ELEMENTS)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    return code, shape, draw(values_of(code, int(np.prod(shape))))


@settings(max_examples=150, deadline=None)
@given(contents=idx_contents(), compressed=st.booleans())
def test_every_element_type_and_shape_is_read_back(contents, compressed):
    code, shape, values = contents
    content = idx_bytes(code, shape, values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(gzip.compress(content) if compressed else content)
        array = read_idx(path)
    assert array.shape == shape
    assert array.dtype == np.dtype(ELEMENTS[code][1])
    assert array.dtype.isnative
    assert array.flatten().tolist() == values


def test_array_is_writable(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(idx_bytes(0x08, (2,), [1, 2]))
    array = read_idx(path)
    array[0] = 9
    assert array.tolist() == [9, 2]


def test_compression_is_told_by_content_not_by_name(tmp_path):
    plain, packed = tmp_path / "plain.gz", tmp_path / "packed"
    plain.write_bytes(idx_bytes(0x08, (2,), [1, 2]))
    packed.write_bytes(gzip.compress(idx_bytes(0x08, (2,), [3, 4])))
    assert read_idx(plain).tolist() == [1, 2]
    assert read_idx(str(packed)).tolist() == [3, 4]


GOOD = idx_bytes(0x08, (2, 3), range(6))
TEBI = bytes([0, 0, 8, 2]) + struct.pack(">II", 1 << 20, 1 << 20)
BROKEN = {
    "empty": (b"", "empty"),
    "short magic": (b"\0\0\x08", "4-byte header"),
    "not idx": (b"PNG!" + GOOD, "first two bytes must be 0000"),
    "element type": (b"\0\0\x0a\x01" + GOOD[4:], "unknown IDX element type 0x0a; must be one of 0x08"),
    "no dimension": (b"\0\0\x08\x00", r"must be in 1\.\.32, got 0"),
    "too many dimensions": (b"\0\0\x08\xff" + b"\0" * 1020, r"must be in 1\.\.32, got 255"),
    "short sizes": (b"\0\0\x08\x03" + b"\0\0\0\1", "3 dimensions need 12 size bytes, got 4"),
    "truncated": (GOOD[:-1], r"truncated.*shape \(2, 3\), 6 bytes"),
    "trailing": (GOOD + b"x", "must end after 18 bytes"),
    "absurd size": (TEBI + b"x" * 100, "1099511627776 bytes"),
    "uncountable": (bytes([0, 0, 8, 4]) + b"\0" * 4 + b"\xff" * 12, "cannot hold"),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_named_with_what_is_wrong(tmp_path, case, compressed):
    content, message = BROKEN[case]
    if compressed and case == "empty":
        pytest.skip("a gzip file of nothing is not an empty file")
    path = tmp_path / "some-file"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_absurd_size_is_refused_without_reading_the_data(tmp_path):
    # a sparse file: 64 MiB that say they are 1 TiB; reading would be seen in the peak memory of the process
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(TEBI)
        file.truncate(1 << 26)
    tracemalloc.start()
    with pytest.raises(ValueError, match="holds at most 67108864"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_gzip_that_unpacks_to_more_than_declared_is_read_no_further(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(GOOD + bytes(1 << 26)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="bytes follow the data"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], lambda b: b[:12]]
)
def test_damaged_gzip_is_an_error(tmp_path, damage):
    path = tmp_path / "file.gz"
    path.write_bytes(damage(gzip.compress(GOOD)))
    with pytest.raises(ValueError, match=r"file\.gz: the gzip data is truncated or damaged"):
        read_idx(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_idx(tmp_path / "nothing-here")


def test_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a regular file"):
        read_idx(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_idx(tmp_path / "pipe")


def test_written_file_is_standard_and_the_same_every_time():
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    content = to_idx_gz(array)
    assert gzip.decompress(content) == GOOD
    assert to_idx_gz(array.copy()) == content


def test_only_unsigned_bytes_are_written():
    with pytest.raises(ValueError, match="must be uint8, got int64"):
        to_idx_gz(np.arange(3))

"""Numbers and verdicts as CSV and Parquet, for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from alignonce.experiments.files import write_atomically


def write_table(
    columns: Mapping[str, Sequence[Any]], types: Mapping[str, pa.DataType], path: Path
) -> list[Path]:
    """Write a table twice.

    Args:
        columns: names and values, all as long as each other.
        types: of each column, in its order in the files.
        path: of the files, whose suffix is replaced.

    Returns:
        The CSV file, in which numbers are written so that they read back exactly, and the Parquet file.
    """
    files = [path.with_suffix(".csv"), path.with_suffix(".parquet")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(types)
    writer.writerows(zip(*(columns[name] for name in types), strict=True))
    write_atomically(files[0], text.getvalue())
    table = pa.table({name: pa.array(columns[name], kind) for name, kind in types.items()})
    write_atomically(files[1], lambda temporary: pq.write_table(table, temporary))
    return files

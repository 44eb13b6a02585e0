"""Parquet files that appear under their names only when they are whole and on the disk."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from ringstats_ts.errors import ExportError

# Readers of a folder of Parquet pass over names that begin with a dot.
TEMPORARY = ".tsstats-export-"

# Without this pandas reads a column of whole numbers or of booleans as float64 or object where
# a value is missing, and counters lose their lowest digits.
PANDAS_TYPES = {
    pa.bool_(): "boolean",
    pa.int16(): "Int16",
    pa.int32(): "Int32",
    pa.int64(): "Int64",
}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other exports out of the folder, and remove what one that was killed left in it.

    Raises
    ------
    ExportError
        where another export is at work there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(folder, descriptor)
        for leftover in folder.rglob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def write_parquet(
    path: Path, schema: pa.Schema, tables: Iterable[pa.Table], **options: bool
) -> tuple[int, int]:
    """Write the tables, one row group each, in the place of what was there; rows and bytes written.

    On any failure, a killed process included, the file that was there is unchanged.
    `options` are those of `pyarrow.parquet.ParquetWriter`.
    """
    rows = 0
    with _whole_file(path) as file:
        with pq.ParquetWriter(file, _for_pandas(schema), compression="zstd", **options) as writer:
            for table in tables:
                writer.write_table(table.cast(writer.schema), row_group_size=table.num_rows)
                rows += table.num_rows
        return rows, file.tell()


@contextmanager
def temporary_file(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` that is gone at the end of the block."""
    temporary = _temporary(path)
    try:
        with temporary.open("w+b") as file:
            yield file
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def make_folder(folder: Path) -> None:
    """Make the folder and its parents, each on the disk before the next."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _lock(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ExportError(
            f"Another export is writing to {folder}.", "Wait for it, or name another directory."
        ) from None


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}.tmp")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _for_pandas(schema: pa.Schema) -> pa.Schema:
    columns = [
        {
            "name": field.name,
            "field_name": field.name,
            "pandas_type": str(field.type),
            "numpy_type": PANDAS_TYPES[field.type],
            "metadata": None,
        }
        for field in schema
        if field.type in PANDAS_TYPES
    ]
    metadata = {"index_columns": [], "column_indexes": [], "columns": columns}
    return schema.with_metadata({"pandas": json.dumps(metadata)})

"""Stored rows to Parquet, one file for each UTC day.

Memory is bounded by a page and a row group, whatever the range. A file is there
whole or not at all, and an export that is run again replaces the days it covers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Literal

import orjson
import pyarrow as pa

from ringstats_ts.errors import ExportError, NotFound
from ringstats_ts.export.parquet import locked, make_folder, temporary_file, write_parquet
from ringstats_ts.export.wide import Record, Spill, flatten
from ringstats_ts.model import JSON, Source
from ringstats_ts.sql import statements
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.pages import Pages, Range, days

Layout = Literal["rows", "wide"]
Progress = Callable[[str, int], None]

PAGE_ROWS = 5_000
PAGE_DOCUMENTS = 4
GROUP_ROWS = 100_000

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export wrote."""

    files: tuple[Path, ...] = ()
    rows: int = 0
    bytes: int = 0

    def __add__(self, other: ExportSummary) -> ExportSummary:
        return ExportSummary(self.files + other.files, self.rows + other.rows, self.bytes + other.bytes)

    def as_dict(self) -> dict[str, JSON]:
        return {"files": [str(path) for path in self.files], "rows": self.rows, "bytes": self.bytes}


def export(
    source: Source,
    database: Database,
    out: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    layout: Layout = "rows",
    host: str | None = None,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write what is stored of a source to Parquet files under `out`.

    Parameters
    ----------
    since, until
        the range, `since` <= time < `until`, aware; None for no bound. A file holds the
        part of its day that is in the range.
    layout
        `rows`: `<table>/date=YYYY-MM-DD/<table>-YYYYMMDD.parquet`, the schema of a table
        the same in all of its files; `<table>/source=<source>/date=…` where sources share
        it. `wide`: `YYYY/MM/tailscale-status-YYYYMMDD.parquet`,
        a row for each document and a column for each of its values; in a folder for each
        host where there are several.
    host
        name or identity of the host to export; None for all.
    progress
        called with what is being written and the number of rows that were added to it.

    Raises
    ------
    ExportError
        where a file cannot be written. Files named until then are whole.
    NotFound
        where no such host has reported.
    """
    if layout == "wide" and _documents(source) not in statements():
        raise ExportError(f"Source {source.name} has no wide layout.", "Use `rows`.")
    write = _write_wide if layout == "wide" else _write_rows
    with _translated(out):
        make_folder(out)
        with locked(out):
            hosts = _hosts(source, database, host)
            job = _Job(source, database, out, hosts, since, until, progress)
            return sum(write(job), ExportSummary())


@dataclass(frozen=True, slots=True)
class _Job:
    source: Source
    database: Database
    out: Path
    hosts: Sequence[tuple[int, str]]
    since: datetime | None
    until: datetime | None
    progress: Progress | None

    def rows(self, host_ids: Sequence[int]) -> Range:
        return Range(host_ids, self.since, self.until, self.source.name)

    def folder(self, table: str) -> Path:
        """Where the files of a table lie: for one that several sources share, by source."""
        shared = "%(source)s" in statements()[f"export_{table}"]
        return self.out / table / f"source={self.source.name}" if shared else self.out / table

    def read(self, pages: Pages, rows: Range, day: datetime, label: str) -> Iterator[pa.Table]:
        """The pages of a day, told to `progress` as they come."""
        since = max(day, rows.since or day)
        until = min(day + DAY, rows.until or day + DAY)
        for page in pages.read(replace(rows, since=since, until=until)):
            if self.progress is not None:
                self.progress(f"{label} {day:%Y-%m-%d}", page.num_rows)
            yield page


def _hosts(source: Source, database: Database, host: str | None) -> list[tuple[int, str]]:
    hosts = [
        (host_id, name) for host_id, name in database.rows(f"export_hosts_{source.name}", {"host": host})
    ]
    if host is not None and not hosts:
        raise NotFound(
            f"No host {host!r} has sent anything of source {source.name}.",
            "`tsstats query 'SELECT name FROM hosts'` lists the hosts.",
        )
    return hosts


def _write_rows(job: _Job) -> Iterator[ExportSummary]:
    rows = job.rows([host_id for host_id, _ in job.hosts])
    for table in job.source.tables:
        if f"export_{table}" not in statements():
            continue
        pages = Pages(job.database, f"export_{table}", PAGE_ROWS)
        for day in days(job.database, table, rows):
            path = job.folder(table) / f"date={day:%Y-%m-%d}" / f"{table}-{day:%Y%m%d}.parquet"
            yield _write(path, pages.schema, _grouped(job.read(pages, rows, day, table)))


def _grouped(pages: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join pages to row groups: small ones cost readers more than they save."""
    waiting: list[pa.Table] = []
    for page in pages:
        waiting.append(page)
        if sum(table.num_rows for table in waiting) >= GROUP_ROWS:
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _write_wide(job: _Job) -> Iterator[ExportSummary]:
    pages = Pages(job.database, _documents(job.source), PAGE_DOCUMENTS)
    for (host_id, name), folder in zip(job.hosts, _folders(job.out, job.hosts), strict=True):
        rows = job.rows([host_id])
        for day in days(job.database, f"{job.source.name}_status", rows):
            file = folder / f"{day:%Y}" / f"{day:%m}" / f"{job.source.name}-status-{day:%Y%m%d}.parquet"
            with temporary_file(job.out / f"{file.name}.ndjson") as waiting:
                spill = Spill(waiting)
                for page in job.read(pages, rows, day, name):
                    for record in _records(page):
                        spill.add(record)
                # Statistics of thousands of columns would outweigh the values.
                yield _write(file, spill.schema, spill.tables(), write_statistics=False)


def _documents(source: Source) -> str:
    return f"export_documents_{source.name}"


def _records(page: pa.Table) -> Iterator[Record]:
    times, documents = page.column("time"), page.column("document")
    for time, document in zip(times.to_pylist(), documents.to_pylist(), strict=True):
        record = dict(flatten(orjson.loads(document)))
        yield record | {"_timestamp": time.astimezone(UTC).isoformat(timespec="microseconds")}


def _folders(out: Path, hosts: Sequence[tuple[int, str]]) -> list[Path]:
    """One host's files lie in `out` itself; of several, each has a folder named after it."""
    if len(hosts) == 1:
        return [out]
    names = [re.sub(r"[^\w.-]", "_", name).lstrip(".")[:80] for _, name in hosts]
    return [
        out / (name if name and names.count(name) == 1 else f"{name}~{host_id}")
        for name, (host_id, _) in zip(names, hosts, strict=True)
    ]


def _write(path: Path, schema: pa.Schema, tables: Iterator[pa.Table], **options: bool) -> ExportSummary:
    """Write the file, unless there is nothing to put in it."""
    first = next(tables, None)
    if first is None:
        return ExportSummary()
    make_folder(path.parent)
    rows, size = write_parquet(path, schema, chain([first], tables), **options)
    return ExportSummary((path,), rows, size)


@contextmanager
def _translated(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{error.filename or out} cannot be written: {error.strerror or error}.",
            "Make room or name another directory, and export again; the files that are there are whole.",
        ) from error

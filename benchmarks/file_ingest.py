"""How fast `tsstats ingest` stores saved files, beside COPY of the very same rows into the very same tables.

Makes a folder of files as cron would have saved them, and stores it in a database of its own.
Not a test: figures mean something only beside one another, from one run on one idle machine.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import click
import orjson
import psycopg2
from documents import documents
from http_ingest import COPIES, Connection, copied, copy_in, own_database, server_version

HOSTS = {"10-14": 100, "100": 10}
"""By the peers of a document: hosts, of each of which there are files of so many minutes."""

MINUTES = 100

INGEST = """
import sys, time
from ringstats_ts.cli import main
verb = sys.modules["ringstats_ts.cli.ingest"]
refresh = verb._refresh

def timed(*arguments):
    began = time.perf_counter()
    refresh(*arguments)
    print(time.perf_counter() - began, file=sys.stderr)

verb._refresh = timed
main()
"""
"""`tsstats`, telling how long it refreshed the aggregates."""


@dataclass(frozen=True)
class Run:
    """Rows, and the seconds that they took: to store with start and end of `tsstats`, to refresh, to COPY."""

    rows: int
    store: float
    refresh: float
    copy: float


@dataclass(frozen=True)
class Result:
    """The medians of the runs."""

    peers: str
    files: int
    files_per_second: float
    rows_per_second: float
    to_bulk_ratio: float
    refresh_seconds: float
    copy_seconds: float


class Benchmark:
    """Stores one folder after the other, each of hosts of its own, in one database."""

    def __init__(self, uri: str, age: timedelta) -> None:
        self._uri = uri
        self._start = datetime.now(UTC).replace(second=0, microsecond=0) - age - timedelta(minutes=MINUTES)
        self._connection: Connection = psycopg2.connect(uri)
        self._connection.autocommit = True
        self._hosts = count()
        self._copies = count(COPIES, COPIES)

    def close(self) -> None:
        self._connection.close()

    def run(self, peers: str) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            names = [self._save(Path(folder), peers) for _ in range(HOSTS[peers])]
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", INGEST, "ingest", folder, "--json"],
                env=os.environ | {"DATABASE_URI": self._uri},
                capture_output=True,
                check=True,
            )
            taken = time.perf_counter() - began
        summary, refresh = orjson.loads(done.stdout), float(done.stderr)
        if summary["stored"] != HOSTS[peers] * MINUTES:
            raise click.ClickException(f"Not all files were stored: {done.stdout.decode()}")
        return Run(summary["rows"], taken - refresh, refresh, self._copy(names))

    def _save(self, folder: Path, peers: str) -> str:
        """Save what cron would have of one more host; its name."""
        host = next(self._hosts)
        number = 10 + host % 5 if peers == "10-14" else int(peers)
        for at, document in documents(host, number, MINUTES, start=self._start):
            path = folder / f"reporter{host}-{at:%Y%m%dT%H%M}.json"
            path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
            os.utime(path, (at.timestamp(), at.timestamp()))
        return f"reporter{host}"

    def _copy(self, names: list[str]) -> float:
        """COPY what became of these hosts, under other host ids, in one transaction; the seconds."""
        texts = copied(self._connection, names, next(self._copies))
        with self._connection.cursor() as cursor:
            began = time.perf_counter()
            copy_in(cursor, texts)
            return time.perf_counter() - began


def result(peers: str, runs: list[Run]) -> Result:
    store, refresh, copy = (
        statistics.median(getattr(run, name) for run in runs) for name in ("store", "refresh", "copy")
    )
    files = HOSTS[peers] * MINUTES
    return Result(peers, files, files / store, runs[0].rows / store, copy / store, refresh, copy)


def shown(measured: list[Result]) -> str:
    return "\n".join(
        [
            f"{'peers':>5}  {'files':>6}  {'files/s':>7}  {'rows/s':>7}  {'of bulk':>7}"
            f"  {'refresh [s]':>11}  {'COPY [s]':>8}",
            *(
                f"{one.peers:>5}  {one.files:>6,}  {one.files_per_second:>7,.0f}"
                f"  {one.rows_per_second:>7,.0f}  {one.to_bulk_ratio:>7.3f}"
                f"  {one.refresh_seconds:>11.2f}  {one.copy_seconds:>8.2f}"
                for one in measured
            ),
        ]
    )


@click.command()
@click.option("--database", envvar="DATABASE_URI", show_envvar=True, help="Server to make a database in.")
@click.option("--peers", type=click.Choice(list(HOSTS)), multiple=True, help="Only these.")
@click.option("--days", default=3, show_default=True, type=click.IntRange(min=0), help="Age of the files.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Runs of each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(database: str | None, peers: tuple[str, ...], days: int, runs: int, as_json: bool) -> None:
    """Measure files and rows per second of `tsstats ingest`, and of COPY of the same rows."""
    with own_database(database) as uri, closing(Benchmark(uri, timedelta(days=days))) as benchmark:
        measured = [result(size, [benchmark.run(size) for _ in range(runs)]) for size in peers or HOSTS]
        with closing(psycopg2.connect(uri)) as connection:
            version = server_version(connection)
    about: dict[str, Any] = {
        "database": ("embedded, " if database is None else "") + version,
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "runs": runs,
    }
    if as_json:
        click.echo(orjson.dumps(about | {"results": list(map(asdict, measured))}, option=orjson.OPT_INDENT_2))
    else:
        click.echo(", ".join(f"{name}: {value}" for name, value in about.items()))
        click.echo(shown(measured))


if __name__ == "__main__":
    main()

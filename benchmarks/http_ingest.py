"""How fast documents go in over HTTP, beside COPY of the very same rows into the very same tables.

Starts the service as it is shipped on a database of its own (made in DATABASE_URI's
server and dropped at the end, or an embedded one in a temporary directory). Not a test:
figures mean something only beside one another, from one run on one idle machine.
"""

from __future__ import annotations

import http.client
import io
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from urllib.parse import quote

import click
import orjson
import psycopg2
import psycopg2.extensions
from documents import STEP, documents

from ringstats_ts import embedded
from ringstats_ts.storage import policies, schema
from ringstats_ts.storage.database import Database

DOCUMENTS = {10: 400, 100: 100, 1000: 20}
TABLES = ("tailscale_status", "tailscale_peers")
CONNECTIONS = (1, 4)

# Copies of rows go under host ids that the service does not give: nothing has to be deleted
# between runs, and no run finds dead rows of another.
COPIES = 1_000_000

Connection = psycopg2.extensions.connection


@dataclass(frozen=True)
class Series:
    """What one host sends: times and bodies."""

    host: str
    samples: list[tuple[datetime, bytes]]


@dataclass(frozen=True)
class Result:
    """The median of the runs of one way in."""

    peers: int
    way: str
    documents_per_second: float
    rows_per_second: float
    to_bulk_ratio: float


@contextmanager
def own_database(server: str | None) -> Iterator[str]:
    """A migrated database that is gone at the end."""
    if server is None:
        with tempfile.TemporaryDirectory() as folder, embedded.open_database(Path(folder)) as uri:
            yield migrated(uri)
        return
    name = f"tsstats_benchmark_{os.getpid()}"
    administrator = psycopg2.connect(server)
    administrator.autocommit = True
    with administrator.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        try:
            yield migrated(psycopg2.extensions.make_dsn(server, dbname=name))
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def migrated(uri: str) -> str:
    with Database(uri) as database:
        schema.migrate(database, uri)
        policies.apply(database, {})
    return uri


@contextmanager
def service(uri: str) -> Iterator[int]:
    """The web service as `tsstats serve` runs it; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ringstats_ts.cli", "serve", "--listen", f"127.0.0.1:{port}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=os.environ | {"DATABASE_URI": uri}, stdout=log, stderr=log)
        try:
            wait_until_ready(process, port, log)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: io.BufferedRandom) -> None:
    for _ in range(300):
        if process.poll() is not None:
            log.seek(0)
            raise click.ClickException(f"The service ended: {log.read().decode(errors='replace')}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise click.ClickException("The service did not become ready within 30 s.")


class Benchmark:
    """Runs the ways in, one after the other, on one database."""

    def __init__(self, port: int, connection: Connection) -> None:
        self._port = port
        self._connection = connection
        self._hosts = count()
        self._copies = count(COPIES, COPIES)

    def run(self, peers: int) -> dict[str, float]:
        """Seconds that each way took for the same documents."""
        taken = {}
        for connections in CONNECTIONS:
            series = [self._series(peers, DOCUMENTS[peers] // connections) for _ in range(connections)]
            taken[f"http, {connections} connection{'s' if connections > 1 else ''}"] = self._http(series)
        hosts = [one.host for one in series]
        whole = self._rows(hosts)
        taken["COPY, a transaction a document"] = self._copy(by_document(self._rows(hosts)))
        taken["COPY, all at once"] = self._copy([whole])
        return taken

    def _series(self, peers: int, number: int) -> Series:
        """One document more than asked for: the first makes the host and is not measured."""
        host = next(self._hosts)
        # Never late, so that no refresh of aggregates runs beside.
        start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=2) - number * STEP
        samples = [
            (at, orjson.dumps(document)) for at, document in documents(host, peers, number + 1, start=start)
        ]
        return Series(f"reporter{host}", samples)

    def _http(self, series: list[Series]) -> float:
        clients = [http.client.HTTPConnection("127.0.0.1", self._port, timeout=60) for _ in series]
        for client, one in zip(clients, series, strict=True):
            post(client, one.host, one.samples[:1])
        with ThreadPoolExecutor(len(series)) as pool:
            began = time.perf_counter()
            sent = [
                pool.submit(post, client, one.host, one.samples[1:])
                for client, one in zip(clients, series, strict=True)
            ]
            for future in sent:
                future.result()
            taken = time.perf_counter() - began
        for client in clients:
            client.close()
        return taken

    def _rows(self, hosts: list[str]) -> dict[str, str]:
        """What the hosts' measured documents became, as COPY's text, under host ids of their own."""
        shift = next(self._copies)
        rows = {}
        with self._connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(f"SELECT * FROM {table} LIMIT 0")
                others = ", ".join(f"sample.{column.name}" for column in cursor.description[1:])
                query = cursor.mogrify(
                    f"SELECT sample.host_id + {shift}, {others}"
                    f" FROM {table} AS sample JOIN hosts USING (host_id)"
                    " WHERE hosts.name = ANY(%s) AND sample.time > hosts.first_seen ORDER BY sample.time",
                    (hosts,),
                )
                text = io.StringIO()
                cursor.copy_expert(f"COPY ({query.decode()}) TO STDOUT", text)
                rows[table] = text.getvalue()
        return rows

    def _copy(self, transactions: list[dict[str, str]]) -> float:
        began = time.perf_counter()
        with self._connection.cursor() as cursor:
            for rows in transactions:
                cursor.execute("BEGIN")
                for table, text in rows.items():
                    cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(text))
                cursor.execute("COMMIT")
        return time.perf_counter() - began


def post(client: http.client.HTTPConnection, host: str, samples: list[tuple[datetime, bytes]]) -> None:
    for at, body in samples:
        client.request("POST", f"/v1/ingest/tailscale?host={host}&time={quote(at.isoformat())}", body)
        response = client.getresponse()
        answer = response.read()
        if response.status != http.HTTPStatus.OK or orjson.loads(answer)["duplicate"]:
            raise click.ClickException(f"A document was not stored: {response.status} {answer.decode()}")


def by_document(rows: dict[str, str]) -> list[dict[str, str]]:
    """Cut COPY's text where host or time changes."""
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for table, text in rows.items():
        place = 1 if table == "tailscale_status" else 2
        for line in text.splitlines(keepends=True):
            cells = line.split("\t", 3)
            found[cells[0], cells[place]][table].append(line)
    return [{table: "".join(lines) for table, lines in tables.items()} for tables in found.values()]


def results(peers: int, runs: list[dict[str, float]]) -> list[Result]:
    seconds = {way: statistics.median(run[way] for run in runs) for way in runs[0]}
    bulk = seconds["COPY, all at once"]
    number = DOCUMENTS[peers]
    return [
        Result(peers, way, number / taken, number * (peers + 1) / taken, bulk / taken)
        for way, taken in seconds.items()
    ]


def shown(measured: list[Result]) -> str:
    lines = [f"{'peers':>5}  {'way':32}  {'documents/s':>11}  {'rows/s':>9}  {'of bulk':>7}"]
    lines += [
        f"{one.peers:>5}  {one.way:32}  {one.documents_per_second:>11,.1f}  {one.rows_per_second:>9,.0f}"
        f"  {one.to_bulk_ratio:>7.3f}"
        for one in measured
    ]
    return "\n".join(lines)


def server_version(connection: Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('server_version'), extversion FROM pg_extension"
            " WHERE extname = 'timescaledb'"
        )
        return "PostgreSQL {}, TimescaleDB {}".format(*cursor.fetchone())


@click.command()
@click.option("--database", envvar="DATABASE_URI", show_envvar=True, help="Server to make a database in.")
@click.option(
    "--peers", type=click.Choice([str(size) for size in DOCUMENTS]), multiple=True, help="Only these."
)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Runs of each way.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(database: str | None, peers: tuple[str, ...], runs: int, as_json: bool) -> None:
    """Measure documents and rows per second over HTTP, and by COPY of the same rows."""
    sizes = [int(size) for size in peers] or list(DOCUMENTS)
    with own_database(database) as uri, service(uri) as port:
        connection = psycopg2.connect(uri)
        connection.autocommit = True
        benchmark = Benchmark(port, connection)
        measured = [
            one for size in sizes for one in results(size, [benchmark.run(size) for _ in range(runs)])
        ]
        about = {
            "database": ("embedded, " if database is None else "") + server_version(connection),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "runs": runs,
        }
        connection.close()
    if as_json:
        click.echo(
            orjson.dumps(about | {"results": [asdict(one) for one in measured]}, option=orjson.OPT_INDENT_2)
        )
    else:
        click.echo(", ".join(f"{name}: {value}" for name, value in about.items()))
        click.echo(shown(measured))


if __name__ == "__main__":
    main()

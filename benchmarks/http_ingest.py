"""How fast documents go in over HTTP, beside COPY of the very same rows into the very same tables.

Starts the service as it is shipped on a database of its own (made in DATABASE_URI's
server and dropped at the end, or an embedded one in a temporary directory). Not a test:
figures mean something only beside one another, from one run on one idle machine.

The client is lean, since it shares the processors with what it measures: requests are made
before the clock runs, and go out of plain sockets.
"""

from __future__ import annotations

import cProfile
import http.client
import io
import os
import platform
import pstats
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import orjson
import psycopg2
import psycopg2.extensions
from documents import STEP, documents

from ringstats_ts import embedded
from ringstats_ts.config import Config
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.storage import policies, schema
from ringstats_ts.storage.database import Database

DOCUMENTS = {10: 400, 100: 100, 1000: 20}
TABLES = ("tailscale_status", "tailscale_peers")
CONNECTIONS = (1, 4)
BULK = "COPY, all at once"

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
class Run:
    """Seconds that each way took for the same documents, and latencies [seconds] at half of the peak rate."""

    seconds: dict[str, float]
    latencies: list[float]


@dataclass(frozen=True)
class Result:
    """The median of the runs of one way in."""

    peers: int
    way: str
    documents_per_second: float
    rows_per_second: float
    to_copy_ratio: float
    to_bulk_ratio: float


@dataclass(frozen=True)
class Latency:
    """How long answers took at half of the peak rate over all connections."""

    peers: int
    documents_per_second: float
    p50_ms: float
    p99_ms: float


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


class Client:
    """Posts requests as they are, each over a connection of its own, as curl does.

    Few connections that are kept open may all be with the same worker.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def post(self, request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request)
            answer = b""
            while received := connection.recv(65536):
                answer += received
        if not answer.startswith(b"HTTP/1.1 200") or b'"duplicate":false' not in answer.replace(b" ", b""):
            raise click.ClickException(f"A document was not stored: {answer.decode()}")


def requests(series: Series) -> list[bytes]:
    return [
        b"POST /v1/ingest/tailscale?host=%b&time=%b HTTP/1.1\r\n"
        b"Host: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (series.host.encode(), quote(at.isoformat()).encode(), len(body), body)
        for at, body in series.samples
    ]


class Benchmark:
    """Runs the ways in, one after the other, on one database."""

    def __init__(self, port: int, uri: str) -> None:
        self._port = port
        self._connections = [psycopg2.connect(uri) for _ in range(max(CONNECTIONS))]
        for connection in self._connections:
            connection.autocommit = True
        self._hosts = count()
        self._copies = count(COPIES, COPIES)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def run(self, peers: int) -> Run:
        """Send the same documents each way."""
        taken = {}
        for connections in CONNECTIONS:
            series = [self.series(peers, DOCUMENTS[peers] // connections) for _ in range(connections)]
            taken[way("http", connections)] = self._http([requests(one) for one in series])
            copies = [by_document(self._rows([one.host])) for one in series]
            taken[way("COPY a document", connections)] = self._copy(copies)
        rate = DOCUMENTS[peers] / taken[way("http", connections)] / 2
        taken[BULK] = self._copy([[self._rows([one.host for one in series])]])
        return Run(taken, self._latencies(peers, rate))

    def series(self, peers: int, number: int) -> Series:
        """One document more than asked for: the first makes the host and is not measured."""
        host = next(self._hosts)
        # Never late, so that no refresh of aggregates runs beside.
        start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=2) - number * STEP
        samples = [
            (at, orjson.dumps(document)) for at, document in documents(host, peers, number + 1, start=start)
        ]
        return Series(f"reporter{host}", samples)

    def _http(self, bodies: list[list[bytes]]) -> float:
        def send(client: Client, own: list[bytes]) -> None:
            for request in own:
                client.post(request)

        clients = self._clients(bodies)
        return together(send, zip(clients, [own[1:] for own in bodies], strict=True))

    def _latencies(self, peers: int, rate: float) -> list[float]:
        """From when a request was due to its answer: a slow answer makes the next ones late, too."""
        connections = max(CONNECTIONS)
        bodies = [requests(self.series(peers, DOCUMENTS[peers] // connections)) for _ in range(connections)]
        taken: list[float] = []

        def send(client: Client, own: list[bytes], offset: float) -> None:
            due = time.perf_counter() + offset
            for request in own:
                time.sleep(max(0.0, due - time.perf_counter()))
                client.post(request)
                taken.append(time.perf_counter() - due)
                due += connections / rate

        offsets = [number / rate for number in range(connections)]
        together(send, zip(self._clients(bodies), [own[1:] for own in bodies], offsets, strict=True))
        return taken

    def _clients(self, bodies: list[list[bytes]]) -> list[Client]:
        """One for each host, whose first document is sent."""
        clients = [Client(self._port) for _ in bodies]
        for client, own in zip(clients, bodies, strict=True):
            client.post(own[0])
        return clients

    def _rows(self, hosts: list[str]) -> dict[str, str]:
        """What the hosts' measured documents became, as COPY's text, under host ids of their own."""
        shift = next(self._copies)
        return copied(self._connections[0], hosts, shift, "sample.time > hosts.first_seen")

    def _copy(self, shares: list[list[dict[str, str]]]) -> float:
        """COPY each share over a connection of its own."""

        def copy(connection: Connection, transactions: list[dict[str, str]]) -> None:
            with connection.cursor() as cursor:
                for rows in transactions:
                    copy_in(cursor, rows)

        return together(copy, zip(self._connections, shares, strict=False))


def together(run: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> float:
    """Run it once for each of the arguments, all at once; the seconds until the last one is done."""
    calls = list(arguments)
    with ThreadPoolExecutor(len(calls)) as pool:
        began = time.perf_counter()
        for future in [pool.submit(run, *call) for call in calls]:
            future.result()
        return time.perf_counter() - began


def way(name: str, connections: int) -> str:
    return f"{name}, {connections} connection{'s' if connections > 1 else ''}"


def profile(uri: str, peers: int, benchmark: Benchmark) -> str:
    """Where the time of one document goes, without HTTP: the functions that take most of it."""
    config = Config.from_env({}, database_uri=uri)
    one = benchmark.series(peers, DOCUMENTS[peers])
    profiler, now = cProfile.Profile(), datetime.now(UTC)
    with Database(uri) as database:
        for number, (at, body) in enumerate(one.samples):
            payload = Payload(body, at + STEP, source="tailscale", host=one.host, time=at)
            if number:
                profiler.enable()
            ingest(payload, database, config, now=now)
            profiler.disable()
    out = io.StringIO()
    pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(25)
    return f"{peers} peers, {DOCUMENTS[peers]} documents\n{out.getvalue()}"


def copied(connection: Connection, hosts: list[str], shift: int, which: str = "TRUE") -> dict[str, str]:
    """The hosts' rows of each table, as COPY's text, with `shift` added to their host ids."""
    rows = {}
    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"SELECT * FROM {table} LIMIT 0")
            others = ", ".join(f"sample.{column.name}" for column in cursor.description[1:])
            query = cursor.mogrify(
                f"SELECT sample.host_id + {shift}, {others}"
                f" FROM {table} AS sample JOIN hosts USING (host_id)"
                f" WHERE hosts.name = ANY(%s) AND {which} ORDER BY sample.host_id, sample.time",
                (hosts,),
            )
            text = io.StringIO()
            cursor.copy_expert(f"COPY ({query.decode()}) TO STDOUT", text)
            rows[table] = text.getvalue()
    return rows


def copy_in(cursor: psycopg2.extensions.cursor, rows: dict[str, str]) -> None:
    """COPY the rows of each table, in one transaction."""
    cursor.execute("BEGIN")
    for table, text in rows.items():
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(text))
    cursor.execute("COMMIT")


def by_document(rows: dict[str, str]) -> list[dict[str, str]]:
    """Cut COPY's text where host or time changes."""
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for table, text in rows.items():
        place = 1 if table == "tailscale_status" else 2
        for line in text.splitlines(keepends=True):
            cells = line.split("\t", 3)
            found[cells[0], cells[place]][table].append(line)
    return [{table: "".join(lines) for table, lines in tables.items()} for tables in found.values()]


def results(peers: int, runs: list[Run]) -> list[Result]:
    seconds = {name: statistics.median(run.seconds[name] for run in runs) for name in runs[0].seconds}
    number = DOCUMENTS[peers]
    return [
        Result(
            peers,
            name,
            number / taken,
            number * (peers + 1) / taken,
            seconds[name.replace("http", "COPY a document")] / taken,
            seconds[BULK] / taken,
        )
        for name, taken in seconds.items()
    ]


def latency(peers: int, runs: list[Run]) -> Latency:
    rate = (
        DOCUMENTS[peers] / statistics.median(run.seconds[way("http", max(CONNECTIONS))] for run in runs) / 2
    )
    hundredths = statistics.quantiles([one for run in runs for one in run.latencies], n=100)
    return Latency(peers, rate, hundredths[49] * 1000, hundredths[98] * 1000)


def shown(measured: list[Result], latencies: list[Latency]) -> str:
    lines = [
        f"{'peers':>5}  {'way':31}  {'documents/s':>11}  {'rows/s':>9}  {'of COPY':>7}  {'of bulk':>7}",
        *(
            f"{one.peers:>5}  {one.way:31}  {one.documents_per_second:>11,.1f}  {one.rows_per_second:>9,.0f}"
            f"  {one.to_copy_ratio:>7.3f}  {one.to_bulk_ratio:>7.3f}"
            for one in measured
        ),
        "",
        f"{'peers':>5}  {'documents/s':>11}  {'p50 [ms]':>9}  {'p99 [ms]':>9}",
        *(
            f"{one.peers:>5}  {one.documents_per_second:>11,.1f}  {one.p50_ms:>9,.1f}  {one.p99_ms:>9,.1f}"
            for one in latencies
        ),
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
@click.option("--profile", "profiled", is_flag=True, help="Show where a worker's time goes, instead.")
def main(database: str | None, peers: tuple[str, ...], runs: int, as_json: bool, profiled: bool) -> None:
    """Measure documents and rows per second over HTTP, and by COPY of the same rows."""
    sizes = [int(size) for size in peers] or list(DOCUMENTS)
    measured, latencies = [], []
    with own_database(database) as uri, service(uri) as port, closing(Benchmark(port, uri)) as benchmark:
        if profiled:
            click.echo("\n".join(profile(uri, size, benchmark) for size in sizes))
            return
        for size in sizes:
            done = [benchmark.run(size) for _ in range(runs)]
            measured += results(size, done)
            latencies.append(latency(size, done))
        with closing(psycopg2.connect(uri)) as connection:
            version = server_version(connection)
    about = {
        "database": ("embedded, " if database is None else "") + version,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "runs": runs,
    }
    if as_json:
        figures = {"results": list(map(asdict, measured)), "latencies": list(map(asdict, latencies))}
        click.echo(orjson.dumps(about | figures, option=orjson.OPT_INDENT_2))
    else:
        click.echo(", ".join(f"{name}: {value}" for name, value in about.items()))
        click.echo(shown(measured, latencies))


if __name__ == "__main__":
    main()

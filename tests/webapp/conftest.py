"""A real gunicorn on a loopback port in front of the fixture database."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2.extensions
import pytest

from webapp.server import CONFIG_FILE


@pytest.fixture
def status(make_status):
    """Makes a status document of a reporter with two peers."""

    def make(reporter="web-1", rx_bytes=1000, **fields):
        return make_status(reporter, {"db-1": rx_bytes, "laptop": {"Online": False}}, **fields)

    return make


@pytest.fixture
def now():
    """A time to post for, in Unix seconds: within what is taken, whenever the tests run."""
    return int(time.time()) - 3600


@pytest.fixture
def body(status):
    """The bytes of a status document."""
    return json.dumps(status()).encode()


@dataclass
class Answer:
    status: int
    headers: dict
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def text(self):
        return self.content.decode()


@dataclass
class Server:
    process: subprocess.Popen
    port: int
    log_path: Path
    headers: dict = field(default_factory=dict)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def request(self, method, path="/", body=None, headers=None, chunked=False):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path="/", **headers):
        return self.request("GET", path, headers=headers)

    def post(self, body, path="/", headers=None):
        return self.request("POST", path, body, headers)

    def post_chunked(self, chunks, path="/", headers=None):
        headers = {"Transfer-Encoding": "chunked"} | (headers or {})
        return self.request("POST", path, iter(chunks), headers, chunked=True)

    def raw(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def log(self):
        return self.log_path.read_text()

    def log_lines(self, event="request"):
        lines = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def workers(self):
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _start(directory, database_uri, **environment):
    port = _free_port()
    log_path = directory / f"gunicorn-{port}.log"
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("TSSTATS_", "DATABASE"))
    }
    settings = {
        "DATABASE_URI": database_uri,
        "TSSTATS_LISTEN": f"127.0.0.1:{port}",
        "TSSTATS_WORKERS": "2",
        "TSSTATS_THREADS": "4",
        "TSSTATS_UPKEEP": "off",
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", str(CONFIG_FILE)],
            cwd=directory,
            env=kept | settings | environment,
            stdout=log,
            stderr=log,
        )
    server = Server(process, port, log_path)
    for _ in range(100):
        try:
            if server.get("/healthz").status == 200:
                return server
        except OSError:
            assert process.poll() is None, server.log()
            time.sleep(0.1)
    process.kill()
    process.wait()
    raise AssertionError(server.log())


@pytest.fixture
def clean(connection):
    """Empties every table but those whose ids a running service remembers; aggregates too."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables"
            " WHERE schemaname = 'public' AND tablename NOT LIKE '%%yoyo%%'"
            " AND tablename NOT IN ('policies', 'tailscale_nodes', 'attributes')"
        )
        (tables,) = cursor.fetchone()
        cursor.execute(f"TRUNCATE {tables}")
        cursor.execute("SELECT view_name FROM timescaledb_information.continuous_aggregates")
        for (view,) in cursor.fetchall():
            cursor.execute(f"TRUNCATE {view}")


@pytest.fixture(scope="package")
def server(tmp_path_factory, database_uri):
    """The service as shipped, but for its refresher of late windows."""
    running = _start(tmp_path_factory.mktemp("web"), database_uri)
    yield running
    running.stop()


@pytest.fixture
def start_server(tmp_path, database_uri):
    """Starts a service with other settings, for one test."""
    started = []

    def start(uri=database_uri, **environment):
        started.append(_start(tmp_path, uri, **environment))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture
def closed_uri():
    """A database address where nothing listens."""
    return f"postgresql://tsstats:secret-password@127.0.0.1:{_free_port()}/tsstats"


class Relay:
    """Stands between the service and the database, and cuts them off from each other."""

    def __init__(self, database_uri):
        self._dsn = psycopg2.extensions.parse_dsn(database_uri)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs = []
        self.open = True
        port = self._listener.getsockname()[1]
        self.uri = psycopg2.extensions.make_dsn(database_uri, host="127.0.0.1", port=port, sslmode="disable")
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            far = self._dial()
            self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _dial(self):
        host, port = self._dsn.get("host", "127.0.0.1"), int(self._dsn.get("port", 5432))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        far = socket.socket(socket.AF_UNIX)
        far.connect(f"{host}/.s.PGSQL.{port}")
        return far

    @staticmethod
    def _pump(source, sink):
        try:
            while received := source.recv(65536):
                sink.sendall(received)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """Hang up on every connection, as a restart does."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self):
        self._listener.close()
        self.cut()


@pytest.fixture
def relay(database_uri):
    running = Relay(database_uri)
    yield running
    running.close()


@pytest.fixture
def count(connection):
    """Counts the rows of a table."""

    def of(table):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table}")
            return cursor.fetchone()[0]

    return of


@pytest.fixture
def rejects(connection):
    """The refused payloads: reason, host, sender, size."""

    def read():
        with connection.cursor() as cursor:
            cursor.execute("SELECT reason, source, host, sender, size_bytes FROM rejects ORDER BY reject_id")
            return cursor.fetchall()

    return read

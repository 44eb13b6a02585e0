"""A real gunicorn on a loopback port in front of the fixture database."""

import contextlib
import json
import socket
import threading
import time

import psycopg2.extensions
import pytest

from tests.service import Server, free_port


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


THREADS = {"TSSTATS_THREADS": "4"}


@pytest.fixture(scope="package")
def server(tmp_path_factory, database_uri):
    """The service as shipped, but for its refresher of late windows."""
    with Server(database_uri, tmp_path_factory.mktemp("web"), **THREADS) as running:
        yield running


@pytest.fixture
def start_server(tmp_path, database_uri):
    """Starts a service with other settings, for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda uri=database_uri, **settings: stack.enter_context(
            Server(uri, tmp_path, **(THREADS | settings))
        )


@pytest.fixture
def closed_uri():
    """A database address where nothing listens."""
    return f"postgresql://tsstats:secret-password@127.0.0.1:{free_port()}/tsstats"


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

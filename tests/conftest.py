"""The database that the tests run on: the embedded one, or TSSTATS_TEST_DATABASE_URI.

Never a mock. On a server of your own the tests make a database of their own in it and
drop it at the end. An embedded one is a copy of a data directory that is made once for all
processes of a run: initdb takes ten times as long as a copy and a start.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from hypothesis import settings

from ringstats_ts import embedded
from ringstats_ts.config import Config
from ringstats_ts.storage import boundary, policies, schema
from ringstats_ts.storage.database import Database
from tests import examples
from tests.postgres import PostgresCluster, directories, why_not

settings.load_profile(examples.PROFILE)

ROOT = Path(__file__).parent.parent
SAMPLES = sorted((ROOT / "samples").glob("*.json"))

SERVER = os.environ.get("TSSTATS_TEST_DATABASE_URI")
"""The server that the tests run on; None is the embedded database."""

MOST_WORKERS = 4
"""Each has a database of half a gigabyte of memory, and services."""

# Most machines that run the tests are in UTC, where local time is as good as UTC. In this zone, which
# needs no table of zones, it is another day for more than half of the time.
os.environ["TZ"] = "<+1345>-13:45"
time.tzset()

if SERVER:
    # What migrates a server keeps a password; not among those of the person who runs the tests.
    os.environ.setdefault("TSSTATS_DATA", tempfile.mkdtemp(prefix="tsstats-data-"))

NEVER = "0001-01-01T00:00:00Z"

Connection = psycopg2.extensions.connection


def pytest_xdist_auto_num_workers() -> int:
    """As many processes as processors; on a server one, for its roles are those of all databases."""
    return 1 if SERVER else min(os.cpu_count() or 1, MOST_WORKERS)


@pytest.fixture(scope="session")
def empty_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of an embedded database without anything of ours, to be copied."""
    # Neither the length of its name nor its letters may matter to initdb.
    return _made_once(tmp_path_factory, "empty ünïcode " + "long" * 30, _make_empty)


@pytest.fixture(scope="session")
def migrated_data_dir(tmp_path_factory: pytest.TempPathFactory, empty_data_dir: Path) -> Path:
    """The data directory of a migrated embedded database, to be copied."""

    def make(data_dir: Path) -> None:
        shutil.copytree(empty_data_dir, data_dir)
        with embedded.open_database(data_dir) as uri:
            _migrate(uri)

    return _made_once(tmp_path_factory, "migrated", make)


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A data directory that the first process of the run to come here makes; the others wait for it."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / f"data-{name}"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(unfinished := shared / f"{name}.unfinished")
            unfinished.rename(made)
    return made


def _make_empty(data_dir: Path) -> None:
    with embedded.open_database(data_dir):
        pass


def _migrate(uri: str) -> None:
    with Database(uri) as database:
        schema.migrate(database, uri)
        boundary.close(database, uri)
        policies.apply(database, {})


@pytest.fixture(scope="session")
def new_database(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[..., AbstractContextManager[str]]:
    """Makes databases, each for the length of a block; a name tells them apart.

    They are without anything of ours, or `migrated`.
    """

    def make(name: str, *, migrated: bool = False) -> AbstractContextManager[str]:
        if SERVER:
            return _scratch_database(SERVER, f"tsstats_{name}_{os.getpid()}", migrated=migrated)
        template = request.getfixturevalue("migrated_data_dir" if migrated else "empty_data_dir")
        return embedded.open_database(shutil.copytree(template, tmp_path_factory.mktemp(name) / "data"))

    return make


@contextmanager
def _scratch_database(server: str, name: str, *, migrated: bool) -> Iterator[str]:
    administrator = psycopg2.connect(server)
    administrator.autocommit = True
    with administrator.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        uri = psycopg2.extensions.make_dsn(server, dbname=name)
        try:
            with Database(uri) as database:
                database.run("CREATE EXTENSION IF NOT EXISTS timescaledb")
                # The tests run the jobs themselves, at times of their own.
                database.run("SELECT _timescaledb_functions.stop_background_workers()")
            if migrated:
                _migrate(uri)
            yield uri
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    administrator.close()


@pytest.fixture(scope="session")
def database_uri(new_database: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """A migrated database. What is in it is whatever the test before left."""
    with new_database("test", migrated=True) as uri:
        yield uri


@pytest.fixture
def connection(database_uri: str) -> Iterator[Connection]:
    """A connection in autocommit, in UTC."""
    connection = psycopg2.connect(database_uri, options="-c TimeZone=UTC")
    connection.autocommit = True
    yield connection
    connection.close()


@pytest.fixture
def clean(connection: Connection) -> None:
    """Empty every table of ours but the policies; aggregates too, with their watermarks."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables"
            " WHERE schemaname = 'public' AND tablename NOT LIKE '%%yoyo%%' AND tablename <> 'policies'"
        )
        (tables,) = cursor.fetchone() or ("",)
        cursor.execute(f"TRUNCATE {tables} RESTART IDENTITY")
        cursor.execute("SELECT view_name FROM timescaledb_information.continuous_aggregates")
        for (view,) in cursor.fetchall():
            cursor.execute(f"TRUNCATE {view}")


@pytest.fixture
def database(database_uri: str, clean: None) -> Iterator[Database]:
    """An empty, migrated database, as the program uses it."""
    with Database(database_uri) as database:
        yield database


@pytest.fixture
def make_status() -> Callable[..., dict[str, Any]]:
    """Makes status documents: `make_status("gateway", peers={"db": 1000})` counts 1,000 bytes from db."""
    return status_document


def status_document(
    reporter: str = "gateway",
    peers: Mapping[str, int | Mapping[str, Any]] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A Running node of 1.94 and its peers: a number of received bytes, or fields to set."""
    listed = [
        _node(name, {"RxBytes": told, "TxBytes": 2 * told} if isinstance(told, int) else told)
        for name, told in ({"db": 1000} if peers is None else peers).items()
    ]
    return {
        "Version": "1.94.2-t0a29cf18b-g3f044c9f6",
        "TUN": True,
        "BackendState": "Running",
        "HaveNodeKey": True,
        "AuthURL": "",
        "TailscaleIPs": ["100.64.0.1"],
        "Self": _node(reporter, {"InEngine": False}),
        "Health": [],
        "MagicDNSSuffix": "tail0example.ts.net",
        "CurrentTailnet": {
            "Name": "example.com",
            "MagicDNSSuffix": "tail0example.ts.net",
            "MagicDNSEnabled": True,
        },
        "CertDomains": None,
        "Peer": {peer["PublicKey"]: peer for peer in listed},
        "User": {"1": {"ID": 1, "LoginName": "ana@example.com", "DisplayName": "Ana"}},
        "ClientVersion": None,
    } | fields


def _node(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": f"n{name}CNTRL",
        "PublicKey": f"nodekey:{name.encode().hex():0>64}",
        "HostName": name,
        "DNSName": f"{name}.tail0example.ts.net.",
        "OS": "linux",
        "UserID": 1,
        "TailscaleIPs": ["100.64.0.9"],
        "AllowedIPs": ["100.64.0.9/32"],
        "Addrs": None,
        "CurAddr": "",
        "Relay": "fra",
        "PeerRelay": "",
        "RxBytes": 0,
        "TxBytes": 0,
        "Created": "2025-07-08T22:30:58.706639886Z",
        "LastWrite": NEVER,
        "LastSeen": NEVER,
        "LastHandshake": NEVER,
        "Online": True,
        "ExitNode": False,
        "ExitNodeOption": False,
        "Active": False,
        "PeerAPIURL": None,
        "TaildropTarget": 0,
        "NoFileSharingReason": "",
        "InNetworkMap": True,
        "InMagicSock": True,
        "InEngine": True,
    } | dict(fields)


@pytest.fixture(scope="session")
def postgres_binaries() -> None:
    """Skips where no PostgreSQL of the test's own can be had."""
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def new_postgres(postgres_binaries: None) -> Iterator[Callable[..., PostgresCluster]]:
    """Makes clusters, not started: `new_postgres({"max_connections": "5"})`. They end with the session."""
    with directories() as directory, ExitStack() as stack:

        def make(conf: Mapping[str, str] | None = None, **options: Any) -> PostgresCluster:
            made = PostgresCluster(directory / str(next(numbers)), conf, **options)
            stack.callback(made.stop, "immediate")
            return made

        numbers = itertools.count()
        yield make


@pytest.fixture
def config(database_uri: str) -> Config:
    """The settings as they come, with the test database."""
    return Config.from_env({}, database_uri=database_uri)

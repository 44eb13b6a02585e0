"""A database for the tests that only talk to it; those that break one make their own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import psycopg2.extensions
import pytest

from ringstats_ts.embedded import EmbeddedDatabase

Connection = psycopg2.extensions.connection
Connect = Callable[..., Connection]


@pytest.fixture(scope="session")
def uri(empty_data_dir: Path) -> Iterator[str]:
    # Not tmp_path: its name is long and in ASCII, and neither may matter.
    data_dir = Path(tempfile.mkdtemp(prefix="tsstats ünïcode ")) / ("long" * 30)
    try:
        shutil.copytree(empty_data_dir, data_dir)
        with EmbeddedDatabase(data_dir) as database:
            yield database.uri
    finally:
        shutil.rmtree(data_dir.parent)


@pytest.fixture
def data_dir(empty_data_dir: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own, with an empty database."""
    return Path(shutil.copytree(empty_data_dir, tmp_path / "data"))


@pytest.fixture
def connect(uri: str) -> Iterator[Connect]:
    """Opens connections that are closed at the end of the test; autocommit unless told otherwise."""
    with contextlib.ExitStack() as stack:

        def opened(autocommit: bool = True, **parameters: str) -> Connection:
            connection = psycopg2.connect(uri, connect_timeout=20, **parameters)
            stack.callback(connection.close)
            connection.autocommit = autocommit
            return connection

        yield opened


@pytest.fixture
def run() -> Callable[..., list[tuple]]:
    def rows(connection: Connection, sql: str, *parameters: object) -> list[tuple]:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    return rows


@pytest.fixture
def table(connect: Connect, run: Callable[..., list[tuple]], request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an empty table `(id bigint, text text)`."""
    connection = connect()
    run(connection, "CREATE TABLE scratch (id bigint, text text)")
    yield "scratch"
    run(connect(), "DROP TABLE scratch")

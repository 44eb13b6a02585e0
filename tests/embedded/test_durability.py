"""What was acknowledged is there: after a restart, a kill, a power cut."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import psycopg2.extras
import pytest

from ringstats_ts.embedded import EmbeddedDatabase, supervisor

ROWS_PER_TRANSACTION = 5
KILLS = [2, pytest.param(20, marks=pytest.mark.faults)]
POWER_CUTS = 3
IMAGE_MB = 600


class Writers:
    """Threads that commit small transactions, and remember which were acknowledged."""

    def __init__(self, uri: str, count: int = 3) -> None:
        self.uri = uri
        self.acknowledged: list[int] = []
        self._numbers = iter(range(1, 10**9))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(psycopg2.Error):
                connection = psycopg2.connect(self.uri, connect_timeout=5)
                try:
                    self._commit_until_lost(connection)
                finally:
                    connection.close()
            time.sleep(0.05)

    def _commit_until_lost(self, connection) -> None:
        while not self._stop.is_set():
            with self._lock:
                number = next(self._numbers)
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO acknowledged SELECT now(), %s FROM generate_series(1, %s)",
                    (number, ROWS_PER_TRANSACTION),
                )
            connection.commit()
            self.acknowledged.append(number)


def create_table(uri: str) -> None:
    execute(uri, "CREATE TABLE acknowledged (time timestamptz NOT NULL, number bigint)")
    execute(uri, "SELECT create_hypertable('acknowledged', 'time')")


def execute(uri: str, *statements: str) -> list[tuple]:
    connection = psycopg2.connect(uri, connect_timeout=20)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


class Maintenance(threading.Thread):
    """Refreshes, compresses, vacuums and checkpoints, over and over."""

    STATEMENTS = (
        "CALL refresh_continuous_aggregate('by_second', NULL, NULL)",
        "SELECT compress_chunk(chunk) FROM show_chunks('acknowledged') AS chunk",
        "VACUUM (ANALYZE) acknowledged",
        "CHECKPOINT",
    )

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self.uri = uri
        self.ended = threading.Event()
        execute(
            uri,
            "ALTER TABLE acknowledged SET (timescaledb.columnstore, timescaledb.orderby = 'time')",
            """CREATE MATERIALIZED VIEW by_second WITH (timescaledb.continuous) AS
            SELECT time_bucket('1 second', time) AS bucket, count(*) AS n
            FROM acknowledged GROUP BY bucket WITH NO DATA""",
        )

    def run(self) -> None:
        while not self.ended.wait(0.05):
            for statement in self.STATEMENTS:
                with contextlib.suppress(psycopg2.Error):
                    execute(self.uri, statement)


def stored(uri: str) -> dict[int, int]:
    return dict(execute(uri, "SELECT number, count(*) FROM acknowledged GROUP BY number"))


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_restart_keeps_data_and_community_features(data_dir):
    with EmbeddedDatabase(data_dir) as database:
        execute(
            database.uri,
            "CREATE TABLE m (time timestamptz NOT NULL, host int, value float8)",
            "SELECT create_hypertable('m', 'time', chunk_time_interval => interval '1 day')",
            """INSERT INTO m
            SELECT g, 1, 1
            FROM generate_series('2024-01-01Z'::timestamptz, '2024-01-03Z', '1 min') AS g""",
            """CREATE MATERIALIZED VIEW m_hourly WITH (timescaledb.continuous) AS
            SELECT time_bucket('1 hour', time) AS bucket, count(*) AS n
            FROM m GROUP BY bucket WITH NO DATA""",
            "ALTER TABLE m SET (timescaledb.columnstore, timescaledb.segmentby = 'host')",
            "SELECT add_retention_policy('m', interval '100 years')",
        )
        uri = database.uri
    with EmbeddedDatabase(data_dir) as database:
        assert database.uri == uri
        execute(
            uri,
            "INSERT INTO m VALUES ('2024-01-03 00:00:30Z', 1, 1)",
            "CALL refresh_continuous_aggregate('m_hourly', NULL, NULL)",
            "SELECT compress_chunk(chunk) FROM show_chunks('m') AS chunk",
        )
        assert execute(uri, "SELECT sum(n) FROM m_hourly") == [(2882,)]
        assert execute(uri, "SELECT count(*) FROM m") == [(2882,)]
        jobs = "SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
        assert execute(uri, jobs) == [(1,)]


@pytest.mark.parametrize("kills", KILLS)
def test_kills_lose_nothing_that_was_acknowledged(kills, data_dir, monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF_SECONDS", 0.2)
    with EmbeddedDatabase(data_dir) as database:
        create_table(database.uri)
        writers, maintenance = Writers(database.uri), Maintenance(database.uri)
        writers.start()
        maintenance.start()
        for kill in range(kills):
            before = len(writers.acknowledged)
            wait_until(lambda before=before: len(writers.acknowledged) > before)
            time.sleep(random.uniform(0.1, 0.6))
            os.kill(database.node_pid, signal.SIGKILL)
            wait_until(lambda kill=kill: database.restarts == kill + 1)
        writers.stop()
        maintenance.ended.set()
        maintenance.join(60)
        found = stored(database.uri)
        execute(database.uri, Maintenance.STATEMENTS[0])
        assert execute(database.uri, "SELECT sum(n)::int FROM by_second") == [(sum(found.values()),)]
    assert len(writers.acknowledged) > kills
    assert set(writers.acknowledged) <= set(found)
    assert set(found.values()) == {ROWS_PER_TRANSACTION}


def test_endless_recursion_ends_the_process_and_nothing_else(data_dir):
    with EmbeddedDatabase(data_dir) as database:
        create_table(database.uri)
        execute(
            database.uri,
            "INSERT INTO acknowledged VALUES (now(), 1)",
            """CREATE FUNCTION endless(n int) RETURNS int LANGUAGE plpgsql AS
            $$ BEGIN RETURN 1 + endless(n + 1); END $$""",
        )
        with pytest.raises(psycopg2.Error):
            execute(database.uri, "SELECT endless(0)")
        wait_until(lambda: database.restarts == 1)
        assert stored(database.uri) == {1: 1}


def test_a_statement_that_never_ends_is_ended(data_dir, monkeypatch):
    monkeypatch.setenv("TSSTATS_EMBEDDED_STATEMENT_SECONDS", "2")
    with EmbeddedDatabase(data_dir) as database:
        with pytest.raises(psycopg2.OperationalError):
            execute(database.uri, "DO $$ BEGIN LOOP END LOOP; END $$")
        wait_until(lambda: database.restarts == 1)
        assert execute(database.uri, "SELECT 1") == [(1,)]


ENDLESS = [
    "SELECT count(*) FROM (SELECT g FROM generate_series(1, 100000000) AS g ORDER BY g + 1) AS sorted",
    "INSERT INTO acknowledged SELECT now(), 2 FROM generate_series(1, 100000000)",
    "COPY (SELECT g FROM generate_series(1, 1000000000) AS g WHERE g < 0) TO STDOUT",
    "DO $$ BEGIN LOOP END LOOP; END $$",
]


def test_a_statement_whose_client_has_gone_is_ended(data_dir, monkeypatch):
    monkeypatch.setenv("TSSTATS_EMBEDDED_GONE_SECONDS", "1")
    with EmbeddedDatabase(data_dir) as database:
        create_table(database.uri)
        execute(database.uri, "INSERT INTO acknowledged VALUES (now(), 1)")
        for restarts, statement in enumerate(ENDLESS, 1):
            with contextlib.closing(psycopg2.connect(database.uri, async_=True)) as gone:
                psycopg2.extras.wait_select(gone)
                gone.cursor().execute(statement)
                time.sleep(2)
            wait_until(lambda restarts=restarts: database.restarts == restarts)
            assert stored(database.uri) == {1: 1}
            assert not (data_dir / "pgdata/base/pgsql_tmp").exists()


def test_a_damaged_page_is_an_error_and_not_another_truth(data_dir):
    with EmbeddedDatabase(data_dir) as database:
        execute(database.uri, "CREATE TABLE names (name text)", "INSERT INTO names VALUES ('gateway')")
        [(path,)] = execute(database.uri, "SELECT pg_relation_filepath('names')")
    file = data_dir / "pgdata" / path
    page = file.read_bytes()
    assert page.count(b"gateway") == 1
    file.write_bytes(page.replace(b"gateway", b"Gateway"))
    with EmbeddedDatabase(data_dir) as database:
        assert execute(database.uri, "SHOW data_checksums") == [("on",)]
        with pytest.raises(psycopg2.errors.DataCorrupted, match="invalid page"):
            execute(database.uri, "SELECT * FROM names")


def test_every_page_that_is_there_from_the_start_has_its_checksum(data_dir):
    """Read by the database itself: it would refuse one that has another."""
    with EmbeddedDatabase(data_dir) as database:
        tables = execute(database.uri, "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 't')")
        execute(database.uri, *(f"SELECT count(*) FROM {table}" for (table,) in tables))


def test_a_session_idle_in_a_transaction_is_ended(data_dir, monkeypatch):
    monkeypatch.setenv("TSSTATS_EMBEDDED_IDLE_SECONDS", "1")
    with EmbeddedDatabase(data_dir) as database:
        create_table(database.uri)
        idle = psycopg2.connect(database.uri)
        with contextlib.closing(idle), idle.cursor() as cursor:
            cursor.execute("INSERT INTO acknowledged VALUES (now(), 1)")
            assert stored(database.uri) == {}
            with pytest.raises(psycopg2.OperationalError):
                cursor.execute("SELECT 1")


def test_checkpoints_keep_the_wal_short(data_dir):
    with EmbeddedDatabase(data_dir) as database:
        execute(database.uri, "CREATE TABLE wide (text text)")
        for _ in range(6):
            execute(database.uri, "INSERT INTO wide SELECT repeat('x', 1000) FROM generate_series(1, 30000)")
            time.sleep(1.5)
        segments = [path for path in (data_dir / "pgdata/pg_wal").iterdir() if path.is_file()]
        assert sum(path.stat().st_size for path in segments) < 150 * 1024 * 1024


def test_a_database_at_rest_is_checkpointed(data_dir, monkeypatch):
    monkeypatch.setenv("TSSTATS_EMBEDDED_CHECKPOINT_IDLE_SECONDS", "1")
    redo = "SELECT redo_lsn >= %s::pg_lsn FROM pg_control_checkpoint()"
    with EmbeddedDatabase(data_dir) as database:
        execute(database.uri, "CREATE TABLE rested (text text)")
        [(written,)] = execute(database.uri, "SELECT pg_current_wal_insert_lsn()::text")
        assert execute(database.uri, redo % f"'{written}'") == [(False,)]
        execute(database.uri, "CREATE ROLE guest LOGIN")
        assert execute(database.uri.replace("postgres@", "guest@"), "SELECT 1") == [(1,)]
        # To look is no rest: seldom.
        deadline = time.monotonic() + 60
        while not execute(database.uri, redo % f"'{written}'")[0][0]:
            assert time.monotonic() < deadline
            time.sleep(4)
        assert database.restarts == 0


def test_a_client_that_does_not_read_its_rows_is_dropped(data_dir, monkeypatch):
    monkeypatch.setenv("TSSTATS_EMBEDDED_READER_SECONDS", "1")
    with EmbeddedDatabase(data_dir) as database:
        slow = psycopg2.connect(database.uri, async_=True)
        with contextlib.closing(slow):
            psycopg2.extras.wait_select(slow)
            slow.cursor().execute("SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
            assert execute(database.uri, "SELECT 1") == [(1,)]
        assert database.restarts == 0


@contextlib.contextmanager
def mounted(image: Path, directory: Path) -> Iterator[Path]:
    """An ext4 whose journal and dirty pages are not written of their own accord while the test runs."""
    directory.mkdir()
    command = ["mount", "-o", "loop,commit=600", str(image), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a power cut needs a loop device: {done.stderr.strip() or 'mount failed'}")
    try:
        yield directory
    finally:
        wait_until(lambda: subprocess.run(["umount", str(directory)], check=False).returncode == 0)


def make_image(image: Path) -> None:
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a power cut needs root and mkfs.ext4")
    with image.open("wb") as file:
        file.truncate(IMAGE_MB * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", str(image)], check=True)


def cut_power(database: EmbeddedDatabase, image: Path, copy: Path) -> None:
    """Keep what is on the disk at this moment: what the file system holds in memory is not in its image."""
    os.kill(database.node_pid, signal.SIGSTOP)
    try:
        subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
    finally:
        os.kill(database.node_pid, signal.SIGCONT)


def write_until_power_cut(directory: Path, image: Path, copy: Path, sync: bool) -> set[int]:
    """What was acknowledged before the power was cut."""
    with mounted(image, directory), EmbeddedDatabase(directory / "data", sync=sync) as database:
        create_table(database.uri)
        writers = Writers(database.uri)
        writers.start()
        for wanted in (150, 300):
            wait_until(lambda wanted=wanted: len(writers.acknowledged) > wanted)
            execute(database.uri, "CHECKPOINT")
        wait_until(lambda: len(writers.acknowledged) > 400)
        cut_power(database, image, copy)
        acknowledged = set(writers.acknowledged)
        writers.stop()
        return acknowledged


def found_after_power_cut(directory: Path, copy: Path) -> dict[int, int]:
    with mounted(copy, directory), EmbeddedDatabase(directory / "data") as database:
        return stored(database.uri)


def power_cuts(
    tmp_path: Path, cuts: int, sync: bool
) -> Iterator[tuple[set[int], dict[int, int] | Exception]]:
    for cut in range(cuts):
        image, copy = tmp_path / f"{cut}.img", tmp_path / f"{cut}.copy"
        make_image(image)
        acknowledged = write_until_power_cut(tmp_path / f"{cut}", image, copy, sync)
        try:
            found: dict[int, int] | Exception = found_after_power_cut(tmp_path / f"{cut}-copy", copy)
        except Exception as error:
            found = error
        image.unlink()
        copy.unlink()
        yield acknowledged, found


@pytest.mark.parametrize("cuts", [1, pytest.param(POWER_CUTS, marks=pytest.mark.faults)])
def test_power_cuts_lose_nothing_that_was_acknowledged(cuts, tmp_path):
    for acknowledged, found in power_cuts(tmp_path, cuts, sync=True):
        assert isinstance(found, dict), found
        assert acknowledged <= set(found)
        assert set(found.values()) == {ROWS_PER_TRANSACTION}


@pytest.mark.faults
def test_without_syncing_a_power_cut_loses_acknowledged_data(tmp_path):
    """Takes the protection away: if nothing is lost here, the test above shows nothing."""
    cuts = power_cuts(tmp_path, POWER_CUTS, sync=False)
    assert any(not isinstance(found, dict) or not acknowledged <= set(found) for acknowledged, found in cuts)

"""Every row of the table of failures, met on a real server: the error, and the fate of the connection."""

import contextlib
import os
import signal
import subprocess
import threading
import time

import psycopg2.extensions
import pytest

from ringstats_ts.errors import (
    OutdatedSchema,
    QueryError,
    RingstatsError,
    StatementTimeout,
    StorageUnavailable,
    UnstorablePayload,
)
from ringstats_ts.storage import connect
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.failures import (
    BAD_ADDRESS,
    FAILURES,
    LOST,
    NO_ACCESS,
    NUL,
    OTHER,
    OVERDUE,
    SURROGATE,
    UNREACHED,
    Conflict,
    ConnectionLost,
    Contended,
    DeadlinePassed,
    NoAccess,
    OutOfMemory,
)
from tests.postgres import own
from webapp.errors import status_of

HBA = """
host all locked 127.0.0.1/32 scram-sha-256
host all rejected 127.0.0.1/32 reject
host all unlisted 127.0.0.2/32 trust
host all postgres,many,limited,barred,stranger,nobody 127.0.0.1/32 trust
"""


@pytest.fixture(scope="module")
def server(new_postgres):
    server = new_postgres({"max_connections": "8", "deadlock_timeout": "100ms"})
    server.start()
    for role in ("many", "barred", "rejected", "unlisted"):
        server.run(f"CREATE ROLE {role} LOGIN")
    server.run("CREATE ROLE limited LOGIN CONNECTION LIMIT 1")
    server.run("CREATE ROLE locked LOGIN PASSWORD 'right'")
    server.run("CREATE ROLE stranger NOLOGIN")
    server.run("CREATE DATABASE private")
    server.run("REVOKE CONNECT ON DATABASE private FROM public")
    server.run(
        "CREATE TABLE things"
        " (id bigint PRIMARY KEY CHECK (id > 0), other_id bigint REFERENCES things, name text)"
    )
    server.run("CREATE INDEX ON things (name)")
    server.run("INSERT INTO things VALUES (1), (2)")
    (server.directory / "data" / "pg_hba.conf").write_text(HBA)
    server.run("SELECT pg_reload_conf()")
    return server


@pytest.fixture(autouse=True)
def fresh_gates():
    """No test is answered with the refusal that another met."""
    connect.gate.cache_clear()


def address(server, **changes):
    return psycopg2.extensions.make_dsn(server.uri, **changes)


# What goes wrong in a transaction: (server, transaction, process id of our backend).


def query(sql):
    return lambda server, transaction, pid: transaction.query(sql)


def asked_for(value):
    return lambda server, transaction, pid: transaction.query("SELECT %(value)s", {"value": value})


def copied(text):
    return lambda server, transaction, pid: transaction.copy("things", ["id", "name"], text)


def terminated(server, transaction, pid):
    server.run(f"SELECT pg_terminate_backend({pid}, 5000)")
    transaction.query("SELECT 1")


def killed_backend(server, transaction, pid):
    os.kill(pid, signal.SIGKILL)
    transaction.query("SELECT pg_sleep(10)")


def killed_neighbour(server, transaction, pid):
    with contextlib.closing(server.connect()) as neighbour:
        os.kill(neighbour.info.backend_pid, signal.SIGKILL)
        transaction.query("SELECT pg_sleep(10)")


def killed_server(server, transaction, pid):
    server.kill()
    transaction.query("SELECT pg_sleep(10)")


def stopped(mode):
    def stop(server, transaction, pid):
        server.stop(mode)
        transaction.query("SELECT 1")

    return stop


def called_after_loss(server, transaction, pid):
    server.run(f"SELECT pg_terminate_backend({pid}, 5000)")
    with contextlib.suppress(psycopg2.Error):
        transaction.query("SELECT 1")
    transaction.query("SELECT 1")


def idle_too_long(server, transaction, pid):
    transaction.query("SET LOCAL idle_in_transaction_session_timeout = 100")
    time.sleep(0.4)
    transaction.query("SELECT 1")


def deadlocked(server, transaction, pid):
    transaction.query("SELECT FROM things WHERE id = 1 FOR UPDATE")
    with contextlib.closing(server.connect()) as other, other.cursor() as cursor:
        # Ours looks for the deadlock first, and is its victim.
        cursor.execute("SET deadlock_timeout = '1min'; BEGIN; SELECT FROM things WHERE id = 2 FOR UPDATE")
        waits = threading.Thread(
            target=cursor.execute, args=("SELECT FROM things WHERE id = 1 FOR UPDATE; COMMIT",)
        )
        waits.start()
        try:
            transaction.query("SELECT FROM things WHERE id = 2 FOR UPDATE")
        finally:
            transaction.query("ROLLBACK")
            waits.join()


def outdated_snapshot(server, transaction, pid):
    transaction.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    transaction.query("SELECT name FROM things")
    server.run("UPDATE things SET name = name WHERE id = 1")
    transaction.query("UPDATE things SET name = name WHERE id = 1")


def locked_out(server, transaction, pid):
    with contextlib.closing(server.connect()) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE things")
        transaction.query("SET LOCAL lock_timeout = 100")
        transaction.query("SELECT name FROM things")


def cancelled(server, transaction, pid):
    threading.Timer(0.3, server.run, (f"SELECT pg_cancel_backend({pid})",)).start()
    transaction.query("SELECT pg_sleep(10)")


def too_slow(server, transaction, pid):
    transaction.query("SET LOCAL statement_timeout = 100")
    transaction.query("SELECT pg_sleep(10)")


def read_only(server, transaction, pid):
    transaction.query("SET TRANSACTION READ ONLY")
    transaction.query("INSERT INTO things VALUES (9)")


def raised(state):
    """What can hardly be had for real; the server says it all the same."""
    return query(f"DO $$ BEGIN RAISE EXCEPTION 'it broke' USING ERRCODE = '{state}'; END $$")


INSERT_THING = "INSERT INTO things (id, name) VALUES"
TWICE = f"{INSERT_THING} (7, 'a'), (7, 'b') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
LOST_ONE = (LOST, ConnectionLost, 503)
UNSTORABLE = ("22", UnstorablePayload, 422)

IN_SESSION = {
    "terminated": (terminated, *LOST_ONE),
    "fast stop": (stopped("fast"), *LOST_ONE),
    "immediate stop": (stopped("immediate"), *LOST_ONE),
    "backend killed": (killed_backend, *LOST_ONE),
    "another backend killed": (killed_neighbour, *LOST_ONE),
    "server killed": (killed_server, *LOST_ONE),
    "idle in transaction": (idle_too_long, *LOST_ONE),
    "call after loss": (called_after_loss, *LOST_ONE),
    "deadlock": (deadlocked, "40", Contended, 503),
    "serialization failure": (outdated_snapshot, "40", Contended, 503),
    "lock timeout": (locked_out, "55P03", StatementTimeout, 503),
    "statement timeout": (too_slow, "57014", StatementTimeout, 503),
    "cancelled": (cancelled, "57014", StatementTimeout, 503),
    "read-only": (read_only, "25006", StorageUnavailable, 503),
    "out of locks": (
        query("SELECT pg_advisory_xact_lock(n) FROM generate_series(1, 1000000) AS n"),
        "53200",
        OutOfMemory,
        503,
    ),
    "NUL": (asked_for("a\0b"), NUL, UnstorablePayload, 422),
    "NUL in a list": (asked_for(["a\0b"]), NUL, UnstorablePayload, 422),
    "NUL copied": (copied("7\ta\0b\n"), *UNSTORABLE),
    "lone surrogate": (asked_for("a\ud800b"), SURROGATE, UnstorablePayload, 422),
    "lone surrogate copied": (copied("7\ta\ud800b\n"), SURROGATE, UnstorablePayload, 422),
    "NUL in jsonb": (query(r"""SELECT '{"a": "\u0000"}'::jsonb"""), *UNSTORABLE),
    "lone surrogate in jsonb": (query(r"""SELECT '{"a": "\ud800"}'::jsonb"""), *UNSTORABLE),
    "NaN in jsonb": (query("""SELECT '{"a": NaN}'::jsonb"""), *UNSTORABLE),
    "integer too large": (query(f"{INSERT_THING} (9223372036854775808, '')"), *UNSTORABLE),
    "float too large": (query("SELECT '1e400'::double precision"), *UNSTORABLE),
    "date out of range": (query("SELECT '2026-02-30'::timestamptz"), *UNSTORABLE),
    "index row too large": (
        query(f"{INSERT_THING} (7, (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 999) AS n))"),
        "54",
        UnstorablePayload,
        422,
    ),
    "nested too deeply": (
        lambda server, transaction, pid: transaction.query(
            "SELECT %(text)s::jsonb", {"text": "[" * 20_000 + "]" * 20_000}
        ),
        "54",
        UnstorablePayload,
        422,
    ),
    "the same key twice": (query(TWICE), "21000", UnstorablePayload, 422),
    "duplicate": (query(f"{INSERT_THING} (1, '')"), "23505", Conflict, 503),
    "dangling reference": (query("INSERT INTO things VALUES (7, 99)"), "23503", Conflict, 503),
    "missing table": (query("SELECT FROM nothings"), "42P01", OutdatedSchema, 503),
    "missing column": (query("SELECT nothing FROM things"), "42703", OutdatedSchema, 503),
    "missing function": (query("SELECT nothing()"), "42883", OutdatedSchema, 503),
    "not SQL": (query("SELEKT"), OTHER, QueryError, 503),
    "not allowed": (query(f"{INSERT_THING} (-1, '')"), OTHER, QueryError, 503),
    "connection exception": (raised("08006"), "08", StorageUnavailable, 503),
    "idle in transaction, told": (raised("25P03"), "25P03", StorageUnavailable, 503),
    "no resources": (raised("53400"), "53", StorageUnavailable, 503),
    "not in this state": (raised("55006"), "55", StorageUnavailable, 503),
    "operator intervention": (raised("57P04"), "57", StorageUnavailable, 503),
    "input or output error": (raised("58030"), "58", StorageUnavailable, 503),
}


@pytest.mark.parametrize("name", IN_SESSION)
def test_a_failure_in_a_transaction_is_known(server, name):
    provoke, key, kind, status = IN_SESSION[name]
    with Database(server.uri) as database:
        ((pid,),) = database.run("SELECT pg_backend_pid()")
        try:
            with pytest.raises(RingstatsError) as caught, database.transaction() as transaction:
                provoke(server, transaction, pid)
        finally:
            if server.process is None:
                server.start()
            server.wait()
        check(caught.value, key, kind, status)
        # Usable or replaced: the next call works either way.
        ((next_pid,),) = database.run("SELECT pg_backend_pid()")
        assert (next_pid == pid) is FAILURES[key].usable is not issubclass(kind, ConnectionLost)
    if kind is ConnectionLost:
        assert not caught.value.may_have_committed


def check(error, key, kind, status):
    assert type(error) is kind is FAILURES[key].error
    assert status_of(error) == status
    retried = issubclass(kind, ConnectionLost | Contended | Conflict) and kind is not DeadlinePassed
    assert getattr(error, "retried", False) is FAILURES[key].retried is retried
    assert error.retryable is issubclass(kind, StorageUnavailable)
    assert FAILURES[key].words.partition("{")[0] in error.message
    if issubclass(kind, StorageUnavailable):
        assert error.retry_after == FAILURES[key].retry_after


# What goes wrong while connecting: gives the address to connect to, for the length of a block.


@contextlib.contextmanager
def nothing_listens(server):
    server.stop()
    try:
        yield server.uri
    finally:
        server.start()


@contextlib.contextmanager
def recovers(server):
    """For ever: a standby that lets nobody read."""
    server.stop()
    signal_file = server.directory / "data" / "standby.signal"
    signal_file.touch()
    server.conf |= {"hot_standby": "off", "restore_command": "false"}
    server.start(wait=False)
    while "entering standby mode" not in server.log.rpartition("starting PostgreSQL")[2]:
        time.sleep(0.02)
    try:
        yield server.uri
    finally:
        server.stop("immediate")
        signal_file.unlink()
        del server.conf["hot_standby"], server.conf["restore_command"]
        server.start()


@contextlib.contextmanager
def shuts_down(server):
    """As long as somebody is connected."""
    with contextlib.closing(server.connect()):
        os.kill(server.pid, signal.SIGTERM)
        while "smart shutdown" not in server.log.rpartition("starting PostgreSQL")[2]:
            time.sleep(0.02)
        yield server.uri
    server.stop()
    server.start()


@contextlib.contextmanager
def full(server):
    with contextlib.ExitStack() as stack:
        for _ in range(5):  # Of 8, 3 are the superuser's.
            stack.enter_context(contextlib.closing(server.connect(user="many")))
        yield address(server, user="many")


@contextlib.contextmanager
def at_its_limit(server):
    with contextlib.closing(server.connect(user="limited")):
        yield address(server, user="limited")


def at(**changes):
    return lambda server: contextlib.nullcontext(address(server, **changes))


AT_CONNECT = {
    "refused": (nothing_listens, UNREACHED, StorageUnavailable),
    "in recovery": (recovers, UNREACHED, StorageUnavailable),
    "shutting down": (shuts_down, UNREACHED, StorageUnavailable),
    "too many connections": (full, UNREACHED, StorageUnavailable),
    "too many of the role": (at_its_limit, UNREACHED, StorageUnavailable),
    "unknown role": (at(user="nobody"), NO_ACCESS, NoAccess),
    "role without login": (at(user="stranger"), NO_ACCESS, NoAccess),
    "unknown database": (at(dbname="nothing"), NO_ACCESS, NoAccess),
    "database of others": (at(dbname="private", user="barred"), NO_ACCESS, NoAccess),
    "no password": (at(user="locked"), NO_ACCESS, NoAccess),
    "wrong password": (at(user="locked", password="wrong"), NO_ACCESS, NoAccess),
    "not in pg_hba.conf": (at(user="unlisted"), NO_ACCESS, NoAccess),
    "rejected by pg_hba.conf": (at(user="rejected"), NO_ACCESS, NoAccess),
    "not an address": (
        lambda server: contextlib.nullcontext("postgresql://u:secret@[::1/x"),
        BAD_ADDRESS,
        NoAccess,
    ),
    "an unknown option": (
        lambda server: contextlib.nullcontext("host=127.0.0.1 password=secret oops=1"),
        BAD_ADDRESS,
        NoAccess,
    ),
    "a lone surrogate": (lambda server: contextlib.nullcontext("host=\ud800"), BAD_ADDRESS, NoAccess),
}


@pytest.mark.parametrize("name", AT_CONNECT)
def test_a_failure_to_connect_is_known(server, name, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", "/dev/null/none")
    provoke, key, kind = AT_CONNECT[name]
    with provoke(server) as uri, Database(uri) as database, pytest.raises(RingstatsError) as caught:
        database.run("SELECT 1")
    check(caught.value, key, kind, 503)
    assert "secret" not in str(caught.value)


def test_every_row_of_the_table_is_met():
    met = {key for _, key, *_ in [*IN_SESSION.values(), *AT_CONNECT.values()]}
    elsewhere = {OVERDUE, "53100"}  # in test_watchdog.py; below
    assert set(FAILURES) == met | elsewhere


@pytest.fixture
def small_disk(server):
    """A tablespace with room for 8 MiB, and a file of 8 MiB beside it."""
    directory = server.directory / "small"
    directory.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    own(directory)
    try:
        server.run(f"CREATE TABLESPACE small LOCATION '{directory}'")
        server.run("CREATE TABLE large (text text) TABLESPACE small")
        (directory / "other").write_bytes(bytes(8 * 1024 * 1024))
        yield directory / "other"
        server.run("DROP TABLE large")
        server.run("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def test_a_full_disk_is_known_and_recovers(server, small_disk):
    fill = "INSERT INTO large SELECT repeat('x', 1000) FROM generate_series(1, {})"
    with Database(server.uri) as database:
        ((pid,),) = database.run("SELECT pg_backend_pid()")
        with pytest.raises(StorageUnavailable) as caught, database.transaction() as transaction:
            transaction.query(fill.format(50_000))
        check(caught.value, "53100", StorageUnavailable, 503)
        assert caught.value.retry_after == 60
        assert database.run("SELECT pg_backend_pid(), count(*) FROM large") == [(pid, 0)]
        small_disk.unlink()
        database.run(fill.format(100))
        assert database.run("SELECT count(*) FROM large") == [(100,)]

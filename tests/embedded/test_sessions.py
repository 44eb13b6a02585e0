"""One engine, many clients: nothing of one may reach another."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import timedelta

import psycopg2
import pytest

from ringstats_ts.errors import StorageUnavailable
from ringstats_ts.storage.database import Database

PARAMETERS = ("server_version", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings")


def test_a_session_starts_with_the_settings_of_a_postgresql_server(connect, run):
    names = "search_path, enable_seqscan, TimeZone, client_min_messages, fsync, ignore_invalid_pages"
    values = [run(connect(), f"SHOW {name}")[0][0] for name in names.split(", ")]
    assert values == ['"$user", public', "on", "UTC", "notice", "on", "off"]


@pytest.mark.parametrize("reset", ["RESET ALL", "DISCARD ALL"])
def test_reset_goes_back_to_the_settings_the_session_started_with(connect, run, reset):
    connection = connect(options="-c work_mem=5MB", application_name="mine")
    run(connection, "SET work_mem = '7MB'; SET search_path = pg_catalog; SET enable_seqscan = off")
    run(connection, reset)
    names = ("work_mem", "search_path", "enable_seqscan", "application_name")
    assert [run(connection, f"SHOW {name}")[0][0] for name in names] == [
        "5MB",
        '"$user", public',
        "on",
        "mine",
    ]


def test_settings_of_two_clients_stay_apart(connect, run):
    first, second = connect(), connect()
    run(first, "SET TimeZone = 'Asia/Tokyo'")
    run(first, "SET app.tenant = 'first'")
    run(second, "SELECT set_config('app.tenant', 'second', false)")
    shown = "SELECT current_setting('TimeZone'), current_setting('app.tenant', true)"
    assert run(second, shown) == [("UTC", "second")]
    assert run(first, shown) == [("Asia/Tokyo", "first")]
    assert run(connect(), shown) in ([("UTC", None)], [("UTC", "")])


def test_a_setting_of_a_rolled_back_transaction_is_gone(connect, run):
    first, second = connect(autocommit=False), connect()
    run(first, "SET work_mem = '9MB'")
    first.rollback()
    run(second, "SELECT 1")
    assert run(first, "SHOW work_mem") == [("4MB",)]


def test_a_client_is_told_of_its_changed_parameters(connect, run):
    first, second = connect(), connect()
    run(first, "SET TimeZone = 'Asia/Tokyo'")
    run(second, "SET DateStyle = 'German'")
    assert first.get_parameter_status("TimeZone") == "Asia/Tokyo"
    assert first.get_parameter_status("DateStyle") == "ISO, MDY"
    assert second.get_parameter_status("TimeZone") == "UTC"


def test_roles_of_two_clients_stay_apart(connect, run):
    admin = connect()
    run(admin, "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    first, second = connect(), connect(user="reader")
    run(admin, "GRANT pg_monitor TO postgres")
    run(first, "SET ROLE pg_monitor")
    who = "SELECT session_user::text, current_user::text"
    assert run(second, who) == [("reader", "reader")]
    assert run(first, who) == [("postgres", "pg_monitor")]
    assert run(connect(), who) == [("postgres", "postgres")]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        run(second, "CREATE TABLE forbidden ()")
    run(second, "RESET SESSION AUTHORIZATION")
    assert run(second, who) == [("reader", "reader")]


def test_a_session_whose_role_was_dropped_is_ended(connect, run):
    admin = connect()
    run(admin, "DROP ROLE IF EXISTS gone; CREATE ROLE gone LOGIN")
    session = connect(user="gone")
    run(admin, "DROP ROLE gone")
    with pytest.raises(psycopg2.OperationalError):
        run(session, "SELECT 1")
    assert run(admin, "SELECT current_user::text") == [("postgres",)]


def test_alter_role_set_is_honoured_by_the_next_session_of_that_role(connect, run):
    admin = connect()
    run(admin, "DROP ROLE IF EXISTS tuned; CREATE ROLE tuned LOGIN")
    run(admin, "ALTER ROLE tuned SET work_mem = '11MB'")
    run(admin, "ALTER DATABASE postgres SET extra_float_digits = 2")
    tuned = connect(user="tuned")
    shown = "SELECT current_setting('work_mem'), current_setting('extra_float_digits')"
    assert run(tuned, shown) == [("11MB", "2")]
    run(tuned, "RESET ALL")
    assert run(tuned, shown) == [("11MB", "2")]
    run(admin, "ALTER DATABASE postgres RESET extra_float_digits")
    assert run(connect(), shown) == [("4MB", "1")]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"user": "nobody"}, 'role "nobody" does not exist'),
        ({"user": "pg_monitor"}, "not permitted to log in"),
        ({"dbname": "other"}, 'database "other" does not exist'),
        ({"options": "-c nosuch=1"}, 'invalid value for parameter "nosuch"'),
    ],
)
def test_a_session_that_cannot_be_had_is_refused_with_the_reason(connect, parameters, expected):
    with pytest.raises(psycopg2.OperationalError, match=expected):
        connect(**parameters)


def test_transactions_of_two_clients_do_not_mix(connect, run, table):
    first, second = connect(autocommit=False), connect()
    run(first, f"INSERT INTO {table} VALUES (1, 'first')")
    seen = []
    waiting = threading.Thread(target=lambda: seen.extend(run(second, f"SELECT * FROM {table}")))
    waiting.start()
    time.sleep(0.3)
    assert seen == []
    first.rollback()
    waiting.join(10)
    assert seen == []
    assert not waiting.is_alive()


@contextlib.contextmanager
def busy(connection, seconds):
    """Another statement has the engine."""
    statement = threading.Thread(target=lambda: connection.cursor().execute(f"SELECT pg_sleep({seconds})"))
    statement.start()
    time.sleep(0.5)
    yield
    statement.join()


def test_a_client_is_let_in_while_a_statement_runs(connect, run, uri):
    with contextlib.closing(psycopg2.connect(uri)) as connection:
        told = [connection.get_parameter_status(name) for name in PARAMETERS]
    with busy(connect(), 5):
        began = time.monotonic()
        late = connect(options="-c work_mem=6MB")
        assert time.monotonic() - began < 3
        assert [late.get_parameter_status(name) for name in PARAMETERS] == told
        assert run(late, "SHOW work_mem") == [("6MB",)]
        assert time.monotonic() - began > 3


def test_who_may_not_come_in_is_told_so_at_the_first_statement_where_the_engine_was_busy(connect, run):
    with busy(connect(), 3):
        late = connect(user="nobody")
        for _ in range(2):
            with pytest.raises(psycopg2.Error, match='role "nobody" does not exist'):
                run(late, "SELECT current_user")
    assert run(connect(), "SELECT current_user::text") == [("postgres",)]


def test_a_statement_that_waits_too_long_is_told_that_the_database_is_busy(connect, run, uri):
    first, second = connect(), connect(options="-c statement_timeout=1000")
    with busy(first, 6):
        with pytest.raises(psycopg2.errors.LockNotAvailable, match="in the queue"):
            run(second, "SELECT 1")
        with Database(uri, timeout=timedelta(seconds=3)) as database:
            with pytest.raises(StorageUnavailable, match="is busy with another statement") as raised:
                database.run("SELEC 1")
            assert raised.value.retryable
    assert run(second, "SELECT 1") == [(1,)]


def hundred(connection):
    with connection.pipeline():
        for number in range(100):
            connection.execute("SELECT %s::int", (number,))


def test_what_follows_a_statement_that_was_refused_is_left_out_up_to_the_next(uri, connect):
    psycopg = pytest.importorskip("psycopg")
    options = "-c statement_timeout=1000"
    with psycopg.connect(uri, autocommit=True, options=options) as connection:
        with busy(connect(), 4), pytest.raises(psycopg.errors.LockNotAvailable):
            hundred(connection)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_eight_clients_at_once_lose_nothing(connect, run, table):
    def insert(number: int) -> None:
        connection = connect(autocommit=False)
        for _ in range(20):
            run(
                connection, f"INSERT INTO {table} SELECT %s, g::text FROM generate_series(1, 10) AS g", number
            )
            connection.commit()

    threads = [threading.Thread(target=insert, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    counts = run(connect(), f"SELECT id, count(*) FROM {table} GROUP BY id ORDER BY id")
    assert counts == [(number, 200) for number in range(8)]


def test_the_transaction_of_a_client_that_dies_is_rolled_back(connect, run, table):
    first, second = connect(autocommit=False), connect()
    run(first, f"INSERT INTO {table} VALUES (1, 'lost')")
    first.close()
    assert run(second, f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_client_that_dies_in_the_middle_of_copy_leaves_nothing(connect, run, table, uri):
    import os
    import socket

    class Dying:
        """Sends a little, then cuts its own connection."""

        def __init__(self, descriptor: int) -> None:
            self.descriptor = descriptor
            self.sent = 0

        def read(self, size: int) -> str:
            self.sent += 1
            if self.sent > 3:
                with socket.socket(fileno=os.dup(self.descriptor)) as cut:
                    cut.shutdown(socket.SHUT_RDWR)
            return "1\tx\n" * 1000

    first = connect()
    with first.cursor() as cursor, pytest.raises(psycopg2.Error):
        cursor.copy_expert(f"COPY {table} FROM STDIN", Dying(first.fileno()))
    assert run(connect(), f"SELECT count(*) FROM {table}") == [(0,)]


def test_temporary_names_of_prepared_statements_stay_apart(uri):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(uri, autocommit=True) as first, psycopg.connect(uri, autocommit=True) as second:
        for number in range(3):
            assert first.execute("SELECT %s::int + 1", (number,), prepare=True).fetchone() == (number + 1,)
            assert second.execute("SELECT %s::int + 100", (number,), prepare=True).fetchone() == (
                number + 100,
            )
        first.execute("DISCARD ALL")
        assert second.execute("SELECT %s::int + 100", (7,), prepare=True).fetchone() == (107,)
        second.execute("DEALLOCATE ALL")
        second.prepared_max = 1
        for number in range(4):
            assert second.execute(f"SELECT %s::int + {number}", (1,), prepare=True).fetchone() == (
                number + 1,
            )


def test_deep_recursion_works_also_after_reset(connect, run):
    connection = connect()
    run(
        connection,
        """CREATE OR REPLACE FUNCTION deep(n int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN IF n = 0 THEN RETURN 0; END IF; RETURN 1 + deep(n - 1); END $$""",
    )
    assert run(connection, "SELECT deep(2000)") == [(2000,)]
    run(connection, "RESET ALL")
    assert run(connection, "SELECT deep(2000)") == [(2000,)]


def test_the_engine_cannot_run_a_program_of_the_host(connect, run):
    with pytest.raises(psycopg2.Error):
        run(connect(), "COPY (SELECT 1) TO PROGRAM 'touch /tmp/tsstats-must-not-exist'")

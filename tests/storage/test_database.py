"""The connection: what is set on it, when it is opened and replaced, and what a commit is."""

import contextlib
import threading
import time
from datetime import timedelta

import psycopg2
import pytest

from ringstats_ts.config import Config
from ringstats_ts.errors import QueryError, RingstatsError, StorageUnavailable
from ringstats_ts.storage import connect
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.failures import ConnectionLost, NoAccess
from tests.faults.proxy import Proxy
from webapp.service import Service


@pytest.fixture(scope="module")
def server(new_postgres):
    server = new_postgres()
    server.start()
    server.run("CREATE TABLE things (id bigint PRIMARY KEY)")
    return server


@pytest.fixture(autouse=True)
def fresh_gates():
    connect.gate.cache_clear()


@pytest.mark.parametrize(
    ("timeout", "statement", "lock"),
    [
        (None, "0", "0"),
        (timedelta(seconds=7), "7s", "3500ms"),
        (timedelta(milliseconds=250), "250ms", "125ms"),
    ],
)
def test_statements_are_bounded_as_asked(database_uri, timeout, statement, lock):
    with Database(database_uri, timeout) as database:
        assert database.run("SHOW statement_timeout") == [(statement,)]
        assert database.run("SHOW idle_in_transaction_session_timeout") == [(statement,)]
        assert database.run("SHOW lock_timeout") == [(lock,)]
        assert database.run("SHOW TimeZone") == [("UTC",)]
        assert database.run("SHOW client_encoding") == [("UTF8",)]


def test_the_requests_of_the_web_service_are_bounded(database_uri):
    config = Config.from_env({"DATABASE_URI": database_uri})
    with Service(config).database() as database:
        assert database.run("SHOW statement_timeout") == [(f"{config.database_timeout.seconds}s",)]


def test_a_connection_is_opened_when_it_is_used(server):
    with Database(server.uri) as database:
        assert server.backends() == []
        database.run("SELECT 1")
        assert len(server.backends()) == 1


@pytest.mark.parametrize("protected", [True, False], ids=["asked", "not asked"])
def test_the_first_request_after_a_restart_is_served(server, monkeypatch, protected):
    if not protected:
        monkeypatch.setattr(
            "ringstats_ts.storage.database.is_lost", lambda connection: bool(connection.closed)
        )
    with Database(server.uri) as database:
        database.run("SELECT 1")
        server.restart()
        with contextlib.nullcontext() if protected else pytest.raises(ConnectionLost):
            assert database.run("SELECT 1") == [(1,)]
        assert database.run("SELECT 1") == [(1,)]


def test_what_is_remembered_goes_with_the_connection(server):
    with Database(server.uri) as database:
        database.run("SELECT 1")
        memory = database.memory
        database.run("SELECT 1")
        assert database.memory is memory
        server.restart()
        database.run("SELECT 1")
        assert database.memory is not memory


# Commits.


def test_what_belongs_to_a_transaction_that_was_lost_is_not_done_without_it(server):
    with Database(server.uri) as database:
        database.run("DELETE FROM things")
        with pytest.raises(ConnectionLost), database.transaction():  # noqa: PT012
            database.run("INSERT INTO things VALUES (1)")
            ((pid,),) = database.run("SELECT pg_backend_pid()")
            server.run(f"SELECT pg_terminate_backend({pid}, 10000)")
            for _ in range(2):
                with pytest.raises(ConnectionLost):
                    database.run("INSERT INTO things VALUES (2)")
        assert database.run("SELECT count(*) FROM things") == [(0,)]


def test_a_transaction_that_failed_inside_is_no_commit(server):
    """The server answers COMMIT of a failed transaction with a rollback, and calls that no error."""
    with Database(server.uri) as database:
        with pytest.raises(QueryError, match="rolled back"), database.transaction() as transaction:  # noqa: PT012
            transaction.query("INSERT INTO things VALUES (1)")
            with contextlib.suppress(RingstatsError):
                transaction.query("SELECT nothing")
        assert database.run("SELECT count(*) FROM things") == [(0,)]


def test_a_commit_whose_answer_is_lost_may_have_happened(server):
    with Proxy(server.uri) as proxy, Database(proxy.uri) as database:
        with pytest.raises(ConnectionLost) as caught, database.transaction() as transaction:  # noqa: PT012
            transaction.query("INSERT INTO things VALUES (2)")
            proxy.fault = "commit"
        assert caught.value.may_have_committed
        assert database.run("SELECT id FROM things WHERE id = 2") == [(2,)]


@pytest.mark.parametrize("where", ["in the block", "in a block of the block"])
def test_what_is_lost_before_the_commit_did_not_happen(server, where):
    with Database(server.uri) as database:
        with pytest.raises(ConnectionLost) as caught, database.transaction() as transaction:  # noqa: PT012
            ((pid,),) = transaction.query("INSERT INTO things VALUES (3) RETURNING pg_backend_pid()")
            server.run(f"SELECT pg_terminate_backend({pid}, 5000)")
            with database.translated() if where != "in the block" else contextlib.nullcontext():
                transaction.query("SELECT 1")
        assert not caught.value.may_have_committed
        assert database.run("SELECT id FROM things WHERE id = 3") == []


# Connecting while the server refuses.


def in_threads(count, work):
    """What `work` of each number gives, the error it raises included, and how long it took."""
    results = []

    def run(number):
        begun = time.monotonic()
        try:
            found = work(number)
        except RingstatsError as error:
            found = error
        results.append((found, time.monotonic() - begun))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def select_one(uri, timeout=None):
    with Database(uri, timeout) as database:
        return database.run("SELECT 1")


@pytest.mark.parametrize("protected", [True, False], ids=["one at a time", "each by itself"])
def test_one_thread_waits_for_a_server_that_hangs_and_the_others_fail_at_once(server, monkeypatch, protected):
    if not protected:
        monkeypatch.setattr(connect, "gate", lambda uri: connect.Gate())
    timeout = timedelta(seconds=2.5)
    with server.frozen():
        with pytest.raises(StorageUnavailable):
            select_one(server.uri, timeout)
        time.sleep(connect.PAUSE_SECONDS[1])
        results = in_threads(8, lambda number: select_one(server.uri, timeout))
    assert all(type(error) is StorageUnavailable for error, _ in results)
    waited = [seconds for _, seconds in results if seconds > timeout.total_seconds() / 2]
    assert len(waited) == (1 if protected else 8)


def test_the_first_refusal_holds_nobody_up_who_is_connected(server):
    with Database(server.uri) as connected:
        connected.run("SELECT 1")
        with pytest.raises(NoAccess):
            select_one(psycopg2.extensions.make_dsn(server.uri, dbname="nothing"))
        assert connected.run("SELECT 1") == [(1,)]
        assert select_one(server.uri) == [(1,)]


def test_threads_that_come_together_connect_together(server):
    """While the server takes connections, the gate is open."""
    ready = threading.Barrier(8)

    def work(number):
        with Database(server.uri) as database:
            database.run("SELECT pg_sleep(0.2)")
            ready.wait(10)
            return database.run("SELECT 1")

    assert [found for found, _ in in_threads(8, work)] == [[(1,)]] * 8


def test_requests_are_served_soon_after_the_server_is_back(server):
    """By every thread of the process, and without a restart of that."""
    back = []

    def work(number):
        with Database(server.uri, timedelta(seconds=8)) as database:
            while True:
                with contextlib.suppress(StorageUnavailable):
                    database.run("SELECT 1")
                    return time.monotonic()
                time.sleep(0.02)

    def restart():
        time.sleep(1)
        server.start()
        back.append(time.monotonic())

    server.stop()
    restarts = threading.Thread(target=restart)
    restarts.start()
    served = [found for found, _ in in_threads(8, work)]
    restarts.join()
    assert len(served) == 8
    assert max(served) - back[0] < 5

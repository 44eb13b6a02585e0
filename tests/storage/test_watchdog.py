"""Deadlines: whatever hangs, the thread that waits is free in time; without the watchdog it is not."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ringstats_ts.errors import OutcomeUnknown, StatementTimeout, StorageUnavailable
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.storage import connect
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.failures import FAILURES, OVERDUE, ConnectionLost, DeadlinePassed
from ringstats_ts.storage.watchdog import WATCHDOG, Watchdog
from tests.faults.proxy import Proxy

DEADLINE = timedelta(seconds=0.4)
GRACE = 3.0
"""What a request may take beyond its deadline, on a machine with other work [s]."""

HANG = 5
"""How long what hangs does so by itself [s]: longer than the deadline and the grace."""


class Asleep(Watchdog):
    """The protection taken away."""

    def _end(self, watch):
        pass


@pytest.fixture(scope="module")
def server(new_postgres):
    server = new_postgres()
    server.start()
    server.run("CREATE TABLE things (text text)")
    return server


@pytest.fixture(autouse=True)
def fresh_gates():
    connect.gate.cache_clear()


@pytest.fixture
def proxy(server):
    with Proxy(server.uri) as proxy:
        yield proxy


@contextlib.contextmanager
def for_a_while(begin, end):
    """A fault that ends by itself, even if the thread of the test hangs in it."""
    over = threading.Event()

    def watch():
        over.wait(HANG)
        end()

    begin()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def frozen(server, database):
    """Its backend is stopped, as by a debugger or a disk that does not answer."""
    ((pid,),) = database.run("SELECT pg_backend_pid()")
    stack = contextlib.ExitStack()
    return for_a_while(lambda: stack.enter_context(server.frozen(pid)), stack.close)


def swallowed(proxy):
    """The network takes bytes and delivers none."""
    return for_a_while(lambda: setattr(proxy, "fault", "blackhole"), lambda: setattr(proxy, "fault", None))


def locked(server):
    """Somebody holds the table."""
    holder = server.connect()

    def begin():
        with holder.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE things")

    return for_a_while(begin, holder.close)


LARGE = "x" * 100 + "\n"


def execute(database, fault):
    with fault():
        begun = time.monotonic()
        try:
            with database.deadline(DEADLINE):
                database.run("SELECT count(*) FROM things")
        finally:
            database.took = time.monotonic() - begun


def copy(database, fault):
    with fault():
        begun = time.monotonic()
        try:
            with database.deadline(DEADLINE), database.transaction() as transaction:
                # More than all the buffers on the way hold.
                transaction.copy("things", ["text"], LARGE * 300_000)
        finally:
            database.took = time.monotonic() - begun


def commit(database, fault):
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        try:
            with database.deadline(DEADLINE), database.transaction() as transaction:
                transaction.query("INSERT INTO things VALUES ('committed')")
                stack.enter_context(fault())
                begun = time.monotonic()
        finally:
            database.took = time.monotonic() - begun


HANGS = {
    "stopped backend at a statement": (execute, "frozen"),
    "stopped backend at COPY": (copy, "frozen"),
    "stopped backend at COMMIT": (commit, "frozen"),
    "dead network at a statement": (execute, "swallowed"),
    "dead network at COPY": (copy, "swallowed"),
    "dead network at COMMIT": (commit, "swallowed"),
    "locked table at a statement": (execute, "locked"),
    "locked table at COPY": (copy, "locked"),
}


UNWATCHED = ("stopped backend at a statement", "dead network at COMMIT")
"""What the others need, too, is shown by `tox -e faults`: without the watchdog each takes its time."""

CASES = [
    *((name, True) for name in HANGS),
    *((name, False) for name in UNWATCHED),
    *(pytest.param(name, False, marks=pytest.mark.faults) for name in HANGS if name not in UNWATCHED),
]


@pytest.mark.parametrize(("name", "watched"), CASES)
def test_a_hanging_server_holds_nobody_beyond_the_deadline(server, proxy, name, watched):
    work, fault = HANGS[name]
    with Database(proxy.uri, watchdog=WATCHDOG if watched else Asleep()) as database:
        database.run("SELECT 1")
        begin = {
            "frozen": lambda: frozen(server, database),
            "swallowed": lambda: swallowed(proxy),
            "locked": lambda: locked(server),
        }[fault]
        if not watched:
            with contextlib.suppress(StorageUnavailable):
                work(database, begin)
            assert database.took > DEADLINE.total_seconds() + GRACE
            return
        with pytest.raises(DeadlinePassed) as caught:
            work(database, begin)
        assert database.took < DEADLINE.total_seconds() + GRACE
        assert type(caught.value) is FAILURES[OVERDUE].error
        assert not caught.value.retried
        assert caught.value.retryable
        assert caught.value.may_have_committed is (work is not copy)
        # The next one has a connection of its own.
        assert database.run("SELECT 1") == [(1,)]


@pytest.mark.parametrize("fault", ["stopped server", "dead network"])
def test_connecting_is_bounded_too(server, proxy, fault):
    database = Database(proxy.uri)
    if fault == "dead network":
        proxy.fault = "blackhole"
    with server.frozen() if fault == "stopped server" else contextlib.nullcontext():
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable, match="did not answer in time"), database.deadline(DEADLINE):
            database.run("SELECT 1")
        assert time.monotonic() - begun < DEADLINE.total_seconds() + GRACE
        proxy.fault = None
    connect.gate.cache_clear()
    assert database.run("SELECT 1") == [(1,)]
    database.close()


def test_a_name_with_several_addresses_is_no_excuse(server):
    with server.frozen():
        hosts = ",".join(["127.0.0.1"] * 4)
        database = Database(f"postgresql://postgres@{hosts}:{server.port}/postgres")
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable), database.deadline(DEADLINE):
            database.run("SELECT 1")
        assert time.monotonic() - begun < DEADLINE.total_seconds() + GRACE


def test_the_deadline_is_that_of_the_whole_block(server):
    with Database(server.uri) as database:
        database.run("SELECT 1")
        begun = time.monotonic()
        with pytest.raises(DeadlinePassed), database.deadline(DEADLINE):  # noqa: PT012
            while True:
                database.run("SELECT pg_sleep(0.15)")
        assert time.monotonic() - begun < DEADLINE.total_seconds() + GRACE
        database.run("SELECT 1")
        with database.deadline(DEADLINE), database.deadline(timedelta(hours=1)):
            with pytest.raises(DeadlinePassed):
                database.run("SELECT pg_sleep(10)")
            with pytest.raises(DeadlinePassed) as caught:
                database.run("SELECT 1")
            # Not begun at all.
            assert not caught.value.may_have_committed


def test_the_server_is_asked_to_give_up_first(server):
    """Where it can: the connection is kept."""
    with Database(server.uri, timeout=DEADLINE) as database, locked(server):
        ((pid,),) = database.run("SELECT pg_backend_pid()")
        with pytest.raises(StatementTimeout):
            database.run("SELECT count(*) FROM things")
        assert database.run("SELECT pg_backend_pid()") == [(pid,)]


def test_what_a_dead_network_leaves_behind_gives_up_its_locks(server):
    """Nothing comes from our side any more, not even a goodbye."""
    silent = Database(server.uri, DEADLINE, Asleep())
    with Database(server.uri) as other, contextlib.suppress(ConnectionLost), silent.transaction() as held:
        held.query("LOCK TABLE things")
        begun = time.monotonic()
        with contextlib.suppress(DeadlinePassed), other.deadline(timedelta(seconds=8)):
            other.run("SELECT count(*) FROM things")
        took = time.monotonic() - begun
    assert took < DEADLINE.total_seconds() + GRACE


def test_deadlines_leave_nothing_behind(server):
    def held():
        return len(list(Path("/dev/fd").iterdir())), threading.active_count()

    with Database(server.uri, timeout=timedelta(seconds=5)) as database:
        database.run("SELECT 1")
        before = held()
        for _ in range(200):
            with database.deadline():
                database.run("SELECT 1")
        assert held() == before
        for _ in range(10):
            database.run("SELECT 1")
            with pytest.raises(DeadlinePassed), database.deadline(timedelta(milliseconds=20)):
                database.run("SELECT pg_sleep(10)")
        database.run("SELECT 1")
        assert held() == before
        assert not WATCHDOG._watches


def test_many_threads_have_their_own_deadlines(server):
    took = {}

    def work(number):
        with Database(server.uri) as database:
            database.run("SELECT 1")
            begun = time.monotonic()
            within = timedelta(milliseconds=100 * (9 - number))
            with contextlib.suppress(DeadlinePassed), database.deadline(within):
                database.run("SELECT pg_sleep(10)")
            took[number] = time.monotonic() - begun - within.total_seconds()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == 8
    assert all(0 <= late < GRACE for late in took.values()), took


def test_a_fork_has_a_watchdog_of_its_own(server):
    """In a program of its own: a fork of threads is no place for pytest."""
    program = f"""
import os, time
from datetime import timedelta
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.failures import DeadlinePassed

def late():
    with Database({server.uri!r}) as database:
        database.run("SELECT 1")
        try:
            with database.deadline(timedelta(seconds=0.3)):
                database.run("SELECT pg_sleep(100)")
        except DeadlinePassed:
            return True

assert late()
if os.fork() == 0:
    os._exit(0 if late() else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


class Holed(Database):
    """The network dies right before the first COMMIT."""

    proxy = None

    @contextlib.contextmanager
    def transaction(self):
        with super().transaction() as transaction:
            yield transaction
            self.proxy.fault = "blackhole"


def test_a_document_whose_commit_hangs_is_answered_in_time_and_stored_once(
    database_uri, clean, config, make_status
):
    now = datetime.now(UTC)
    payload = Payload(json.dumps(make_status()).encode(), now, key="k")
    with Proxy(database_uri) as proxy, Holed(proxy.uri, timeout=timedelta(seconds=3)) as database:
        database.proxy = proxy
        begun = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            ingest(payload, database, config)
        assert time.monotonic() - begun < 3 + GRACE
    with Database(database_uri) as database:
        assert not ingest(payload, database, config)[0].duplicate
        assert ingest(payload, database, config)[0].duplicate


def test_a_long_statement_of_any_database_is_left_in_time(database_uri):
    """The embedded one too, whose statement_timeout does nothing."""
    with Database(database_uri) as database:
        database.run("SELECT 1")
        begun = time.monotonic()
        with pytest.raises(DeadlinePassed), database.deadline(DEADLINE):
            database.run("SELECT pg_sleep(5)")
        assert time.monotonic() - begun < DEADLINE.total_seconds() + GRACE
    with Database(database_uri) as database:
        assert database.run("SELECT 1") == [(1,)]

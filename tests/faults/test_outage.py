"""A database that is away, hung, full, locked, read-only or crowded: 503 in time, and then as before.

Never a 4xx: the documents are good. Never later than ten seconds. /healthz answers all the while, no
thread stays stuck, and nobody has to start anything again.
"""

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg2
import pytest

from tests.faults.proxy import Proxy
from tests.faults.small import cluster_on, fill, small_disk
from tests.service import Probe

DEADLINE = 10
"""Seconds within which every POST is answered."""

RECOVERY = 5
"""Seconds until the first 2xx, and until /readyz is 200, after the database takes connections."""

HEALTHY = 0.5
"""The slowest of a hundred /healthz: 0.1 s on a machine of its own; a CI machine has other work."""

WORKERS = 2
THREADS = 16
OTHER_THREADS = 3
"""Of a worker: the one that accepts, the watchdog, the one that waits for the end of `tsstats up`."""

LONGEST_RETRY_AFTER = 75
QUICK = {"TSSTATS_DATABASE_TIMEOUT": "3 seconds"}
POSTS = 40
"""More than there are threads."""

POSTS_AFTER = 8


class Outage:
    """Posts through a fault and after it, and holds the answers against what was promised."""

    def __init__(self, server, make_document, peers=3):
        self.server = server
        self._make = lambda: make_document(peers=peers)
        # Every thread has its connection before the fault comes.
        self._posts(POSTS_AFTER)
        self.taken()

    def taken(self):
        """Seconds until a document is taken."""
        began = time.monotonic()
        body, key = self._make()
        self.server.deliver(body, headers=key, seconds=30)
        return time.monotonic() - began

    def until_refused(self):
        """Post until the fault is felt."""
        for _ in range(100):
            (answer,) = self._posts(1)
            if answer.status != 200:
                assert answer.status == 503, answer.content
                return
        raise AssertionError("100 documents were taken in spite of the fault")

    def refused(self, *, everyone=True):
        """All posts are answered in time, with 503 or, unless `everyone`, with 200. So is /healthz."""
        with Probe(self.server) as probe:
            answers = self._posts(POSTS)
        refusals = [answer for answer in answers if answer.status != 200]
        assert not everyone or len(refusals) == POSTS
        for answer in refusals:
            assert answer.status == 503, answer.content
            assert 1 <= int(answer.headers["retry-after"]) <= LONGEST_RETRY_AFTER
            assert answer.json["retryable"] is True
        assert max(answer.seconds for answer in answers) <= DEADLINE
        print(f"slowest 503 {max(a.seconds for a in answers):.2f} s, p99 of /healthz {probe.p99:.3f} s")
        assert not probe.failures
        assert probe.p99 <= HEALTHY
        return answers

    def over(self):
        """The fault is gone: documents are taken and it is ready, soon, with no thread left behind."""
        taken = self.taken()
        assert taken <= RECOVERY
        assert self.server.wait_until(lambda: self.server.get("/readyz").status == 200) <= RECOVERY
        self.server.wait_until(lambda: self.server.threads() <= WORKERS * (THREADS + OTHER_THREADS), 15)
        # A stuck thread would not do its share. A few may be told that it is busy.
        with ThreadPoolExecutor(POSTS_AFTER) as pool:
            assert max(pool.map(lambda _: self.taken(), range(POSTS_AFTER))) <= RECOVERY
        print(f"taken {taken:.2f} s after the fault")

    def _posts(self, number):
        def post(_):
            body, key = self._make()
            return self.server.post(body, headers=key, timeout=2 * DEADLINE)

        with ThreadPoolExecutor(number) as pool:
            return list(pool.map(post, range(number)))


@pytest.fixture
def outage(start_server, make_document):
    """Starts a service whose time in the database is shorter than usual, and knows what to expect."""

    def start(uri, hooks=None, peers=3, **settings):
        return Outage(start_server(uri, hooks, **(QUICK | settings)), make_document, peers)

    return start


@pytest.mark.faults
def test_begins_without_a_database_and_is_ready_soon_after_it(native, start_server, make_document):
    body, key = make_document()
    native.cluster.stop()
    server = start_server(native.uri, **QUICK)
    assert (server.get("/healthz").status, server.get("/readyz").status) == (200, 503)
    assert server.post(body, headers=key).status == 503
    native.cluster.start()
    assert server.wait_until(lambda: server.get("/readyz").status == 200) <= RECOVERY
    assert server.deliver(body, headers=key, seconds=RECOVERY).json["duplicate"] is False


@pytest.mark.faults
def test_goes_on_after_the_database_was_killed(target, outage):
    after = outage(target.uri)
    pid = after.server.process.pid
    workers = after.server.workers()
    target.kill()
    target.wait()
    after.over()
    assert (after.server.process.pid, after.server.workers()) == (pid, workers)


@pytest.mark.faults
def test_a_locked_table(native, outage):
    during = outage(native.uri)
    with _session(native) as cursor:
        cursor.execute("BEGIN; LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
        during.refused()
        cursor.execute("ROLLBACK")
    during.over()


@pytest.mark.faults
def test_a_hung_backend(native, outage):
    """The shipped time limit. A retry on a new connection may be taken."""
    during = outage(native.uri, TSSTATS_DATABASE_TIMEOUT="8 seconds")
    with contextlib.ExitStack() as stack:
        for pid in native.cluster.backends():
            stack.enter_context(native.cluster.frozen(pid))
        during.refused(everyone=False)
    during.over()


@pytest.mark.faults
def test_a_hung_server(native, outage):
    during = outage(native.uri)
    with contextlib.ExitStack() as stack:
        for pid in (native.cluster.pid, *native.cluster.backends()):
            stack.enter_context(native.cluster.frozen(pid))
        during.refused()
    during.over()


@pytest.mark.faults
def test_without_the_watchdog_a_hung_network_is_waited_for(target, start_server, make_document):
    """On a connection that is there already: opening one has a time limit of its own."""
    with Proxy(target.uri) as proxy:
        server = start_server(proxy.uri, "no-watchdog", **QUICK, TSSTATS_WORKERS="1", TSSTATS_THREADS="2")
        for _ in range(4):
            body, key = make_document()
            server.deliver(body, headers=key)
        proxy.fault = "blackhole"
        with pytest.raises(TimeoutError):
            server.post(body, timeout=6)
        proxy.fault = None


OTHER_FAULTS = [pytest.param(fault, marks=pytest.mark.faults) for fault in ("reset", "trickle", "half_close")]


@pytest.mark.parametrize("fault", ["blackhole", *OTHER_FAULTS])
def test_a_broken_network(fault, target, outage):
    with Proxy(target.uri) as proxy:
        during = outage(proxy.uri)
        proxy.fault = fault
        during.refused()
        proxy.fault = None
        during.over()


@pytest.mark.faults
def test_a_crowded_server(native, outage):
    during = outage(native.uri)
    with contextlib.ExitStack() as stack:
        for pid in native.cluster.backends():
            os.kill(pid, signal.SIGTERM)
        during.server.wait_until(lambda: not native.cluster.backends())
        with pytest.raises(psycopg2.OperationalError, match="too many clients"):  # noqa: PT012
            while True:
                stack.enter_context(contextlib.closing(native.cluster.connect()))
        during.refused()
    during.over()


@pytest.mark.faults
def test_a_read_only_server(native, outage):
    during = outage(native.uri)
    try:
        _alter_system(native, "SET default_transaction_read_only = on")
        during.refused()
        during.server.wait_until(lambda: during.server.get("/readyz").status == 503, 5)
    finally:
        _alter_system(native, "RESET default_transaction_read_only")
    during.over()


@pytest.mark.faults
@pytest.mark.parametrize("what", ["data", "wal"])
def test_a_full_disk(what, new_postgres, outage):
    """Documents are large, so that none fits into what is left of a page."""
    with small_disk() as disk, cluster_on(disk, what, new_postgres) as target:
        during = outage(target.uri, peers=500)
        fill(disk / "filler")
        during.until_refused()
        during.refused()
        (disk / "filler").unlink()
        target.wait()
        during.over()


@pytest.mark.faults
@pytest.mark.parametrize(("hooks", "status"), [(None, 200), ("one-attempt", 503)])
def test_a_deadlock_is_invisible_but_where_nothing_is_tried_again(
    hooks, status, native, start_server, make_document
):
    """The service waits for us at the receipts with its host locked; then we want that host."""
    body, key = make_document()
    server = start_server(native.uri, hooks)
    server.deliver(body, headers=key)
    again, key = make_document(rx_bytes=2000)
    with _session(native) as cursor, ThreadPoolExecutor(1) as pool:
        # Who looks first is the victim, and that must be the service.
        cursor.execute("SET deadlock_timeout = '60s'; BEGIN; LOCK TABLE receipts IN SHARE ROW EXCLUSIVE MODE")
        posted = pool.submit(server.post, again, headers=key)
        server.wait_until(lambda: _waiting(native))
        cursor.execute("SELECT FROM hosts FOR UPDATE")
        cursor.execute("COMMIT")
        assert posted.result().status == status
    assert "deadlock detected" in native.cluster.log
    assert native.count("receipts") == (2 if status == 200 else 1)


@pytest.mark.faults
@pytest.mark.parametrize("failures", [2, 100])
def test_a_serialization_failure_is_tried_again_and_not_for_ever(
    failures, native, start_server, make_document
):
    body, key = make_document()
    server = start_server(native.uri)
    native.run(FAIL.format(failures=failures))
    try:
        answer = server.post(body, headers=key)
        assert answer.status == (200 if failures == 2 else 503)
        assert answer.seconds < 2
    finally:
        native.run("DROP TRIGGER fail ON receipts; DROP FUNCTION fail(); DROP SEQUENCE failures")
    assert native.count("receipts") == (1 if failures == 2 else 0)
    server.deliver(body, headers=key)
    assert native.count("receipts") == 1


FAIL = """
CREATE SEQUENCE failures;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('failures') <= {failures} THEN
        RAISE serialization_failure;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail BEFORE INSERT ON receipts FOR EACH ROW EXECUTE FUNCTION fail()
"""


@contextlib.contextmanager
def _session(native):
    with contextlib.closing(native.cluster.connect(dbname="tsstats")) as connection:
        yield connection.cursor()


def _waiting(native):
    return native.run("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'") != []


def _alter_system(native, change):
    before = datetime.now(UTC)
    with _session(native) as cursor:
        cursor.execute("SET default_transaction_read_only = off")
        cursor.execute(f"ALTER SYSTEM {change}")
        cursor.execute("SELECT pg_reload_conf()")
    # The server reads it in its own time, and tells the sessions that there are then.
    while _loaded(native) < before:
        time.sleep(0.02)


def _loaded(native):
    with _session(native) as cursor:
        cursor.execute("SELECT pg_conf_load_time()")
        return cursor.fetchone()[0]

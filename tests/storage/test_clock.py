"""A machine whose clock is wrong stores nothing, and what it stored before freezes nobody."""

import json
import socket
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.errors import TimestampOutOfRange, WrongClock
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.rejects import reject, retry
from ringstats_ts.storage import clock, overview
from ringstats_ts.storage.health import examine
from ringstats_ts.storage.rejects import find_reject, list_rejects

NOW = datetime.now(UTC).replace(microsecond=0)
OFF = timedelta(days=200)
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def now():
    """The present of each test: half an hour may pass between it and the first one of all."""
    globals()["NOW"] = datetime.now(UTC).replace(microsecond=0)


def off(skew):
    return lambda: datetime.now(UTC) + skew


@pytest.mark.parametrize(
    ("skew", "told"), [(OFF, "200 days, 0:00:00 ahead"), (-timedelta(minutes=11), "0:11:00 behind")]
)
def test_a_clock_that_is_off_is_refused_by_its_name(database, skew, told):
    assert abs(clock.skew(database)) < timedelta(minutes=1)
    clock.check_clock(database, timedelta(minutes=10))
    with pytest.raises(WrongClock) as caught:
        clock.check_clock(database, timedelta(minutes=10), off(skew))
    assert caught.value.retryable
    assert caught.value.message == f"The clock of {socket.gethostname()} is {told} of the database's."


class TestArrival:
    @pytest.fixture
    def take(self, database, config, make_status):
        def take(at, **told):
            payload = Payload(json.dumps(make_status()).encode(), at, **told)
            return ingest(payload, database, config)[0]

        return take

    @pytest.mark.parametrize("known", [False, True])
    @pytest.mark.parametrize("off", [OFF, timedelta(minutes=11), -timedelta(minutes=11), -OFF])
    def test_what_arrives_by_a_wrong_clock_is_not_stored(self, take, database, config, known, off):
        if known:
            take(NOW, clock=config.future)
        before = database.run("SELECT count(*) FROM hosts")
        for told in ({}, {"time": NOW + off - MINUTE}, {"partial": True}):
            with pytest.raises(WrongClock):
                take(NOW + off, clock=config.future, **told)
        assert database.run("SELECT count(*) FROM hosts") == before

    def test_what_came_a_while_ago_is_stored(self, take):
        assert not take(NOW - OFF).duplicate

    def test_a_reject_that_came_by_a_wrong_clock_can_be_retried_with_its_time(
        self, database, config, make_status
    ):
        payload = Payload(json.dumps(make_status()).encode(), NOW + timedelta(days=2))
        reject(payload, TimestampOutOfRange(), database, config)
        (refused,) = list_rejects(database)
        kept = find_reject(database, refused.reject_id)
        with pytest.raises(TimestampOutOfRange, match="lies in the future"):
            retry(kept, database, config, now=NOW)
        assert retry(kept, database, config, now=NOW, time=NOW)


def test_doctor_names_the_machine(database):
    assert doctor(database)[0]
    clock.note_clock(database, timedelta(minutes=10), off(OFF))
    ok, detail = doctor(database)
    assert (ok, f"{socket.gethostname()}, 200 days, 0:00:00 ahead" in detail) == (False, True)
    clock.note_clock(database, timedelta(minutes=10))
    assert doctor(database)[0]


def test_doctor_forgets_a_machine_that_is_gone(database):
    clock.note_clock(database, timedelta(minutes=10), off(OFF))
    database.run("UPDATE clocks SET machine = 'gone', seen_at = seen_at - INTERVAL '25 hours'")
    assert doctor(database)[0]
    clock.note_clock(database, timedelta(minutes=10))
    assert database.run("SELECT count(*) FROM clocks") == [(0,)]


def doctor(database):
    (found,) = [finding for finding in examine(database, {}) if finding.subject == "clock"]
    return found.ok, found.detail


class TestFrozen:
    """A host that was heard in 2027: before arrivals were compared, one wrong moment did that."""

    @pytest.fixture
    def take(self, database, config, make_status):
        def take(at, name, peer="linux"):
            status = make_status(peers={"db": {"OS": peer}}, MagicDNSSuffix=f"{name}.example")
            status["Self"] |= {"HostName": name, "DNSName": f"{name}.{name}.example."}
            ingest(Payload(json.dumps(status).encode(), NOW, host="gateway", time=at), database, config)

        return take

    @pytest.fixture
    def frozen(self, take, database, config):
        take(NOW - 9 * MINUTE, "before")
        # As if it had been stored then.
        take(NOW - 8 * MINUTE, "in-the-future", "macOS")
        ahead = {"time": NOW - 8 * MINUTE, "then": NOW + OFF}
        for name in ("status", "peers", "node_changes", "status_changes"):
            moved = "jsonb_populate_record(t, jsonb_build_object('time', %(then)s::timestamptz))"
            database.run(
                f"INSERT INTO tailscale_{name} SELECT ({moved}).* FROM tailscale_{name} AS t"
                " WHERE time = %(time)s",
                ahead,
            )
            database.run(f"DELETE FROM tailscale_{name} WHERE time = %(time)s", ahead)
        database.run("UPDATE hosts SET last_seen = %(then)s", ahead)
        database.run("UPDATE tailscale_nodes SET changed_at = %(then)s WHERE changed_at = %(time)s", ahead)

    def node(self, database):
        return database.run("SELECT name, os FROM tailscale_nodes ORDER BY stable_id")

    @pytest.mark.usefixtures("frozen")
    @pytest.mark.parametrize("after", [("before", "linux"), ("after", "bsd")])
    def test_the_next_document_frees_it(self, take, database, after):
        assert self.node(database) == [("db", "macOS"), ("in-the-future", "linux")]
        assert overview.read(database, now=NOW).silent_hosts == 1
        take(NOW - MINUTE, *after)
        assert self.node(database) == [("db", after[1]), (after[0], "linux")]
        assert database.run("SELECT tailnet, last_seen FROM hosts") == [(f"{after[0]}.example", NOW - MINUTE)]
        take(NOW, "again", "linux")
        assert self.node(database) == [("db", "linux"), ("again", "linux")]
        assert database.run("SELECT last_seen FROM tailscale_reporters") == [(NOW,)]

    @pytest.mark.usefixtures("frozen")
    def test_it_counts_as_silent(self, database):
        assert database.rows("count_reporters") == [(1, 1)]

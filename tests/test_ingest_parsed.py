"""Several payloads in one transaction: each is stored whole, or refused by itself."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts import ingest as ingest_module
from ringstats_ts.errors import ConflictingPayload, PayloadError, TimestampOutOfRange
from ringstats_ts.ingest import ingest_parsed, parse
from ringstats_ts.model import Payload

NOW = datetime.now(UTC).replace(microsecond=0)


def at(minute):
    return (NOW - timedelta(hours=2) + timedelta(minutes=minute)).isoformat()


@pytest.fixture
def take(database, config):
    """Ingests several bodies, each a list of documents; for each the times of its receipts, or its error."""

    def take_all(*bodies, **told):
        payloads = [Payload("\n".join(map(json.dumps, body)).encode(), NOW, **told) for body in bodies]
        outcomes = ingest_parsed([parse(payload, config) for payload in payloads], database, config)
        return [
            outcome if isinstance(outcome, PayloadError) else [not receipt.duplicate for receipt in outcome]
            for outcome in outcomes
        ]

    return take_all


@pytest.fixture
def content(database):
    """Hosts, times and received bytes of all rows."""

    def read():
        return database.run(
            "SELECT h.name, p.time, p.rx_bytes FROM tailscale_peers AS p JOIN hosts AS h USING (host_id)"
            " ORDER BY 1, 2, 3"
        )

    return read


def test_answers_each_payload_in_order_whatever_the_order_of_the_times(take, content, make_status):
    bodies = [
        [make_status(host, {"db": minute}, _timestamp=at(minute)) for host in hosts]
        for minute, hosts in ((3, "ba"), (1, "a"), (2, "cab"))
    ]
    assert take(*bodies) == [[True, True], [True], [True, True, True]]
    assert take(*bodies[1:], [make_status("a", _timestamp=at(9))]) == [[False], [False] * 3, [True]]
    assert [(name, rx_bytes) for name, _, rx_bytes in content()] == [
        ("a", 1),
        ("a", 2),
        ("a", 3),
        ("a", 1000),
        ("b", 2),
        ("b", 3),
        ("c", 2),
    ]


def test_samples_go_in_together_by_their_times(take, database, monkeypatch, make_status):
    """One that is late would be compared with those after it, by statements of its own."""
    times, store = [], ingest_module.store

    def noted(database, todo):
        times.append([task.batch.time.isoformat() for task in todo])
        return store(database, todo)

    monkeypatch.setattr(ingest_module, "store", noted)
    bodies = [[make_status("a", {"db": minute}, _timestamp=at(minute))] for minute in (3, 1, 2)]
    assert take(*bodies) == [[True]] * 3
    assert times == [[at(1), at(2), at(3)]]
    assert database.run("SELECT count(DISTINCT xmin::text) FROM receipts") == [(1,)]


def test_refuses_a_payload_whole_and_stores_the_others(take, content, make_status):
    take([make_status("a", {"db": 1}, _timestamp=at(2))])
    before = content()
    outcomes = take(
        [make_status("a", {"db": minute}, _timestamp=at(minute)) for minute in (1, 2, 3)],
        [make_status("b", {"db": 5}, _timestamp=at(2))],
        [make_status("c", {"db": 5}, _timestamp=(NOW + timedelta(days=9)).isoformat())],
    )
    conflict, good, future = outcomes
    assert good == [True]
    assert isinstance(conflict, ConflictingPayload)
    assert conflict.line == 2
    assert isinstance(future, TimestampOutOfRange)
    assert content() == [*before, ("b", datetime.fromisoformat(at(2)), 5)]


@pytest.mark.parametrize("bad", [1, ingest_module.REFUSED_TOGETHER, ingest_module.REFUSED_TOGETHER + 2])
def test_refuses_as_many_as_are_bad(take, content, make_status, bad):
    take([make_status("a", {"db": 1}, _timestamp=at(0))])
    outcomes = take(
        *([make_status("a", {"db": 2 + number}, _timestamp=at(0))] for number in range(bad)),
        *([make_status("b", {"db": 7}, _timestamp=at(number))] for number in range(3)),
    )
    assert [type(outcome) for outcome in outcomes] == [ConflictingPayload] * bad + [list] * 3
    assert [(name, rx_bytes) for name, _, rx_bytes in content()] == [("a", 1), ("b", 7), ("b", 7), ("b", 7)]


def test_of_two_payloads_for_one_time_the_first_is_stored(take, content, make_status):
    same = [make_status("a", {"db": 1}, _timestamp=at(0))]
    stored, refused, again = take(same, [make_status("a", {"db": 2}, _timestamp=at(0))], same)
    assert (stored, type(refused), again) == ([True], ConflictingPayload, [False])
    assert [rx_bytes for *_, rx_bytes in content()] == [1]


def test_the_last_of_several_corrections_stays(take, content, make_status):
    take([make_status("a", {"db": 1}, _timestamp=at(0))])
    corrections = [[make_status("a", {"db": number}, _timestamp=at(0))] for number in (5, 9, 7)]
    assert take(*corrections, replace=True) == [[True]] * 3
    assert [rx_bytes for *_, rx_bytes in content()] == [7]

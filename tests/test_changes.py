"""Change histories: what they say does not depend on the order in which samples come."""

import json
import random
from datetime import UTC, datetime, timedelta
from itertools import groupby

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload

START = datetime(2026, 11, 1, tzinfo=UTC)
NOW = START + timedelta(days=10)

SAMPLE = st.fixed_dictionaries(
    {
        "os": st.sampled_from(["linux", "macOS"]),
        "health": st.sampled_from([[], ["a"], ["a", "b"], ["b", "a"]]),
        "peer": st.booleans(),
    }
)


def document(make_status, sample):
    peers = {"db": {"OS": sample["os"]}} if sample["peer"] else {}
    return make_status("gateway", peers=peers, Health=sample["health"])


def expected(samples, value):
    """Times and values at which the sequence differs from what was before."""
    out = []
    for index, sample in enumerate(samples):
        if (seen := value(sample)) is not None and (not out or out[-1][1] != seen):
            out.append((START + timedelta(minutes=index), seen))
    return out


@pytest.mark.parametrize("replaced", [False, True], ids=["late", "late and corrected"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.lists(SAMPLE, min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_any_order_of_arrival_gives_the_same_history(database, config, make_status, replaced, samples, seed):
    empty(database)
    order = list(enumerate(samples))
    random.Random(seed).shuffle(order)
    if replaced:
        wrong = {"os": "windows", "health": ["wrong"], "peer": True}
        order = [(index, wrong) for index, _ in order[::2]] + order
    for index, sample in order:
        payload = Payload(
            json.dumps(document(make_status, sample)).encode(),
            NOW,
            time=START + timedelta(minutes=index),
            replace=replaced,
        )
        ingest(payload, database, config)
    node = database.run(
        "SELECT c.time, c.os FROM tailscale_node_changes AS c JOIN tailscale_nodes AS n USING (node_id)"
        " WHERE n.name = 'db' ORDER BY c.time"
    )
    assert node == expected(samples, lambda s: s["os"] if s["peer"] else None)
    status = database.run("SELECT time, health FROM tailscale_status_changes ORDER BY time")
    assert status == expected(samples, lambda s: sorted(set(s["health"])))


def empty(database):
    tables = (
        "hosts, receipts, attributes, drift, late_windows, tailscale_nodes, tailscale_status, "
        "tailscale_peers, tailscale_node_changes, tailscale_status_changes"
    )
    database.run(f"TRUNCATE {tables} RESTART IDENTITY")
    database.close()


def test_current_fields_are_those_of_the_latest_sample(database, config, make_status):
    times = {"linux": 5, "macOS": 1, "windows": 3}
    for os, minutes in times.items():
        body = json.dumps(make_status(peers={"db": {"OS": os}})).encode()
        ingest(Payload(body, NOW, time=START + timedelta(minutes=minutes)), database, config)
    assert database.run("SELECT os, first_seen, changed_at FROM tailscale_nodes WHERE name = 'db'") == [
        ("linux", START + timedelta(minutes=1), START + timedelta(minutes=5))
    ]


def test_a_late_sample_and_a_correction_do_not_stay_in_the_current_fields(database, config, make_status):
    def take(minutes, os, **told):
        body = json.dumps(make_status(peers={"db": {"OS": os}} if os else {})).encode()
        ingest(Payload(body, NOW, time=START + timedelta(minutes=minutes), **told), database, config)
        return database.run("SELECT os FROM tailscale_nodes WHERE name = 'db'")[0][0]

    assert [take(0, "linux"), take(20, "linux"), take(10, "macOS")] == ["linux", "linux", "linux"]
    assert take(30, "windows") == "windows"
    assert take(30, None, replace=True) == "linux"


def test_a_reporter_that_is_cut_off_does_not_change_the_current_fields(database, config, make_status):
    def take(reporter, minutes, os, **fields):
        body = json.dumps(make_status(reporter, peers={"db": {"OS": os}}, **fields)).encode()
        ingest(Payload(body, NOW, time=START + timedelta(minutes=minutes)), database, config)
        return database.run("SELECT os FROM tailscale_nodes WHERE name = 'db'")[0][0]

    assert take("a", 0, "linux") == "linux"
    assert take("b", 5, "macOS", BackendState="Stopped") == "linux"
    assert take("b", 6, "macOS") == "linux"
    assert take("a", 7, "windows") == "windows"


def test_tags_routes_key_and_addresses_are_history(database, config, make_status):
    versions = [
        {"Tags": ["tag:b", "tag:a"]},
        {"Tags": ["tag:a", "tag:b"]},
        {"PrimaryRoutes": ["10.0.0.0/8"]},
        {"PublicKey": "nodekey:" + "f" * 64},
        {"KeyExpiry": "2027-01-01T00:00:00Z"},
    ]
    for minutes, fields in enumerate(versions):
        body = json.dumps(make_status(peers={"db": fields})).encode()
        ingest(Payload(body, NOW, time=START + timedelta(minutes=minutes)), database, config)
    rows = database.run(
        "SELECT extract(minute FROM c.time)::integer, c.tags, c.primary_routes, c.key_expiry"
        " FROM tailscale_node_changes AS c JOIN tailscale_nodes AS n USING (node_id)"
        " WHERE n.name = 'db' ORDER BY c.time"
    )
    assert rows == [
        (0, ["tag:a", "tag:b"], None, None),
        (2, None, ["10.0.0.0/8"], None),
        (3, None, None, None),
        (4, None, None, datetime(2027, 1, 1, tzinfo=UTC)),
    ]
    assert [key for key, _ in groupby(row[0] for row in rows)] == [0, 2, 3, 4]

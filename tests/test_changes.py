"""Change histories: what they say does not depend on the order in which samples come."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.storage.database import Database
from tests.examples import examples

START = datetime(2026, 11, 1, tzinfo=UTC)
NOW = START + timedelta(days=10)
MINUTE = timedelta(minutes=1)

SAMPLE = st.fixed_dictionaries(
    {
        "os": st.sampled_from(["linux", "macOS"]),
        "health": st.sampled_from([[], ["a"], ["a", "b"], ["b", "a"]]),
        "peer": st.booleans(),
        "tailnet": st.sampled_from(["one.example", "two.example"]),
    }
)


def document(make_status, sample):
    peers = {"db": {"OS": sample["os"]}} if sample["peer"] else {}
    status = make_status("gateway", peers=peers, Health=sample["health"], MagicDNSSuffix=sample["tailnet"])
    # The host goes by another name in each tailnet.
    status["Self"]["DNSName"] = f"gateway-{sample['tailnet']}."
    return status


def expected(samples, value):
    """Times and values at which the sequence differs from what was before."""
    out = []
    for index, sample in enumerate(samples):
        if (seen := value(sample)) is not None and (not out or out[-1][1] != seen):
            out.append((START + timedelta(minutes=index), seen))
    return out


@st.composite
def arrivals(draw, *, corrected):
    """Samples, and the bodies in which they and drafts of some of them come, each with its worker."""
    samples = draw(st.lists(SAMPLE, min_size=1, max_size=8))
    drafts = draw(st.lists(st.sampled_from(range(len(samples))), max_size=5)) if corrected else []
    order = draw(st.permutations([*range(len(samples)), *drafts]))
    last = {index: place for place, index in enumerate(order)}
    documents = [
        (index, samples[index] if last[index] == place else draw(SAMPLE)) for place, index in enumerate(order)
    ]
    cuts = [0, *sorted(draw(st.sets(st.integers(1, 12)))), len(documents)]
    bodies = [(draw(st.integers(0, 1)), documents[start:end]) for start, end in itertools.pairwise(cuts)]
    return samples, bodies


@pytest.mark.parametrize("corrected", [False, True], ids=["late", "late and corrected"])
@examples(40)
@given(data=st.data())
def test_any_order_of_arrival_gives_the_same_history(
    database, database_uri, config, make_status, corrected, data
):
    samples, bodies = data.draw(arrivals(corrected=corrected))
    empty(database)
    with Database(database_uri) as other:
        for worker, documents in bodies:
            stamped = [
                document(make_status, sample) | {"_timestamp": (START + index * MINUTE).isoformat()}
                for index, sample in documents
            ]
            body = "\n".join(map(json.dumps, stamped)).encode()
            if body:
                ingest(Payload(body, NOW, replace=corrected), (database, other)[worker], config)
    node = database.run(
        "SELECT c.time, c.os FROM tailscale_node_changes AS c JOIN tailscale_nodes AS n USING (node_id)"
        " WHERE n.name = 'db' ORDER BY c.time"
    )
    assert node == expected(samples, lambda s: s["os"] if s["peer"] else None)
    status = database.run("SELECT time, health FROM tailscale_status_changes ORDER BY time")
    assert status == expected(samples, lambda s: sorted(set(s["health"])))
    last = samples[-1]["tailnet"]
    assert database.run("SELECT name, tailnet, stable_id, first_seen, last_seen FROM hosts") == [
        (
            f"gateway-{last.partition('.')[0]}",
            last,
            "ngatewayCNTRL",
            START,
            START + (len(samples) - 1) * MINUTE,
        )
    ]
    assert database.run("SELECT name, said_as FROM tailscale_nodes WHERE stable_id = 'ngatewayCNTRL'") == [
        (f"gateway-{last.partition('.')[0]}", "own")
    ]


def empty(database):
    tables = (
        "hosts, receipts, attributes, drift, late_windows, tailscale_nodes, tailscale_status, "
        "tailscale_peers, tailscale_node_changes, tailscale_status_changes"
    )
    database.run(f"TRUNCATE {tables} RESTART IDENTITY")
    database.close()


@pytest.fixture
def take(database, config, make_status):
    """Ingests the gateway's sample of a minute, in which db has that OS; None for no db."""

    def take_one(minutes, os, **told):
        body = json.dumps(make_status(peers={"db": {"OS": os}} if os else {})).encode()
        ingest(Payload(body, NOW, time=START + minutes * MINUTE, **told), database, config)

    return take_one


@pytest.fixture
def history(database):
    def read():
        return database.run(
            "SELECT extract(minute FROM c.time)::integer, c.os FROM tailscale_node_changes AS c"
            " JOIN tailscale_nodes AS n USING (node_id) WHERE n.name = 'db' ORDER BY 1"
        )

    return read


def test_a_peer_that_comes_back_as_it_left_is_no_change_and_one_that_differs_is(take, history):
    for minutes, os in enumerate(["linux", None, "linux", None, "macOS", "macOS", "linux"]):
        take(minutes, os)
    assert history() == [(0, "linux"), (4, "macOS"), (6, "linux")]


def test_two_nodes_that_look_alike_are_two(database, config, make_status):
    for minutes, stable_id in enumerate(["n1", "n2", "n2"]):
        body = json.dumps(make_status(peers={"db": {"ID": stable_id}})).encode()
        ingest(Payload(body, NOW, time=START + minutes * MINUTE), database, config)
    assert database.run(
        "SELECT n.stable_id, c.time FROM tailscale_node_changes AS c"
        " JOIN tailscale_nodes AS n USING (node_id)"
        " WHERE n.name = 'db' ORDER BY 1"
    ) == [("n1", START), ("n2", START + MINUTE)]


@pytest.mark.parametrize(
    "between",
    [
        {},
        {"late": {"minutes": 1, "os": "linux"}},
        {"correction": {"minutes": 0, "os": "windows", "replace": True}},
    ],
    ids=lambda between: next(iter(between), "nothing"),
)
def test_a_sample_that_repeats_the_one_before_is_not_compared(take, history, database, between):
    take(0, "linux")
    take(2, "linux")
    database.run("DELETE FROM tailscale_node_changes")
    for told in between.values():
        take(**told)
        database.run("DELETE FROM tailscale_node_changes")
    take(3, "linux")
    # Where something came between, it is compared: what was taken away by hand is there again.
    assert history() == ([(3, "linux")] if between else [])


def test_a_sample_like_the_one_before_its_correction_is_a_change(take, history):
    take(0, "linux")
    take(1, "macOS")
    take(1, "windows", replace=True)
    take(2, "macOS")
    assert history() == [(0, "linux"), (1, "windows"), (2, "macOS")]


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

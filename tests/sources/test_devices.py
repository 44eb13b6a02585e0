"""The sources `devices` and `headscale`: what they take, what becomes of it, and what is kept of it."""

import copy
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ringstats_ts.decode import documents
from ringstats_ts.errors import PayloadError
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Context, Entity, Log, Payload
from ringstats_ts.sources.devices import DEVICES, HEADSCALE
from ringstats_ts.sources.devices.known import DEVICE, NODE
from ringstats_ts.sources.secrets import redact
from ringstats_ts.sources.tailscale import TAILSCALE
from tests.examples import examples
from tests.sources.test_tailscale_round_trip import cut, time_of

HERE = Path(__file__).parent
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CONTEXT = Context(NOW, host="control", sender="192.0.2.1")
SOURCES = {source.name: source for source in (DEVICES, HEADSCALE)}
CASES = [
    payload
    for name in SOURCES
    for payload in sorted((HERE / name).glob("*/payload.json"))
    if (payload.parent / "expected.json").exists()
]
SAMPLES = [payload for payload in CASES if payload.parent.name.startswith("sample")]
OPEN = [payload for payload in CASES if not payload.parent.name.startswith("secrets")]

COLUMNS = {
    "devices": {
        "name": "name",
        "hostname": "hostname",
        "user_name": "user",
        "os": "os",
        "client_version": "clientVersion",
        "update_available": "updateAvailable",
        "connected": "connectedToControl",
        "last_seen": "lastSeen",
        "created": "created",
        "expires": "expires",
        "key_expiry_disabled": "keyExpiryDisabled",
        "authorized": "authorized",
        "external": "isExternal",
        "ephemeral": "isEphemeral",
        "blocks_incoming": "blocksIncomingConnections",
        "ssh_enabled": "sshEnabled",
        "addresses": "addresses",
        "tags": "tags",
        "advertised_routes": "advertisedRoutes advertiseRoutes AdvertisedRoutes",
        "enabled_routes": "enabledRoutes",
        "multiple_connections": "multipleConnections",
        "node_key": "nodeKey",
        "machine_key": "machineKey",
        "tailnet_lock_error": "tailnetLockError",
    },
    "headscale": {
        "name": "given_name givenName",
        "hostname": "name",
        "connected": "online",
        "last_seen": "last_seen lastSeen",
        "created": "created_at createdAt",
        "expires": "expiry",
        "addresses": "ip_addresses ipAddresses",
        "tags": "tags",
        "advertised_routes": "available_routes availableRoutes",
        "enabled_routes": "approved_routes approvedRoutes",
        "node_key": "node_key nodeKey",
        "machine_key": "machine_key machineKey",
    },
}


def name(payload):
    return f"{payload.parent.parent.name}-{payload.parent.name}"


def read(payload):
    found = documents(payload.read_bytes(), max_documents=10, max_depth=64)
    return found[0].value if found[0].index is None else [document.value for document in found]


def source_of(payload):
    return SOURCES[payload.parent.parent.name]


def devices_in(document):
    """The devices of a document, found without the program's help."""
    if isinstance(document, list):
        return document
    body = document.get("body", document)
    for key in ("devices", "nodes", "machines"):
        if key in body:
            return body[key] or []
    return [body.get("node") or body.get("machine") or body]


def is_alone(document):
    """Whether it is a device by itself, found without the program's help."""
    return isinstance(document, dict) and {"devices", "nodes", "machines"}.isdisjoint(
        document.get("body", document)
    )


def tables(batch):
    return {
        part.table: [dict(zip(part.columns, row, strict=True)) for row in part.rows] for part in batch.rows
    }


@pytest.mark.parametrize("payload", SAMPLES, ids=name)
def test_counts_and_sums_are_those_of_the_text(payload):
    text = payload.read_text()
    document = read(payload)
    rows = tables(source_of(payload).parse(document, CONTEXT))
    devices = rows["tailscale_devices"]
    assert len(devices) == len(re.findall(r'"nodeKey":', text))
    told = len(re.findall(r'"(?:connectedToControl|online)":', text))
    connected = len(re.findall(r'"(?:connectedToControl|online)": true', text))
    external = len(re.findall(r'"isExternal": true', text))
    listed = {
        "devices": len(devices),
        "connected": connected if told or not devices else None,
        "external": external if "isExternal" in text or not devices else None,
    }
    assert [{key: row[key] for key in listed} for row in rows["tailscale_device_lists"]] == (
        [] if is_alone(document) else [listed]
    )
    assert sum(len(row["addresses"]) for row in devices) == len(
        re.findall(r'"(?:100\.|fd7a:)[0-9a-f.:]+"', text)
    )
    assert [row["latency_seconds"] for row in devices if row["derp"]] == (
        [0.012548] if "New York City" in text else []
    )


def restored(row, source, given):
    """A device from its row: its columns, then its attributes, then what `$raw` notes.

    `given` tells which of its names a field had.
    """
    attributes = row["attribute_id"].document
    zone = attributes.get("$zone", {})
    found = {}
    for column, keys in COLUMNS[source].items():
        key = next((key for key in keys.split() if key in given and key not in attributes), None)
        if key and row[column] is not None:
            value = row[column]
            found[key] = written(value, zone.get(key, "Z")) if isinstance(value, datetime) else value
    key = "nodeId" if given.get("nodeId") else "id"
    if key in given:
        found[key] = row["device_id"]
    found |= {key: value for key, value in attributes.items() if not key.startswith("$")}
    return found | attributes.get("$raw", {})


def written(time, form):
    if form != "protobuf":
        return time_of(time, form)
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    nanos = since.microseconds * 1000
    return {"seconds": since // timedelta(seconds=1)} | ({"nanos": nanos} if nanos else {})


def expected(device):
    """The device without the key it was registered with, `_timestamp`, and digits behind the microsecond."""
    device = {key: copy.deepcopy(value) for key, value in device.items() if key != "_timestamp"}
    for key in ("preAuthKey", "pre_auth_key"):
        if isinstance(device.get(key), dict):
            device[key].pop("key", None)
    for key in ("lastSeen", "created", "expires", "last_seen", "created_at", "createdAt", "expiry"):
        value = device.get(key)
        if isinstance(value, str):
            device[key] = cut(value) if re.match(r"\d{4}-", value) else value
        elif isinstance(value, dict) and isinstance(value.get("nanos"), int) and value["nanos"] < 10**9:
            nanos = value["nanos"] // 1000 * 1000
            device[key] = {"seconds": value["seconds"]} | ({"nanos": nanos} if nanos else {})
    return device


@pytest.mark.parametrize("payload", OPEN, ids=name)
def test_every_value_of_a_device_is_in_a_column_or_in_the_attributes(payload):
    document, source = read(payload), source_of(payload)
    rows = tables(source.parse(document, CONTEXT))["tailscale_devices"]
    given = devices_in(document)
    assert len(rows) == len(given)
    for row, device in zip(rows, given, strict=True):
        assert restored(row, source.name, device) == expected(device)


TIMES = st.sampled_from(
    [
        *("0001-01-01T00:00:00Z", "", None, "yesterday", "2026-11-22T12:58:00.5+01:00"),
        *("2026-11-22T12:58:00Z", {"seconds": 5}, {"seconds": 5, "nanos": 1000}),
        *({"seconds": -62135596800}, {}, {"seconds": "5"}),
    ]
)
TEXTS = st.sampled_from(["", None, "x", "tag:a", "日本"])
LISTS = st.none() | st.lists(st.sampled_from(["tag:a", "10.0.0.0/8", ""]), max_size=3)
FLAGS = st.none() | st.booleans() | st.just("")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text("aé$", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("a$", max_size=2), inner, max_size=2),
    max_leaves=4,
)
KINDS = {
    "last_seen": TIMES,
    "created": TIMES,
    "expires": TIMES,
    "addresses": LISTS,
    "tags": LISTS,
    "advertised_routes": LISTS,
    "enabled_routes": LISTS,
} | dict.fromkeys(["name", "hostname", "user_name", "os", "client_version", "tailnet_lock_error"], TEXTS)


@st.composite
def changed(draw):
    """A device of a case with fields dropped, changed and added."""
    payload = draw(st.sampled_from(OPEN))
    source = source_of(payload)
    device = copy.deepcopy(draw(st.sampled_from(devices_in(read(payload)) or [{"id": "1"}])))
    device.pop("_timestamp", None)
    for column, keys in COLUMNS[source.name].items():
        key = next((key for key in keys.split() if key in device), None)
        if key and column not in ("node_key", "machine_key") and draw(st.booleans()):
            device[key] = draw(KINDS.get(column, FLAGS))
    others = [*sorted((DEVICE | NODE) & device.keys() - {"id", "nodeId"}), "new", "$raw", "$x"]
    known = {key for keys in COLUMNS[source.name].values() for key in keys.split()}
    for key in draw(st.sets(st.sampled_from(others), max_size=4)):
        if key in known or draw(st.booleans()):
            device.pop(key, None)
        elif key not in ("note", "preAuthKey", "pre_auth_key"):
            device[key] = draw(VALUES)
    return source, device


@examples(200)
@given(drawn=changed())
def test_any_device_is_kept_whole(drawn):
    source, device = drawn
    listing = {"devices": [device]} if source is DEVICES else {"nodes": [device]}
    assume(source.detect(listing))
    sent = orjson.dumps(listing)
    batch = source.parse(listing, CONTEXT)
    (row,) = tables(batch)["tailscale_devices"]
    assert restored(row, source.name, device) == expected(device)
    assert orjson.dumps(listing) == sent
    known = DEVICE if source is DEVICES else NODE
    prefix = "devices.*." if source is DEVICES else "nodes.*."
    assert {prefix + key for key in device.keys() - known} <= set(batch.drift)


@pytest.mark.parametrize("payload", SAMPLES, ids=name)
def test_a_sample_that_is_cut_anywhere_is_refused(payload):
    body = payload.read_bytes().rstrip()
    for end in range(len(body)):
        with pytest.raises(PayloadError):
            documents(body[:end], max_documents=1)


@pytest.mark.parametrize("payload", CASES, ids=name)
def test_only_its_source_takes_it(payload):
    document = read(payload)
    assert [source.name for source in (TAILSCALE, DEVICES, HEADSCALE) if source.detect(document)] == [
        payload.parent.parent.name
    ]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        "devices",
        5,
        Log(b'{"devices": []}'),
        [{"devices": []}],
        [{"nodes": [{"nodeKey": "nodekey:a", "givenName": "a", "id": "1"}]}],
        [{"node": {"nodeKey": "nodekey:a", "givenName": "a", "id": "1"}}],
        [{"nodeKey": "nodekey:a", "machineKey": "mkey:a", "id": "1"}, {"id": "2"}],
        [{"nodeKey": "nodekey:a", "machineKey": "mkey:a", "id": "1"}, None],
        [{"nodeKey": "nodekey:a", "machineKey": "mkey:a", "id": "1", "_timestamp": 1795345200}],
        [{"nodeKey": "nodekey:a", "givenName": "a", "id": "1", "_timestamp": None}],
        {"devices": {}},
        {"devices": "none"},
        {"devices": [], "total": 0},
        {"devices": [None]},
        {"devices": [{"id": 1, "hostname": "printer"}]},
        {"nodes": [], "edges": []},
        {"nodes": [{"id": 1}], "links": []},
        {"nodes": {"a": {}}},
        {"node": {"id": 1, "name": "x"}},
        {"node": None},
        {"status": 401, "body": {"message": "Unauthorized"}},
        {"status": 200, "body": None},
        {"status": 200, "body": {"nodes": []}, "headers": {}},
        {"key": "hskey-auth-a", "reusable": True},
        {"id": 1, "name": "alice", "created_at": {"seconds": 1}},
    ],
    ids=str,
)
def test_what_only_resembles_a_listing_is_left_to_others(document):
    assert not DEVICES.detect(document)
    assert not HEADSCALE.detect(document)


@pytest.mark.parametrize("payload", sorted((HERE / "tailscale").glob("*/payload.json")), ids=name)
def test_status_documents_are_left_to_their_source(payload):
    if payload.parent.name in ("refuses-devices", "refuses-headscale"):
        pytest.skip("is of these sources")
    try:
        document = read(payload)
    except PayloadError:
        pytest.skip("is no JSON that is taken")
    assert not DEVICES.detect(document)
    assert not HEADSCALE.detect(document)


def test_keys_that_nodes_were_registered_with_are_dropped():
    secrets = 0
    for payload in CASES:
        text = payload.read_text()
        batch = repr(source_of(payload).parse(read(payload), CONTEXT))
        for secret in re.findall(r'"key": "([0-9a-f]{48}|hskey-[^"]+)"|(tskey-auth-[^"]+)', text):
            secrets += 1
            assert (secret[0] or secret[1].partition("CNTRL")[2]) not in batch
    assert secrets >= 5


def test_node_is_the_one_that_status_documents_tell_of(make_status):
    status = make_status(peers={"db": 1})
    peers = TAILSCALE.parse(status, CONTEXT).rows[1]
    node = peers.rows[0][peers.columns.index("node_id")]
    device = {"nodeId": "ndbCNTRL", "nodeKey": "nodekey:00", "name": "db.tail0example.ts.net"}
    (row,) = tables(DEVICES.parse({"devices": [device]}, CONTEXT))["tailscale_devices"]
    assert row["node_id"] == node == Entity("tailscale_nodes", ("", "ndbCNTRL"))
    assert row["node_id"].fields == node.fields


def test_order_and_spelling_make_no_other_document():
    document = read(HERE / "devices" / "sample-fields-all" / "payload.json")
    other = json.loads(json.dumps(document, indent=1, sort_keys=True))
    more = {**document, "_timestamp": "2026-11-22T10:00:00Z"}
    array, same_array = document["devices"], other["devices"]
    digests = [DEVICES.parse(each, CONTEXT).digest for each in (document, other, more, array, same_array)]
    assert digests[0] == digests[1]
    assert digests[3] == digests[4]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("stamp", ["9999-12-31T23:59:59.999999Z", 253402300799])
def test_a_device_alone_at_the_end_of_time_has_a_time(stamp):
    device = read(HERE / "devices" / "one-device" / "payload.json") | {"_timestamp": stamp}
    assert DEVICES.parse(device, CONTEXT).time.year == 9999


# What follows goes into the database.


def sent(database, config, document, **said):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    said = {"host": "control", "backfill": True} | said
    return ingest(Payload(body, said.pop("received_at", NOW), **said), database, config)


def test_every_case_is_stored_and_known_again(database, config):
    for payload in CASES:
        document = read(payload)
        for duplicate in (False, True):
            (receipt,) = sent(
                database, config, document, source=payload.parent.parent.name, host=name(payload), time=NOW
            )
            assert receipt.duplicate is duplicate
            assert receipt.rows == len(devices_in(document)) + (not is_alone(document))
    stored = sum(len(devices_in(read(payload))) for payload in CASES)
    assert database.run("SELECT count(*) FROM tailscale_devices") == [(stored,)]
    alone = sum(is_alone(read(payload)) for payload in CASES)
    assert database.run("SELECT count(*), sum(devices) FROM tailscale_device_lists") == [
        (len(CASES) - alone, stored - alone)
    ]


def test_an_empty_listing_is_a_fact(database, config):
    sent(database, config, {"devices": []})
    assert database.run(
        "SELECT h.name, kind, devices, connected, external, time"
        " FROM tailscale_device_lists JOIN hosts AS h USING (host_id)",
    ) == [("control", "tailscale", 0, 0, 0, NOW)]
    assert database.run("SELECT * FROM tailscale_devices_latest") == []


def test_latest_shows_the_newest_row_of_each_device_with_what_status_documents_told(
    database, config, make_status
):
    now = datetime.now(UTC)
    status = make_status("db", peers={"web": 1}, Version="1.90.0")
    sent(database, config, status, host=None, received_at=now, time=now)
    own = status["Self"]["ID"]
    device = {"nodeId": own, "nodeKey": "nodekey:1", "name": "db.tail0example.ts.net", "isExternal": False}
    for minutes, version in ((20, "1.92.0"), (10, "1.94.0"), (15, "1.93.0")):
        listing = {"devices": [device | {"clientVersion": version}]}
        sent(database, config, listing, host=None, received_at=now, time=now - timedelta(minutes=minutes))
    node = {"id": 7, "machine_key": "mkey:1", "node_key": status["Peer"].popitem()[1]["PublicKey"]}
    sent(database, config, {"nodes": [node]}, received_at=now, time=now)
    sent(database, config, {"devices": [device]}, received_at=now, time=now - timedelta(days=100))
    assert database.run(
        "SELECT host, tailnet, device, client_version, status_version, node, first_seen"
        " FROM tailscale_devices_latest ORDER BY kind DESC",
    ) == [
        (
            "tail0example.ts.net",
            "tail0example.ts.net",
            "db.tail0example.ts.net",
            "1.94.0",
            "1.90.0",
            "db",
            now,
        ),
        ("control", "", "7", None, None, "web", now),
    ]


def test_fields_that_are_new_are_kept_and_named(database, config):
    payload = HERE / "devices" / "fields-to-come" / "payload.json"
    (receipt,) = sent(database, config, read(payload))
    assert receipt.rows == 3
    assert database.run(
        "SELECT a.document -> 'FutureField' FROM tailscale_devices JOIN attributes AS a USING (attribute_id)"
        " WHERE device_id = 'nDB11CNTRL'",
    ) == [({"a": [1]},)]
    assert ("devices", "devices.*.FutureField") in database.run("SELECT source, path FROM drift")


def test_a_kept_body_has_no_bare_key():
    body = b'{"nodes": [{"preAuthKey": {"user": {"id": "1"}, "id": "1", "key" : "%s"}}]}' % (b"0a" * 24)
    assert redact(body) == body.replace(b"0a" * 24, b"<redacted>")

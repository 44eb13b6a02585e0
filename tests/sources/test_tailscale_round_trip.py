"""Everything that is sent comes back: from the batch by `written`, from the tables by `tailscale_document`.

Only secrets and digits behind the microsecond may be missing.
"""

import copy
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringstats_ts.config import Config
from ringstats_ts.decode import documents
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Attributes, Batch, Context, Entity, Payload
from ringstats_ts.sources import detect
from ringstats_ts.sources.canonical import canonical
from ringstats_ts.sources.secrets import without_secrets
from ringstats_ts.storage.database import Database
from tests.examples import examples

CASES = [
    payload
    for payload in sorted((Path(__file__).parent / "tailscale").glob("*/payload.*"))
    if (payload.parent / "expected.json").exists()
]
CONTEXT = Context(datetime(2026, 11, 22, 12, 0, tzinfo=UTC), host="gateway")
HOST_ID = 2**31 - 1
ZERO = "0001-01-01T00:00:00Z"
TIMES = {"LastHandshake": "last_handshake", "LastWrite": "last_write", "LastSeen": "last_seen"}
TEXTS = {"Relay": "relay", "PeerRelay": "peer_relay", "CurAddr": "cur_addr"}
PLAIN = {
    "RxBytes": "rx_bytes",
    "TxBytes": "tx_bytes",
    "Online": "online",
    "Active": "active",
    "InEngine": "in_engine",
    "ExitNode": "exit_node",
}


def read(payload: Path) -> Any:
    (document,) = documents(payload.read_bytes(), max_documents=1, max_depth=64)
    return document.value


def parse(document: Any, context: Context = CONTEXT) -> Batch:
    return detect(document).parse(document, context)


@pytest.mark.parametrize("payload", CASES, ids=lambda path: path.parent.name)
def test_document_comes_back_from_the_batch(payload: Path) -> None:
    document = read(payload)
    assert written(parse(document)) == expected(document)


@pytest.mark.parametrize("payload", CASES, ids=lambda path: path.parent.name)
def test_document_comes_back_from_the_tables(payload: Path, connection: Any) -> None:
    document = read(payload)
    assert stored(connection, parse(document)) == expected(document)


def test_documents_come_back_from_the_way_in(database: Database, config: Config, connection: Any) -> None:
    for payload in CASES:
        body, host = payload.read_bytes(), payload.parent.name
        (receipt,) = ingest(Payload(body, CONTEXT.received_at, host=host, backfill=True), database, config)
        got = fetch(
            connection,
            "SELECT tailscale_document(host_id, %s)::text FROM hosts WHERE name = %s",
            receipt.time,
            host,
        )
        assert json.loads(got) == expected(read(payload)), host


def test_document_that_is_not_stored_is_null(connection: Any) -> None:
    batch = parse(read(CASES[0]))
    with rolled_back(connection):
        store(connection, batch)
        other = batch.time + timedelta(seconds=1)
        assert fetch(connection, "SELECT tailscale_document(%s, %s)", HOST_ID, other) is None


ZONES = st.builds(
    lambda minutes: (
        "Z"
        if minutes is None
        else datetime(2000, 1, 1, tzinfo=timezone(timedelta(minutes=minutes))).isoformat()[19:]
    ),
    st.none() | st.integers(-23 * 60, 23 * 60),
)
YEARS = (datetime(2, 1, 1), datetime(9998, 1, 1))  # noqa: DTZ001
SECONDS = st.datetimes(*YEARS).map(lambda time: time.isoformat()[:19])
FRACTIONS = (
    st.just("")
    | st.from_regex(r"\.[0-9]{1,9}", fullmatch=True)
    | st.sampled_from([".000", ".120", ".1234560"])
)
WRITTEN_TIMES = st.builds("{}{}{}".format, SECONDS, FRACTIONS, ZONES) | st.sampled_from([ZERO, "", None])
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
STRINGS = st.text(CHARACTERS, max_size=8)
KEYS = STRINGS | st.sampled_from(["$raw", "$absent", "$zone", "$key", "$", "NewField"])
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | STRINGS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
COUNTERS = st.none() | st.integers(0, 2**63 - 1)
BOOLEANS = st.none() | st.booleans()
FIELDS: dict[str, st.SearchStrategy[Any]] = (
    dict.fromkeys(TIMES, WRITTEN_TIMES)
    | dict.fromkeys([*TEXTS, "HostName", "DNSName"], st.none() | STRINGS)
    | dict.fromkeys(["RxBytes", "TxBytes"], COUNTERS)
    | dict.fromkeys(["Online", "Active", "InEngine", "ExitNode", "Expired"], BOOLEANS)
    | dict.fromkeys(["Addrs", "CapMap", "Location", "PeerAPIURL"], VALUES)
    | dict.fromkeys(["AllowedIPs", "Tags"], st.none() | st.lists(STRINGS, max_size=3))
    | {"UserID": st.none() | st.integers(-(2**63), 2**63 - 1), "KeyExpiry": WRITTEN_TIMES}
)
TOP_FIELDS: dict[str, st.SearchStrategy[Any]] = (
    dict.fromkeys(["Version", "MagicDNSSuffix"], st.none() | STRINGS)
    | dict.fromkeys(["TUN", "CertDomains", "ClientVersion"], VALUES)
    | {
        "BackendState": st.none() | STRINGS | st.sampled_from(["Running", "Stopped", "NeedsLogin"]),
        "Health": st.none() | st.lists(STRINGS, max_size=3),
        "AuthURL": st.none() | STRINGS,
        "_timestamp": WRITTEN_TIMES.filter(bool)
        | SECONDS
        | st.integers(0, 2**33)
        | st.decimals(0, 2**31, places=6).map(float),
    }
)
WITH_PEERS = [read(payload) for payload in CASES if payload.parent.name.startswith(("version", "times"))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A real document with some of its fields dropped, changed or added."""
    document = copy.deepcopy(draw(st.sampled_from(WITH_PEERS)))
    peers = document["Peer"]
    for key in list(peers)[3:]:
        del peers[key]
    nodes = [node for node in (document.get("Self"), *peers.values()) if node]
    for node in nodes:
        change(
            draw,
            node,
            FIELDS | ({"Addrs": st.none() | st.lists(STRINGS, max_size=3)} if node is nodes[0] else {}),
        )
    change(draw, document, TOP_FIELDS)
    document.setdefault("BackendState", "Running")
    for key in draw(st.sets(st.sampled_from(sorted(peers)))) if peers else ():
        peers[draw(STRINGS.filter(lambda new: new not in peers)) if draw(st.booleans()) else key] = peers.pop(
            key
        )
    return document


def change(draw: st.DrawFn, fields: dict[str, Any], known: dict[str, st.SearchStrategy[Any]]) -> None:
    for name in draw(st.sets(st.sampled_from(sorted(known)), max_size=8)):
        if draw(st.booleans()):
            fields[name] = draw(known[name])
        else:
            fields.pop(name, None)
    for key in draw(st.sets(KEYS, max_size=2)):
        if key not in known and key not in fields:
            fields[key] = draw(VALUES)


@examples(150)
@given(document=mutated())
def test_any_document_comes_back_from_the_batch(document: Any) -> None:
    sent = orjson.loads(orjson.dumps(document))
    assert written(parse(document)) == expected(document)
    assert document == sent


@examples(30)
@given(document=mutated())
def test_any_document_comes_back_from_the_tables(connection: Any, document: Any) -> None:
    assert stored(connection, parse(document)) == expected(document)


def expected(document: Any) -> Any:
    """The document without secrets and without digits behind the microsecond."""
    cleaned = copy.deepcopy(without_secrets(document, canonical(document)))
    peers = cleaned.get("Peer") or {}
    for fields in (cleaned, *peers.values()):
        for key in (*TIMES, "_timestamp"):
            if isinstance(fields.get(key), str):
                fields[key] = cut(fields[key])
    return cleaned


def cut(text: str) -> str:
    """Cut the time behind the microsecond; as Go does, without the zeros that then stand at the end."""
    return re.sub(r"\.(\d{6})\d+", lambda match: f".{match[1]}".rstrip("0").rstrip("."), text)


def written(batch: Batch) -> Any:
    """What `tailscale_document` does, in Python."""
    status, peers = ([dict(zip(part.columns, row, strict=True)) for row in part.rows] for part in batch.rows)
    (row,) = status
    attributes = dict(row["attribute_id"].document)
    zone = attributes.get("$zone", {})
    if isinstance(attributes.get("Self"), dict):
        attributes["Self"] = fields_of(
            attributes["Self"],
            {"Online": row["online"], "Relay": row["relay"] or "", "Addrs": row["addrs"]},
        )
    columns = {
        "BackendState": row["backend_state"] or "",
        "Version": row["version"] or "",
        "Health": row["health"],
        "Peer": dict(peer_of(peer, zone.get("Peer", "Z")) for peer in peers),
    }
    if "_timestamp" in zone:
        columns["_timestamp"] = time_of(batch.time, zone["_timestamp"])
    return fields_of(attributes, columns)


def peer_of(row: dict[str, Any], zone: str) -> tuple[str, Any]:
    attributes = row["attribute_id"].document
    usual = {"LastHandshake": zone, "LastWrite": zone, "LastSeen": "Z"}
    columns = {key: row[column] for key, column in PLAIN.items()}
    columns |= {key: row[column] or "" for key, column in TEXTS.items()}
    columns |= {
        key: time_of(row[column], attributes.get("$zone", {}).get(key, usual[key]))
        for key, column in TIMES.items()
    }
    return attributes.get("$key", attributes.get("PublicKey")), fields_of(attributes, columns)


def fields_of(attributes: Any, columns: dict[str, Any]) -> Any:
    verbatim = {key: value for key, value in attributes.items() if not key.startswith("$")}
    present = {key: value for key, value in columns.items() if key not in attributes.get("$absent", ())}
    return verbatim | present | attributes.get("$raw", {})


def time_of(time: datetime | None, form: str) -> Any:
    if time is None:
        return ZERO
    if form == "unix":
        return time.timestamp()
    digits, zone = re.fullmatch(r"(\d?)(.*)", form).groups()  # type: ignore[union-attr]
    offset = (
        timedelta() if zone in ("", "Z") else datetime.fromisoformat(f"2000-01-01T00:00:00{zone}").utcoffset()
    )
    local = time.replace(tzinfo=None) + offset
    fraction = f"{local.microsecond:06}"
    fraction = fraction[: int(digits)] if digits else fraction.rstrip("0")
    return local.isoformat()[:19] + ("." + fraction if fraction else "") + zone


def stored(connection: Any, batch: Batch) -> Any:
    """Store the batch as it stands, fetch the document, and leave nothing behind."""
    with rolled_back(connection):
        store(connection, batch)
        return json.loads(fetch(connection, "SELECT tailscale_document(%s, %s)::text", HOST_ID, batch.time))


@contextmanager
def rolled_back(connection: Any) -> Iterator[None]:
    fetch(connection, "BEGIN")
    try:
        yield
    finally:
        fetch(connection, "ROLLBACK")


def store(connection: Any, batch: Batch) -> None:
    times = {"first_seen": batch.time, "last_seen": batch.time}
    insert(connection, "hosts", host_id=HOST_ID, identity="round trip", name="h", **times)
    for part in batch.rows:
        for row in part.rows:
            cells = {
                name: id_of(connection, cell, batch) for name, cell in zip(part.columns, row, strict=True)
            }
            key = {"host_id": HOST_ID, "time": batch.time, "received_at": batch.received_at}
            insert(connection, part.table, **key, **cells)


def id_of(connection: Any, cell: Any, batch: Batch) -> Any:
    if isinstance(cell, Attributes):
        return insert(
            connection,
            "attributes",
            "attribute_id",
            digest=cell.digest,
            document=json.dumps(cell.document),
        )
    if isinstance(cell, Entity):
        scope, stable_id = cell.key
        return insert(
            connection,
            "tailscale_nodes",
            "node_id",
            scope=scope,
            stable_id=stable_id,
            first_seen=batch.time,
            changed_at=batch.time,
        )
    return cell


KEYS_OF = {"attributes": ("digest",), "tailscale_nodes": ("scope", "stable_id")}


def insert(connection: Any, table: str, returning: str = "", **row: Any) -> Any:
    overriding = " OVERRIDING SYSTEM VALUE" if table == "hosts" else ""
    statement = f"INSERT INTO {table} ({', '.join(row)}){overriding} VALUES ({', '.join(['%s'] * len(row))})"
    if not returning:
        return fetch(connection, statement, *row.values())
    key = KEYS_OF[table]
    again = (
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {key[0]} = excluded.{key[0]} RETURNING {returning}"
    )
    return fetch(connection, statement + again, *row.values())


def fetch(connection: Any, statement: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchone()[0] if cursor.description else None

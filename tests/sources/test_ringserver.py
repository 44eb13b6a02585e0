"""Logs of ringserver: every row against a count of its own, and every place where a log may be cut."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringstats_ts.errors import EmptyPayload, PayloadError, TruncatedPayload, UnstorablePayload
from ringstats_ts.ingest import ingest
from ringstats_ts.lookups import EventIds, Lookups, Network, Place
from ringstats_ts.model import Context, Log, Payload
from ringstats_ts.sources.ringserver import RINGSERVER
from ringstats_ts.sources.ringserver.streams import read_stream_id

HERE = Path(__file__).parent / "ringserver"
SAMPLES = {path.parent.name: path.read_bytes() for path in sorted(HERE.glob("sample-*/payload.*"))}
TEXTS = {name: body for name, body in SAMPLES.items() if body.startswith(b"START")}
OBJECTS = {name: body for name, body in SAMPLES.items() if body.startswith(b"{")}
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

START = "START CLIENT dc.example.org [192.0.2.7] ({}|{}) @ {} (connected 2026-11-21T22:01:06Z) TX\n"
END = "END CLIENT dc.example.org [192.0.2.7] total TX bytes: {}\n"


def block(*streams, agent="slinktool", protocol="SeedLink", at="2026-11-21T22:01:13Z", total=None):
    lines = [f"{name} {size} {packets}\n" for name, size, packets in streams]
    total = sum(size for _, size, _ in streams) if total is None else total
    return "".join([START.format(protocol, agent, at), *lines, END.format(total)]).encode()


HHZ, HHN = ("FDSN:FR_SURF_00_H_H_Z/MSEED", 2048, 4), ("FDSN:FR_SURF_00_H_H_N/MSEED", 1536, 3)


def as_json_line(*streams, **told):
    entry = {
        "log_time": "2026-11-21T22:01:13Z",
        "log_start_time": "2026-11-21T22:00:00Z",
        "connect_time": "2026-11-21T22:01:06Z",
        "client": {
            "ip": "192.0.2.7",
            "server_port": 18000,
            "hostname": "dc.example.org",
            "user_agent": "slinktool",
        },
        "transfer_protocol": {"name": "SeedLink", "version": "4.0"},
        "transfer_direction": "TX",
        "service": {"name": "ringserver", "version": "4.5.3"},
        "streams": [
            {"stream_id": name, "bytes": size, "packets": packets} for name, size, packets in streams
        ],
        "transfer_bytes": sum(size for _, size, _ in streams),
    }
    return orjson.dumps(entry | told) + b"\n"


def read(body, **known):
    return RINGSERVER.parse(Log(body), Context(NOW, **known))


def tables(batch):
    return {
        part.table: [dict(zip(part.columns, row, strict=True)) for row in part.rows] for part in batch.events
    }


def rows(body, table, **known):
    return tables(read(body, **known)).get(f"ringserver_{table}", [])


def read_or_none(body, **known):
    """As a body that is posted: what is no log of ringserver is refused before it is parsed."""
    log = Log(body, known.pop("first_line", 1))
    try:
        return RINGSERVER.parse(log, Context(NOW, **known)) if RINGSERVER.detect(log) else None
    except PayloadError:
        return None


@pytest.mark.parametrize("name", TEXTS)
def test_text_has_as_many_rows_and_bytes_as_its_lines_say(name):
    body = TEXTS[name].decode()
    streams = [line.split() for line in body.splitlines() if not line.startswith(("START", "END"))]
    found = tables(read(TEXTS[name]))
    transfers, sessions = found["ringserver_transfers"], found["ringserver_sessions"]
    assert [row["stream_id"] for row in transfers] == [stream[0] for stream in streams]
    assert [row["bytes"] for row in transfers] == [int(stream[1]) for stream in streams]
    assert [row["packets"] for row in transfers] == [int(stream[2]) for stream in streams]
    assert [row["total_bytes"] for row in sessions] == [
        int(size) for size in re.findall(r"bytes: (\d+)", body)
    ]
    assert [row["bytes"] for row in sessions] == [row["total_bytes"] for row in sessions]
    assert sum(row["streams"] for row in sessions) == len(transfers)
    assert len({row["transfer_id"] for row in sessions}) == len(sessions) == body.count("START CLIENT")


@pytest.mark.parametrize("name", OBJECTS)
def test_json_has_as_many_rows_and_bytes_as_its_lines_say(name):
    entries = [orjson.loads(line) for line in OBJECTS[name].splitlines()]
    found = tables(read(OBJECTS[name]))
    streams = [stream for entry in entries for stream in entry.get("streams", ())]
    assert sum(row["bytes"] for row in found.get("ringserver_transfers", ())) == sum(
        s["bytes"] for s in streams
    )
    assert len(found.get("ringserver_transfers", ())) == len(streams)
    assert len(found.get("ringserver_sessions", ())) == sum("streams" in entry for entry in entries)
    events = [entry["event"] for entry in entries if "event" in entry]
    assert [row["event"] for row in found.get("ringserver_access", ())] == events
    assert len({row["event_id"] for row in found.get("ringserver_access", ())}) == len(events)


def beginning(name):
    """So much of a sample that cutting it everywhere takes no longer than need be."""
    return b"".join(SAMPLES[name].splitlines(keepends=True)[:50][: 12 if name in OBJECTS else None])


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_log_that_is_cut_anywhere_is_refused_or_a_prefix(name, line_end):
    body = beginning(name).replace(b"\n", line_end)
    whole = tables(read(body))
    ends = {line.strip() for line in body.splitlines() if line.startswith((b"END", b"{"))}
    stored = 0
    for size in range(len(body) + 1):
        batch = read_or_none(body[:size])
        if batch is None:
            assert not stored, size
            continue
        found = tables(batch)
        for table in found:
            assert found[table] == whole[table][: len(found[table])], size
        assert stored <= sum(map(len, found.values())), size
        stored = sum(map(len, found.values()))
        # What is not stored is not lost without a word.
        is_whole = body[:size].strip().rpartition(b"\n")[2] in ends
        assert [bad.cut for bad in batch.bad_lines] == [True] * (not is_whole), size
    assert found == whole


@pytest.mark.parametrize("name", SAMPLES)
def test_a_log_in_two_parts_is_the_same_wherever_it_is_parted(name):
    body = beginning(name)
    whole = tables(read(body))
    parted = 0
    for place in range(len(body)):
        ids = EventIds()
        batch = read_or_none(body[:place], event_ids=ids)
        if batch is None:
            continue
        rest = batch.bad_lines[-1].text if batch.bad_lines else b""
        if not (rest + body[place:]).strip():
            continue
        ids.next_part()
        first, second = tables(batch), tables(read(rest + body[place:], event_ids=ids))
        assert {table: first.get(table, []) + second.get(table, []) for table in whole} == whole, place
        parted += 1
    assert parted > len(body) / 3


def test_each_log_of_a_transfer_gives_it_the_same_id():
    text, json_lines = block(HHZ, HHN), as_json_line(HHN, HHZ)
    ids = {rows(body, "sessions")[0]["transfer_id"] for body in (text, json_lines)}
    assert len(ids) == 1
    others = [
        block(HHZ),
        block(HHZ, HHN, agent="other"),
        block(HHZ, HHN, protocol="DataLink"),
        block(HHZ, HHN, at="2026-11-21T22:01:14Z"),
        text.replace(b"192.0.2.7", b"192.0.2.8"),
        text.replace(b" TX", b" RX"),
        text.replace(b"22:01:06", b"22:01:05"),
        text.replace(b" 3\n", b" 2\n"),
    ]
    assert len(ids | {rows(body, "sessions")[0]["transfer_id"] for body in others}) == 1 + len(others)


def test_no_agent_and_no_protocol_are_the_same_in_text_and_json():
    (text,) = rows(block(HHZ, agent="Client", protocol="Unknown"), "sessions")
    (entry,) = rows(
        as_json_line(HHZ, client={"ip": "192.0.2.7"}, transfer_protocol={"is_tls": True}), "sessions"
    )
    assert text["transfer_id"] == entry["transfer_id"]
    assert (text["agent"], text["protocol"], text["tls"], entry["tls"]) == (None, None, None, True)


def test_a_grown_log_has_the_ids_of_the_shorter_one():
    grown = block(HHZ) + block(HHZ) + block(HHN) + block(HHZ)
    ids = [row["transfer_id"] for row in rows(grown, "sessions")]
    assert len(set(ids)) == 4
    assert [row["transfer_id"] for row in rows(grown[: -len(block(HHZ))], "sessions")] == ids[:3]


def test_temporary_networks_are_extended_by_the_day_of_the_log():
    networks = {
        "XA": [
            Network("XA2019", date(2019, 1, 1), date(2020, 12, 31)),
            Network("XA2026", date(2026, 1, 1)),
        ]
    }
    known = Lookups(networks=networks)
    ids = (
        "XA_A_00_BHZ",
        "FDSN:XA_A__B_H_Z/MSEED",
        "ZZ_A_00_BHZ",
        "FR_A_00_BHZ",
        "XFILES_A_00_BHZ",
        "odd/JSON",
    )

    def extended(at):
        body = block(*((name, 1, 1) for name in ids), at=at)
        return [row["extended_network"] for row in rows(body, "transfers", lookups=known)]

    assert extended("2026-11-21T22:01:13Z") == ["XA2026", "XA2026", None, "FR", "XFILES", None]
    assert extended("2020-12-31 23:59:59") == ["XA2019", "XA2019", None, "FR", "XFILES", None]
    assert extended("2021-01-01T00:00:00Z") == [None, None, None, "FR", "XFILES", None]


def test_places_are_of_the_address_and_unknown_where_they_are_not_known():
    places = {"192.0.2.7": Place("FR", "Grenoble", 45.16, 5.72, "u0h0fpnzj9ft")}
    known = Lookups(find_place=lambda address: places.get(address, Place()))
    two = block(HHZ) + block(HHZ).replace(b"192.0.2.7", b"2001:db8::7")
    for table in ("transfers", "sessions"):
        here, nowhere = (
            tuple(row[name] for name in ("country", "city", "latitude", "longitude", "geohash"))
            for row in rows(two, table, lookups=known)
        )
        assert here == ("FR", "Grenoble", 45.16, 5.72, "u0h0fpnzj9ft")
        assert nowhere == (None,) * 5


def test_clients_are_pseudonyms_unless_the_operator_wants_them_raw():
    secret = [b"192.0.2.7", b"dc.example.org", b"ada"]
    body = as_json_line(HHZ, auth={"method": "jwt", "username": "ada"})
    body += orjson.dumps(
        {
            "log_time": "2026-11-21T22:01:13Z",
            "client": {"ip": "192.0.2.7", "hostname": "dc.example.org"},
            "auth": {"method": "jwt", "username": "ada"},
            "event": "connect",
        }
    )
    for table in ("transfers", "sessions", "access"):
        dumped = orjson.dumps(rows(body, table, lookups=Lookups(keys=(b"k",))))
        assert not any(word in dumped for word in secret), table
    (raw,) = rows(body, "access", lookups=Lookups(raw=True))
    assert (raw["client"], raw["client_name"], raw["username"]) == ("192.0.2.7", "dc.example.org", "ada")
    (hashed,) = rows(body, "sessions", lookups=Lookups(keys=(b"k",)))
    assert hashed["client"] == Lookups(keys=(b"k",)).client("192.0.2.7")


def test_an_address_in_a_field_that_is_not_known_is_stored_as_a_client_is():
    behind = {"forwarded": ["192.0.2.7", {"192.0.2.7": "for=[2001:db8::7]:443, version 4.5"}], "score": 3}
    client = {"ip": "192.0.2.7", "via": "192.0.2.7"}
    body = as_json_line(HHZ, client=client, proxy=behind)
    body += orjson.dumps(
        {"log_time": "2026-11-21T22:01:13Z", "client": client, "event": "connect", "proxy": behind}
    )
    hashed, raw = Lookups(keys=(b"k",)), Lookups(raw=True)
    for table in ("sessions", "access"):
        (row,) = rows(body, table, lookups=hashed)
        four, six = hashed.client("192.0.2.7"), hashed.client("2001:db8::7")
        assert row["attribute_id"].document == {
            "client": {"via": four},
            "proxy": {"forwarded": [four, {four: f"for=[{six}]:443, version 4.5"}], "score": 3},
        }
        (row,) = rows(body, table, lookups=raw)
        assert row["attribute_id"].document == {"client": {"via": "192.0.2.7"}, "proxy": behind}


@pytest.mark.parametrize(
    ("stream_id", "parts"),
    [
        ("XX_TEST__BHZ", ("XX", "TEST", "", "BHZ", None, None)),
        ("FR_SURF_00_HHZ/MSEED", ("FR", "SURF", "00", "HHZ", None, "MSEED")),
        ("FDSN:FR_SURF_00_H_H_Z/MSEED3/RAW", ("FR", "SURF", "00", "HHZ", "RAW", "MSEED3")),
        ("FDSN:ZZ_LONGSTA__L_SOH_X/MSEED3", ("ZZ", "LONGSTA", "", "L_SOH_X", None, "MSEED3")),
        ("FDSN:FR_SURF_00_HHZ/MSEED", (None, None, None, None, None, "MSEED")),
        ("FR_SURF_00_H_H_Z/MSEED", (None, None, None, None, None, "MSEED")),
        ("a chat/JSON/x/y", (None, None, None, None, "x/y", "JSON")),
        ("", (None,) * 6),
        ("_" * 60, (None,) * 6),
    ],
)
def test_stream_ids_are_taken_apart_or_left_whole(stream_id, parts):
    assert tuple(read_stream_id(stream_id)) == parts


def test_bad_lines_have_their_numbers_in_the_file():
    body = block(HHZ) + b"junk\n" + block(HHN, HHZ).replace(b"1536 3", b"1536")
    batch = RINGSERVER.parse(Log(body, first_line=101), Context(NOW))
    assert [(bad.number, bad.text.count(b"\n"), bad.cut) for bad in batch.bad_lines] == [
        (104, 0, False),
        (105, 3, False),
    ]


def test_mismatches_are_told_with_the_first_line():
    body = block(HHZ) + block(HHN, total=1) + as_json_line(HHN, transfer_bytes=0)
    batch = read(body, host="ring1")
    assert batch.warnings == (
        "The total is not the sum of the streams in 2 transfers, the first in line 4."
        " The view `ringserver_mismatches` shows them.",
    )
    assert [row["total_bytes"] - row["bytes"] for row in tables(batch)["ringserver_sessions"]] == [
        0,
        -1535,
        -1536,
    ]


def test_times_that_cannot_be_true_are_bad_lines():
    window = {"earliest": datetime(1990, 1, 1, tzinfo=UTC), "latest": NOW + timedelta(hours=1)}
    body = block(HHZ, at="1989-12-31 23:59:59") + block(HHN) + block(HHZ, at="2026-11-22T13:00:01Z")
    batch = read(body, **window)
    assert len(tables(batch)["ringserver_sessions"]) == 1
    assert [bad.reason for bad in batch.bad_lines] == [
        "Its time is from before 1990: 1989-12-31T23:59:59Z.",
        "Its time lies in the future: 2026-11-22T13:00:01Z.",
    ]
    assert batch.time == datetime(2026, 11, 21, 22, 1, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "error", "line"),
    [
        (block(HHZ)[:-8], TruncatedPayload, 1),
        (START.format("SeedLink", "x", "2026-11-21T22:01:13Z").encode(), TruncatedPayload, 1),
        (b"\n" + block(HHZ)[20:], UnstorablePayload, 2),
        (b" \n\r\n", EmptyPayload, None),
        (b"", EmptyPayload, None),
    ],
)
def test_a_log_without_anything_to_store_is_refused(body, error, line):
    with pytest.raises(error) as refused:
        read(body)
    assert refused.value.line == line


@pytest.mark.parametrize(
    "body",
    [
        block(HHZ),
        block(HHZ)[100:],
        b"%s %d %d\n" % (HHZ[0].encode(), 1, 2) * 10_000 + END.format(10_000).encode(),
        b"\n" * 5 + block(HHZ),
        b"# a note\n" + block(HHZ),
        as_json_line(HHZ),
        as_json_line(HHZ)[17:] + as_json_line(HHN),
        b"\n\n" + as_json_line(HHZ),
    ],
)
def test_detects_a_log_whose_head_is_cut_off(body):
    assert RINGSERVER.detect(Log(body))


@pytest.mark.parametrize(
    "document",
    [
        Log(b""),
        Log(b"\xff\x00" * 100),
        Log(b"START CLIENT\nEND CLIENT\n"),
        Log(b'192.0.2.7 - - [21/Nov/2026:22:01:13 +0000] "GET / HTTP/1.1" 200 5\n' * 30 + block(HHZ)),
        Log(b'{"log_time":"2026-11-21T22:01:13Z","client":{}}\n'),
        Log(b'{"BackendState":"Running"}\n' + as_json_line(HHZ)),
        Log(b'[{"log_time":1,"client":2,"event":3}]'),
        Log(as_json_line(HHZ)[:-5]),
        block(HHZ).decode(),
        None,
    ],
)
def test_does_not_take_anything_else_for_its_own(document):
    assert not RINGSERVER.detect(document)


def test_one_line_cannot_take_what_surrounds_it_along():
    deep = b'{"log_time":"2026-11-21T22:01:13Z","client":{"ip":"::1"},"event":"connect","x":%s"tskey-a"%s}\n'
    long = b"x" * 70_000 + b"\n"
    bad = [
        long,
        b"START CLIENT " + long,
        b"START CLIENT a [1] (SeedLink|" + b") @ 2" * 12_000 + b"\n",
        b"END CLIENT " + long,
        b"{" + long,
        deep % (b"[" * 900, b"]" * 900),
        deep % (b"[" * 5000, b"]" * 5000),
        b"\x00\n",
        b"{}\n",
    ]
    for line in bad:
        body = block(HHZ) + line + block(HHN)
        batch = read(body)
        assert [row["bytes"] for row in tables(batch)["ringserver_transfers"]] == [2048, 1536], line[:40]
        assert [bad_line.number for bad_line in batch.bad_lines] == [4], line[:40]
    fine = tables(read(deep % (b"[" * 200, b"]" * 200)))["ringserver_access"][0]["attribute_id"]
    assert b"tskey-<redacted>" in orjson.dumps(fine.document)


LINES = [
    # One packet a line, so that the packets of a session are its lines.
    *block(("A_B_00_BHZ", 2048, 1), ("A_B_00_BHN", 1536, 1)).splitlines(keepends=True),
    as_json_line(HHZ),
    b"\n",
    b"junk\n",
    b"\xe9\xff\x00\n",
    b"START CLIENT \n",
    b"END CLIENT \n",
    b"{\n",
]


@given(st.lists(st.sampled_from(LINES), max_size=20), st.integers(0, 40), st.binary(max_size=5))
def test_every_line_is_stored_or_a_bad_line_or_blank(lines, cut, junk):
    body = b"".join(lines)
    body = body[: max(0, len(body) - cut)] + junk
    try:
        batch = read(body)
    except PayloadError:
        return
    kept = sum(bad.text.count(b"\n") + (not bad.text.endswith(b"\n")) for bad in batch.bad_lines)
    sessions = tables(batch).get("ringserver_sessions", [])
    of_text = [row for row in sessions if row["service"] is None]
    stored = sum(2 + row["packets"] for row in of_text) + len(sessions) - len(of_text)
    blank = sum(not line.strip() for line in body.split(b"\n"))
    # A blank line inside what is a bad line is kept with it.
    assert stored + kept <= body.count(b"\n") + 1 <= stored + kept + blank


@given(st.binary(max_size=300))
def test_junk_is_refused_and_nothing_else(junk):
    assert read_or_none(junk) is None
    batch = read_or_none(block(HHZ) + junk)
    assert batch is not None
    assert tables(batch)["ringserver_transfers"][0]["bytes"] == 2048


def test_what_is_stored_sums_up_in_the_aggregates_and_is_stored_once(database, config):
    def take(body):
        return ingest(Payload(body, datetime.now(UTC), host="ring1", origin="x"), database, config)[0]

    for body in SAMPLES.values():
        whole = take(body)
        again = take(body + b"\n")
        assert (whole.duplicate, again.duplicate, again.rows) == (False, True, 0)
    sizes = [int(size) for body in TEXTS.values() for size in re.findall(rb"total TX bytes: (\d+)", body)]
    sizes += [
        orjson.loads(line).get("transfer_bytes", 0) for b in OBJECTS.values() for line in b.splitlines()
    ]
    for relation in ("transfers", "transfers_hourly", "transfers_daily", "sessions"):
        ((stored,),) = database.run(f"SELECT sum(bytes)::bigint FROM ringserver_{relation}")
        assert stored == sum(sizes), relation
    assert database.run("SELECT count(*)::integer FROM ringserver_mismatches") == [(0,)]
    take(block(HHZ, total=2050))
    (mismatch,) = database.run(
        "SELECT host, bytes, total_bytes, difference::integer FROM ringserver_mismatches"
    )
    assert mismatch == ("ring1", 2048, 2050, 2)


def test_more_bytes_than_a_column_holds_do_not_stop_the_aggregates(database, config):
    most = block(("A_B_00_BHZ/MSEED", 2**63 - 1, 2**63 - 1))
    ingest(Payload(most + most, datetime.now(UTC), host="ring1", origin="x"), database, config)
    for level in ("hourly", "daily"):
        ((size, packets),) = database.run(f"SELECT bytes, packets FROM ringserver_transfers_{level}")
        assert (size, packets) == (2**63 - 1, 2**63 - 1)

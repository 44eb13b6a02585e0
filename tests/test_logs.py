"""Logs: each event once, whatever brings it; what cannot be read is kept with the number of its line."""

import gzip
import json
import os
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.cli import longlogs
from ringstats_ts.cli.ahead import Group
from ringstats_ts.cli.files import parse_files
from ringstats_ts.cli.ingest import Summary, _store
from ringstats_ts.cli.longlogs import is_long_log, parts
from ringstats_ts.errors import (
    BadParameter,
    ConflictingPayload,
    LostClientKey,
    MalformedPayload,
    NoClientKey,
    PayloadTooLarge,
    TimestampOutOfRange,
    UnknownSource,
    UnstorablePayload,
)
from ringstats_ts.ingest import ingest, ingest_parsed
from ringstats_ts.model import Payload
from ringstats_ts.rejects import retry
from ringstats_ts.storage.database import Database, Transaction
from ringstats_ts.storage.failures import ConnectionLost
from ringstats_ts.storage.rejects import find_reject, list_rejects
from ringstats_ts.storage.window import FILE_DAYS

NOW = datetime.now(UTC).replace(microsecond=0)
LINE = '203.0.113.{} - - [{:%d/%b/%Y:%H:%M:%S} +0000] "GET /{} HTTP/1.1" 200 {} "-" "curl/8"\n'


def line(number, *, client=7, at=NOW - timedelta(hours=2), size=100):
    return LINE.format(client, at + timedelta(seconds=number // 3), f"page-{number}", size + number).encode()


LOG = b"".join(map(line, range(60)))


def take(database, config, body, **told):
    return ingest(Payload(body, NOW, **({"host": "web-1"} | told)), database, config)[0]


def stored(database):
    return database.run("SELECT count(*)::integer, coalesce(sum(bytes), 0)::integer FROM http_requests")[0]


def counted(body):
    sizes = re.findall(rb'" 200 (\d+) "', body)
    return len(sizes), sum(map(int, sizes))


def test_a_log_is_stored_once_and_a_grown_one_by_what_is_new(database, config):
    head = b"".join(LOG.splitlines(keepends=True)[:40])
    first = take(database, config, head)
    assert (first.rows, first.duplicate) == (40, False)
    again = take(database, config, head)
    assert (again.rows, again.duplicate, again.id) == (40, True, first.id)
    grown = take(database, config, LOG)
    assert (grown.rows, grown.duplicate) == (20, False)
    assert stored(database) == counted(LOG)


def test_it_is_known_again_when_its_receipt_was_pruned(database, config):
    take(database, config, LOG)
    database.run("DELETE FROM receipts")
    again = take(database, config, LOG)
    assert (again.rows, again.duplicate) == (0, True)
    assert stored(database) == counted(LOG)


def test_equal_lines_of_one_log_are_events_of_their_own(database, config):
    twice = line(1) + line(2) + line(1)
    assert take(database, config, twice).rows == 3
    assert take(database, config, twice + line(1)).rows == 1
    assert stored(database) == counted(twice + line(1))


def test_logs_that_overlap_are_put_together(database, config):
    lines = LOG.splitlines(keepends=True)
    for start in (30, 0, 15, 45):
        take(database, config, b"".join(lines[start : start + 20]))
    assert stored(database) == counted(LOG)


def test_each_host_has_its_own_events(database, config):
    assert take(database, config, LOG).rows == take(database, config, LOG, host="web-2").rows == 60


def test_a_log_of_no_host_is_that_of_the_machine_it_came_from(database, config):
    receipt = take(database, config, LOG, host=None, sender="access.log", origin="edge-3")
    assert receipt.host == "edge-3"
    assert receipt.warnings[0].startswith("The log does not name its host; it is known as that of edge-3.")
    assert take(database, config, LOG, host=None, sender="10.0.0.1", origin="edge-3").duplicate


def test_bad_lines_are_kept_with_their_numbers_and_the_others_are_stored(database, config):
    junk = b"\x16\x03\x01 tskey-auth-abcdef\n"
    body = line(1) + b"not a request\n\n" + line(2) + junk + line(3) + line(4)[:-4]
    receipt = take(database, config, body)
    assert (receipt.rows, receipt.bad_lines) == (3, 3)
    assert receipt.warnings == (
        "3 lines could not be stored, the first of them line 2: It is no request in Common or Combined Log "
        "Format. `tsstats rejects list` shows them.",
    )
    kept = [find_reject(database, reject.reject_id) for reject in list_rejects(database)]
    assert [(one.reason, one.line, one.payload.body) for one in kept] == [
        ("bad-line", 2, b"not a request\n"),
        ("bad-line", 5, b"\x16\x03\x01 tskey-<redacted>\n"),
        ("bad-line", 7, line(4)[:-4]),
    ]
    assert {(one.payload.source, one.payload.host, one.size_bytes > 0) for one in kept} == {
        ("accesslog", "web-1", True)
    }
    # The log grows: the line that was cut is whole now, the others are known.
    assert take(database, config, body[: -len(line(4)) + 4] + line(4) + line(5)).rows == 2
    assert len(list_rejects(database)) == 3


def test_a_bad_line_can_be_retried(database, config):
    take(database, config, line(1) + b"not a request\n")
    (kept,) = list_rejects(database)
    with pytest.raises(MalformedPayload, match="it begins with letters"):
        retry(find_reject(database, kept.reject_id), database, config, now=NOW)
    assert take(database, config, line(1) + b"not a request\n" + line(2)).rows == 1
    assert [(reject.reason, reject.retries) for reject in list_rejects(database)] == [("bad-line", 1)]
    database.run("UPDATE rejects SET payload = %(line)s", {"line": line(9)})
    (receipt,) = retry(find_reject(database, kept.reject_id), database, config, now=NOW)
    assert (receipt.rows, receipt.host) == (1, "web-1")
    assert list_rejects(database) == []


def test_a_line_of_the_future_is_stored_when_its_time_has_come(database, config):
    body = line(1) + line(2, at=NOW + timedelta(hours=1))
    assert (take(database, config, body).rows, take(database, config, body).duplicate) == (1, True)
    (kept,) = list_rejects(database)
    later = ingest(Payload(body, NOW + timedelta(hours=2), host="web-1"), database, config)[0]
    assert (later.rows, later.duplicate, later.bad_lines) == (1, False, 0)
    (receipt,) = retry(find_reject(database, kept.reject_id), database, config, now=NOW + timedelta(hours=2))
    assert (receipt.rows, list_rejects(database)) == (0, [])
    assert stored(database)[0] == 2


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("again", [False, True])
def test_equal_lines_of_the_future_are_each_stored_once(database, config, order, again):
    future = line(2, at=NOW + timedelta(hours=1))
    body, later = line(1) + future * 3 + line(3), NOW + timedelta(hours=2)
    take(database, config, body)
    refused = list_rejects(database)[::order]
    for reject in refused[:2]:
        assert not retry(find_reject(database, reject.reject_id), database, config, now=later)[0].duplicate
    if again:
        ingest(Payload(body, later, host="web-1"), database, config)
    (receipt,) = retry(find_reject(database, refused[2].reject_id), database, config, now=later)
    assert (receipt.duplicate, list_rejects(database)) == (again, [])
    assert stored(database) == counted(body)


def test_the_same_bad_line_of_two_machines_is_kept_for_each(database, config):
    for origin in ("edge-1", "edge-2", "edge-1"):
        take(database, config, b"#Software: x\n" + line(1) + line(len(origin)), host=None, origin=origin)
    assert [reject.payload.origin for reject in list_rejects(database)] == ["edge-1", "edge-2"]


def test_a_post_of_more_than_is_stored_in_time_is_refused(database, config):
    small = replace(config, max_values=250)
    with pytest.raises(PayloadTooLarge, match="more than 50 entries"):
        take(database, small, LOG)
    assert take(database, small, LOG, backfill=True).rows == 60


def test_a_post_of_one_line_with_more_than_is_stored_in_time_is_refused(database, config):
    streams = [{"stream_id": f"FDSN:XX_S{n}__B_H_Z/MSEED", "bytes": 1, "packets": 1} for n in range(49)]
    entry = {
        "log_time": f"{NOW - timedelta(hours=1):%FT%TZ}",
        "log_start_time": f"{NOW - timedelta(hours=2):%FT%TZ}",
        "client": {"ip": "203.0.113.9"},
        "transfer_direction": "TX",
        "streams": streams,
        "transfer_bytes": 49,
    }
    small = replace(config, max_values=250)
    with pytest.raises(PayloadTooLarge, match="more than 50 entries"):
        take(database, small, json.dumps(entry).encode())
    entry |= {"streams": streams[1:], "transfer_bytes": 48}
    assert take(database, small, json.dumps(entry).encode()).rows == 49


def test_each_log_is_judged_by_the_retention_of_its_own_tables(database, config):
    log = b"".join(BLOCK.replace(b"{0}", b"2026-11-21T00:00:0%dZ" % number) for number in range(2))
    database.run("SELECT add_retention_policy('ringserver_access', INTERVAL '1 hour')")
    try:
        access = b'{"log_time":"%s","client":{"ip":"192.0.2.1"},"event":"connect"}\n'
        now = (NOW - timedelta(minutes=5)).isoformat().replace("+00:00", "Z").encode()
        assert take(database, config, access % now).rows == 1
        assert take(database, config, log).rows == 6
        with pytest.raises(TimestampOutOfRange):
            take(database, config, access % b"2026-11-21T00:00:00Z")
    finally:
        database.run("SELECT remove_retention_policy('ringserver_access')")


@pytest.fixture
def kept_for_a_day(database):
    database.run("SELECT add_retention_policy('http_requests', INTERVAL '1 day')")
    yield
    database.run("SELECT remove_retention_policy('http_requests', if_exists => true)")


@pytest.mark.usefixtures("kept_for_a_day")
def test_what_is_older_than_is_kept_is_left_out_and_stored_when_it_is_kept_longer(database, config):
    old = [line(number, at=NOW - timedelta(days=40)) for number in range(3)]
    body = b"".join([*old[:2], LOG, old[2]])
    receipt = take(database, config, body)
    assert (receipt.rows, receipt.bad_lines) == (60, 0)
    assert receipt.warnings[0].startswith(
        "Left out 3 rows, older than the 1 day that are kept. Keep rows longer"
    )
    assert stored(database) == counted(LOG)
    assert database.run(
        "SELECT count(*)::integer FROM late_windows WHERE since < now() - INTERVAL '2 days'"
    ) == [(0,)]
    assert take(database, config, body).duplicate
    database.run("SELECT remove_retention_policy('http_requests')")
    database.memory.horizons.clear()
    again = take(database, config, body)
    assert (again.rows, again.duplicate, again.warnings) == (3, False, ())
    assert stored(database) == counted(body)


def test_a_log_that_reaches_from_old_to_now_leaves_its_whole_window(database, config):
    times = [NOW - timedelta(days=5), NOW - timedelta(days=3), NOW - timedelta(minutes=1)]
    take(database, config, b"".join(line(0, at=at) for at in times))
    assert database.run("SELECT source, since, until FROM late_windows") == [
        ("accesslog", times[0], times[-1])
    ]
    take(database, config, b"".join(line(1, at=at) for at in times[2:]), host="other")
    assert database.run("SELECT count(*) FROM late_windows") == [(1,)]


@pytest.mark.usefixtures("kept_for_a_day")
def test_a_log_that_is_older_than_is_kept_is_refused_but_not_a_part_of_one(
    database, config, tmp_path, monkeypatch
):
    old = b"".join(line(number, at=NOW - timedelta(days=40)) for number in range(30))
    with pytest.raises(TimestampOutOfRange, match="All of the log is older than the 1 day that are kept"):
        take(database, config, old)
    found = store_parts(old + LOG, database, config, tmp_path, monkeypatch)
    assert sum(receipt.rows for receipt in found) == 60
    assert found[0].warnings[0].startswith("Left out ")
    assert stored(database) == counted(LOG)


def test_a_log_may_be_of_more_days_than_samples(database, config):
    first = datetime(1990, 1, 2, tzinfo=UTC)
    days = [*range(FILE_DAYS + 9), *range(FILE_DAYS + 9, (NOW - first).days, 1000)]
    body = b"".join(line(day % 3, at=first + timedelta(days=day)) for day in days)
    assert take(database, config, body).rows == len(days)
    assert stored(database) == counted(body)


def test_bad_lines_that_found_no_room_are_kept_when_there_is_some(database, config):
    full = replace(config, rejects_keep_count=1)
    take(database, full, line(1) + b"one\ntwo\n")
    body = line(2) + b"three\n" + line(3)
    (warning,) = take(database, full, body).warnings
    assert "There are too many rejects to keep them: `tsstats rejects drop` makes room" in warning
    assert [reject.line for reject in list_rejects(database)] == [2, 3]
    again = take(database, config, body)
    assert (again.rows, again.duplicate) == (0, True)
    assert again.warnings[0].endswith("`tsstats rejects list` shows them.")
    assert [reject.line for reject in list_rejects(database)] == [2, 3, 2]
    assert take(database, config, body).id == again.id


@pytest.mark.parametrize("lost", ["bad lines", "old rows"])
def test_a_key_does_not_keep_away_what_found_no_place_before(database, config, lost, request):
    body = line(1, at=NOW - timedelta(days=40)) + b"three\n" + LOG
    if lost == "old rows":
        request.getfixturevalue("kept_for_a_day")
        take(database, config, body, key="K")
        database.run("SELECT remove_retention_policy('http_requests')")
        database.memory.horizons.clear()
    else:
        full = replace(config, rejects_keep_count=1)
        take(database, full, line(1) + b"one\ntwo\n")
        take(database, full, body, key="K")
        database.run("DELETE FROM rejects")
        database.run("UPDATE rejects_kept SET rejects = 0")
    again = take(database, config, body, key="K")
    assert again.duplicate == (lost == "bad lines")
    assert again.warnings[-1].endswith("`tsstats rejects list` shows them.")
    assert [reject.line for reject in list_rejects(database)] == [2]
    assert take(database, config, body, key="K").id == again.id


def test_a_log_that_left_out_as_many_rows_of_another_table_is_another_one(database, config):
    access = b'{"log_time":"%s","client":{"ip":"192.0.2.1"},"event":"connect"}\n'
    moments = [(NOW - timedelta(days=days)).isoformat().replace("+00:00", "Z").encode() for days in (0, 9)]
    body = b"".join(access % moment + BLOCK.replace(b"{0}", moment) for moment in moments)
    body += (access % moments[1]) * 2
    try:
        for kept, rows in (("access",), 3 + 1 + 3), (("transfers", "sessions"), 3):
            for table in kept:
                database.run(f"SELECT add_retention_policy('ringserver_{table}', INTERVAL '36 hours')")
            database.memory.horizons.clear()
            receipt = take(database, config, body)
            assert (receipt.rows, receipt.left_out, receipt.duplicate) == (rows, 3, False)
            assert "Left out 3 rows, older than the 36 hours that are kept" in receipt.warnings[-1]
            for table in kept:
                database.run(f"SELECT remove_retention_policy('ringserver_{table}')")
    finally:
        for table in ("access", "transfers", "sessions"):
            database.run(f"SELECT remove_retention_policy('ringserver_{table}', if_exists => true)")
    assert database.run("SELECT count(*)::integer FROM ringserver_access") == [(4,)]


def test_what_is_told_is_the_shortest_of_what_was_too_short(database, config):
    old = (NOW - timedelta(days=9)).isoformat().replace("+00:00", "Z").encode()
    new = (NOW - timedelta(hours=1)).isoformat().replace("+00:00", "Z").encode()
    try:
        for table, days in (("transfers", 3), ("sessions", 5), ("access", 1)):
            database.run(f"SELECT add_retention_policy('ringserver_{table}', {days} * INTERVAL '1 day')")
        database.memory.horizons.clear()
        receipt = take(database, config, BLOCK.replace(b"{0}", old) + BLOCK.replace(b"{0}", new))
        assert "older than the 3 days that are kept" in receipt.warnings[0]
    finally:
        for table in ("access", "transfers", "sessions"):
            database.run(f"SELECT remove_retention_policy('ringserver_{table}', if_exists => true)")


def test_an_answer_that_is_lost_with_full_rejects_is_found_again(database, config, monkeypatch):
    full = replace(config, rejects_keep_count=1)
    take(database, full, line(1) + b"one\ntwo\n")
    committed = Transaction.commit

    def lose_the_answer(transaction):
        committed(transaction)
        monkeypatch.undo()
        raise ConnectionLost

    monkeypatch.setattr(Transaction, "commit", lose_the_answer)
    receipt = take(database, full, line(2) + b"three\n" + line(3))
    assert (receipt.rows, receipt.duplicate) == (2, False)
    assert database.run("SELECT count(*)::integer FROM receipts") == [(2,)]


def test_a_log_that_was_emptied_while_its_writer_went_on_is_stored(database, config):
    body = b"\0" * 5000 + LOG
    assert take(database, config, body).rows == 60
    assert take(database, config, LOG).duplicate


def test_without_a_key_a_log_is_not_taken_until_there_is_one(database, config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NoClientKey, match="cannot be kept in"):
        take(database, replace(config, data_dir=tmp_path / "file"), LOG)
    assert stored(database) == (0, 0)
    assert take(database, replace(config, data_dir=tmp_path), LOG).rows == 60


@pytest.mark.parametrize(
    "around", ["[{0},{0}]", '{{"note": 1}}\n{0}', "{1}"], ids=["array", "behind another", "pretty"]
)
def test_an_entry_out_of_its_log_is_not_taken_for_any_json(database, config, around):
    entry = {"log_time": "2026-11-21T00:00:00Z", "client": {"ip": "203.0.113.9"}, "event": "connect"}
    body = around.format(json.dumps(entry), json.dumps(entry, indent=1)).encode()
    with pytest.raises(UnstorablePayload, match="An entry of a ringserver log stands by itself"):
        take(database, config, body)
    assert database.run("SELECT FROM documents") == []


def test_two_agents_of_a_host_lose_nothing_to_each_other(database, config):
    def post(agent, value):
        pairs = {"0": ["pattoo_key", "k"], "1": ["pattoo_value", value], "2": ["pattoo_data_type", 99]}
        pairs |= {"3": ["pattoo_timestamp", int(NOW.timestamp() * 1000)], "4": ["note", agent]}
        text = {"5": ["pattoo_key", "s"], "6": ["pattoo_value", agent], "7": ["pattoo_data_type", 2]}
        return json.dumps(
            {
                "pattoo_agent_timestamp": int(NOW.timestamp() * 1000),
                "pattoo_agent_id": agent,
                "pattoo_agent_polling_interval": 300000,
                "pattoo_datapoints": {
                    "key_value_pairs": pairs | text,
                    "datapoint_pairs": [[0, 1, 2, 3, 4], [5, 6, 7, 3]],
                },
            }
        ).encode()

    assert [take(database, config, post(agent, 1)).rows for agent in ("os", "snmp")] == [2, 2]
    assert database.run("SELECT agent FROM documents ORDER BY 1") == [("os",), ("snmp",)]
    with pytest.raises(ConflictingPayload, match="Other values are stored"):
        take(database, config, post("os", 2))
    assert database.run("SELECT sum(value)::integer FROM samples") == [(2,)]
    assert take(database, config, post("os", 1)).duplicate


def test_a_log_of_too_many_bad_lines_is_refused_whole(database, config):
    with pytest.raises(UnstorablePayload, match="10,001 lines could not be stored, the first of them line 2"):
        take(database, config, line(1) + b"junk\n" * 10_001)
    assert stored(database) == (0, 0)
    assert list_rejects(database) == []


def test_events_are_of_any_age_but_of_this_time(database, config):
    old = line(1, at=datetime(1995, 7, 1, 0, 0, 1, tzinfo=UTC))
    future, older = line(2, at=NOW + timedelta(days=1)), line(3, at=datetime(1989, 12, 31, tzinfo=UTC))
    receipt = take(database, config, old + future + older)
    assert (receipt.rows, receipt.bad_lines, receipt.time.year) == (1, 2, 1995)


def test_events_are_not_replaced(database, config):
    with pytest.raises(BadParameter, match="Events are not replaced"):
        take(database, config, LOG, replace=True)


def test_clients_are_hashed_unless_asked_otherwise(database, config):
    take(database, config, line(1))
    take(database, replace(config, clients="raw"), line(2))
    clients = [client for (client,) in database.run("SELECT client FROM http_requests ORDER BY bytes")]
    assert re.fullmatch("[0-9a-f]{16}", clients[0])
    assert clients[1] == "203.0.113.7"


def test_a_lost_key_is_noticed_before_it_counts_logs_twice(database_uri, database, config):
    keyed = replace(config, client_key="the first key of all")
    take(database, keyed, LOG)
    other = replace(config, client_key="another key than that")
    with Database(database_uri) as session, pytest.raises(LostClientKey):
        take(session, other, LOG)
    rotated = replace(config, client_key="another key than that\nthe first key of all")
    with Database(database_uri) as session:
        assert take(session, rotated, LOG).duplicate
        assert take(session, rotated, LOG + line(99)).rows == 1
    assert stored(database) == counted(LOG + line(99))
    assert database.run("SELECT count(DISTINCT client)::integer FROM http_requests") == [(2,)]


def test_without_the_check_a_lost_key_counts_logs_twice(database, config, monkeypatch):
    monkeypatch.setattr("ringstats_ts.ingest.check_client_key", lambda database, fingerprint: None)
    take(database, replace(config, client_key="the first key of all"), LOG)
    take(database, replace(config, client_key="another key than that"), LOG + line(99))
    assert stored(database)[0] == 121


@pytest.mark.parametrize("zipped", [False, True])
def test_a_long_log_is_stored_in_parts(database, config, tmp_path, monkeypatch, zipped):
    monkeypatch.setattr(longlogs, "PART_BYTES", 1000)
    body = LOG + b"junk\n" + line(60) + line(60)
    path = tmp_path / "access.log"
    path.write_bytes(gzip.compress(body) if zipped else body)
    assert is_long_log(str(path))
    outcomes: Counter = Counter()
    template = Payload(b"", NOW, host="web-1", backfill=True)
    for _ in range(2):
        for part in parts(str(path), template, config):
            ((receipt,),) = ingest_parsed([part], database, config)
            outcomes[receipt.duplicate] += receipt.rows
            assert not part.payload.body
    assert outcomes == {False: 62, True: 62}
    assert stored(database) == counted(body)
    assert [reject.line for reject in list_rejects(database)] == [61]


def store_parts(body, database, config, tmp_path, monkeypatch, size=1000):
    """Store the log as a file in parts of that size; the receipts."""
    monkeypatch.setattr(longlogs, "PART_BYTES", size)
    monkeypatch.setattr(longlogs, "HEAD_BYTES", size)
    path = tmp_path / "long.log"
    path.write_bytes(body)
    assert is_long_log(str(path))
    template = Payload(b"", NOW, host="web-1", backfill=True)
    return [
        receipt
        for part in parts(str(path), template, config)
        for receipt in ingest_parsed([part], database, config)[0]
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("size", [999, 1000])
def test_a_long_log_in_another_encoding_is_stored_whole(
    database, config, tmp_path, monkeypatch, encoding, size
):
    text = LOG.replace(b"page-7", "Grüße-\U0001f600".encode())
    store_parts(text.decode().encode(encoding), database, config, tmp_path, monkeypatch, size)
    assert stored(database) == counted(LOG)
    assert database.run("SELECT count(*)::integer FROM http_requests WHERE path = '/Grüße-\U0001f600'") == [
        (1,)
    ]
    assert list_rejects(database) == []


def test_a_long_log_that_is_no_longer_utf16_is_refused_there(database, config, tmp_path, monkeypatch):
    body = LOG.decode().encode("utf-16-le") + b"\0"
    with pytest.raises(MalformedPayload, match="is not UTF-16"):
        store_parts(body, database, config, tmp_path, monkeypatch)
    assert stored(database)[0] > 40


def test_parts_of_bad_or_blank_lines_alone_are_passed_over(database, config, tmp_path, monkeypatch):
    junk, blank = b"PHP Warning\n" * 300, b"\n" * 3000
    lines = LOG.splitlines(keepends=True)
    body = b"".join([b"\0" * 3000, *lines[:20], junk, *lines[20:], blank, line(99), junk])
    found = store_parts(body, database, config, tmp_path, monkeypatch)
    assert stored(database) == counted(LOG + line(99))
    assert sum(receipt.bad_lines for receipt in found) == len(list_rejects(database)) == 600
    ((last_seen,),) = database.run("SELECT last_seen FROM hosts WHERE name = 'web-1'")
    assert last_seen == NOW - timedelta(hours=2) + timedelta(seconds=33)
    assert all(receipt.duplicate for receipt in store_parts(body, database, config, tmp_path, monkeypatch))


def test_the_line_that_a_part_is_cut_in_is_no_bad_line_of_it(database, config, tmp_path, monkeypatch):
    found = store_parts(LOG + b"junk\n", database, config, tmp_path, monkeypatch)
    assert [receipt.warnings for receipt in found[:-1]] == [()] * (len(found) - 1)
    assert found[-1].warnings[0].startswith("1 line could not be stored, the first of them line 61: ")


def equal_in_parts(body, database, config, tmp_path, monkeypatch, size):
    """Store the log in parts where all of it is stored already: nothing may be new."""
    take(database, config, body)
    found = store_parts(body, database, config, tmp_path, monkeypatch, size)
    assert stored(database) == counted(body)
    return sum(receipt.rows for receipt in found if not receipt.duplicate)


@pytest.mark.parametrize("strange", [b"x\0y\0z\n", b"\xff\xfejunk\0\n", b"\0\0\n"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_part_is_not_taken_for_utf16_by_how_it_begins(
    database, config, tmp_path, monkeypatch, strange, after
):
    lines = LOG.splitlines(keepends=True)
    body = b"".join([*lines[:10], strange, *lines[10:]])
    found = store_parts(body, database, config, tmp_path, monkeypatch, len(b"".join(lines[:10])) + after)
    assert stored(database) == counted(LOG)
    assert sum(receipt.bad_lines for receipt in found) == 1


def test_parts_that_are_equal_are_stored_each(database, config, tmp_path, monkeypatch):
    body = line(1) * 30 + line(2)
    store_parts(body, database, config, tmp_path, monkeypatch, 10 * len(line(1)))
    assert stored(database) == counted(body)


@pytest.mark.parametrize("junk", [5, 6])
def test_a_part_may_have_as_many_bad_lines_as_are_kept(database, config, tmp_path, monkeypatch, junk):
    monkeypatch.setattr("ringstats_ts.ingest.BAD_LINES", 5)
    lines = LOG.splitlines(keepends=True)
    first = b"".join(lines[:6]) + b"junk\n" * junk
    body = first + b"".join(lines[6:])
    take(database, config, LOG)
    if junk > 5:
        with pytest.raises(UnstorablePayload, match="6 lines could not be stored, the first of them line 7"):
            store_parts(body, database, config, tmp_path, monkeypatch, len(first) + 10)
    else:
        store_parts(body, database, config, tmp_path, monkeypatch, len(first) + 10)
    # The lines before them have the same ids as in the log without them.
    assert stored(database) == counted(LOG)


def test_equal_lines_are_told_apart_over_the_end_of_a_part(database, config, tmp_path, monkeypatch):
    body = line(1) * 7 + line(2)
    assert equal_in_parts(body, database, config, tmp_path, monkeypatch, 3 * len(line(1))) <= 1


def test_a_long_log_of_nothing_good_is_refused_and_leaves_nothing(database, config, tmp_path, monkeypatch):
    body = b"".join(line(number, at=NOW + timedelta(days=9)) for number in range(60))
    with pytest.raises(UnstorablePayload, match=r"No line of the log can be stored. Line 1: Its time lies"):
        store_parts(body, database, config, tmp_path, monkeypatch)
    assert list_rejects(database) == database.run("SELECT FROM receipts") == []


def test_bad_lines_before_the_first_good_one_are_kept(database, config, tmp_path, monkeypatch):
    future = b"".join(line(number, at=NOW + timedelta(days=9)) for number in range(30))
    found = store_parts(future + LOG, database, config, tmp_path, monkeypatch)
    assert stored(database) == counted(LOG)
    assert sum(receipt.bad_lines for receipt in found) == len(list_rejects(database)) == 30
    assert {receipt.time < NOW for receipt in found} == {True}


def test_a_long_log_of_another_source_than_was_named_says_so(tmp_path, config):
    path = tmp_path / "access.log"
    path.write_bytes(LOG)
    with pytest.raises(UnknownSource, match="not a ringserver log: it looks like an access log"):
        next(parts(str(path), Payload(b"", NOW, "ringserver", backfill=True), config))


def test_a_line_that_does_not_end_is_given_up(database, config, tmp_path, monkeypatch):
    monkeypatch.setattr(longlogs, "BLOCK_BYTES", 4000)
    body = LOG + b"x" * 20_000 + b"\n" + line(99)
    found = store_parts(body, database, config, tmp_path, monkeypatch)
    assert stored(database) == counted(LOG + line(99))
    assert sum(receipt.bad_lines for receipt in found) > 1


@pytest.mark.parametrize("zeros", [990, 1000, 1999, 2990])
def test_zeros_before_a_long_log_do_not_hide_it(database, config, tmp_path, monkeypatch, zeros):
    store_parts(b"\0" * zeros + LOG, database, config, tmp_path, monkeypatch)
    assert stored(database) == counted(LOG)


BLOCK = b"""START CLIENT ring [192.0.2.1] (SeedLink|Client) @ {0} (connected 2026-11-21T00:00:00Z) TX
FDSN:XX_A_00_B_H_Z/MSEED 512 1
FDSN:XX_B_00_B_H_Z/MSEED 1024 2
END CLIENT ring [192.0.2.1] total TX bytes: 1536
"""


@pytest.mark.parametrize("size", [50, 60, 333, 1000])
def test_a_block_longer_than_a_part_is_waited_for(database, config, tmp_path, monkeypatch, size):
    monkeypatch.setattr(longlogs, "PART_BYTES", size)
    blocks = [BLOCK.replace(b"{0}", b"2026-11-21T00:00:%02dZ" % second) for second in range(9)]
    path = tmp_path / "txlog"
    path.write_bytes(b"".join(blocks) + b"\n")
    for part in parts(str(path), Payload(b"", NOW, host="ring", backfill=True), config):
        ingest_parsed([part], database, config)
    assert database.run("SELECT count(*)::integer, sum(bytes)::integer FROM ringserver_transfers") == [
        (18, 9 * 1536)
    ]
    assert list_rejects(database) == []


def test_a_part_that_begins_with_bad_lines_goes_on(database, config, tmp_path, monkeypatch):
    monkeypatch.setattr(longlogs, "PART_BYTES", 1000)
    path = tmp_path / "access.log"
    lines = LOG.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:11], *[b"PHP Warning\n"] * 40, *lines[11:]]))
    for part in parts(str(path), Payload(b"", NOW, host="web-1", backfill=True), config):
        ingest_parsed([part], database, config)
    assert stored(database) == counted(LOG)
    assert len(list_rejects(database)) == 40


@pytest.mark.usefixtures("kept_for_a_day")
@pytest.mark.parametrize("again", [False, True])
def test_a_long_log_is_told_of_as_a_whole(database, config, tmp_path, monkeypatch, again):
    def ingested(body):
        path = tmp_path / "access.log"
        path.write_bytes(body)
        summary, group = Summary(), Group([str(path)], parse_files([str(path)], template, small))
        _store(group, template, summary, database, small)
        return summary

    monkeypatch.setattr(longlogs, "PART_BYTES", 1000)
    small, template = replace(config, max_document_bytes=2000), Payload(b"", NOW, host="web-1", backfill=True)
    old = b"".join(line(1, at=NOW - timedelta(days=9)) for _ in range(60))
    for _ in range(1 + again):
        refused = ingested(old).refused
        both = ingested(old + LOG)
    assert [(one["reason"], one["detail"].partition(".")[0]) for one in refused] == [
        ("timestamp-out-of-range", "All of the log is older than what is kept")
    ]
    assert (both.refused, both.rows) == ([], 0 if again else 60)
    told = [
        re.match(r"Left out (\d+) rows?.*?(?: \((\d+) times\))?$", one["warning"]) for one in both.warnings
    ]
    assert sum(int(one[1]) * int(one[2] or 1) for one in told) == 60
    assert stored(database) == counted(LOG)


def test_other_files_are_no_long_logs(tmp_path):
    for name, content in {
        "a.json": b"[]" * 99,
        "b.gz": b"\x1f\x8b" + os.urandom(99),
        "c": b"",
        "d": b"\xff\xfe" + b"abc" * 99,
    }.items():
        (tmp_path / name).write_bytes(content)
        assert not is_long_log(str(tmp_path / name))

"""A wrong clock or made-up times change nothing: no row, no chunk."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.errors import BadParameter, PayloadError, PayloadTooLarge, TimestampOutOfRange
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Context, Payload
from ringstats_ts.sources.tailscale import TAILSCALE
from ringstats_ts.storage import policies
from ringstats_ts.storage.window import check_span
from ringstats_ts.times import parse_time

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)

WEIRD = [
    "0001-01-02T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-12:00",
    "4714-11-24T00:00:00Z",
    "-4713-11-24T00:00:00Z",
    "4714-11-24 00:00:00 BC",
    "294276-12-31T23:59:59Z",
    "infinity",
    "-infinity",
    "now",
    "1e400",
    "1e12",
    "-1",
    "-62135596800",
    "99999999999",
    "999999999999",
    "1795000000000",
    "NaN",
    "1969-12-31T23:59:59Z",
]
"""What a clock or a prank gives for a time."""


@pytest.fixture
def chunk_count(database):
    def count():
        return database.run("SELECT count(*) FROM timescaledb_information.chunks")[0][0]

    return count


@pytest.fixture
def untouched(database, chunk_count):
    """Whether there is nothing but the chunks from before."""
    before = chunk_count()

    def check():
        return (
            chunk_count() == before
            and database.run("SELECT count(*) FROM hosts") == [(0,)]
            and database.run("SELECT count(*) FROM receipts") == [(0,)]
        )

    return check


def take(database, config, *documents, **told):
    body = "\n".join(json.dumps(document) for document in documents).encode()
    return ingest(Payload(body, NOW, **told), database, config)


@pytest.mark.parametrize("text", WEIRD)
def test_a_weird_time_that_the_sender_names_is_refused(database, config, make_status, untouched, text):
    with pytest.raises((BadParameter, TimestampOutOfRange)):
        take(database, config, make_status(), time=parse_time(text))
    assert untouched()


@pytest.mark.parametrize("text", WEIRD)
def test_a_weird_time_in_the_document_is_refused(database, config, make_status, untouched, text):
    with pytest.raises(PayloadError):
        take(database, config, make_status(_timestamp=text))
    assert untouched()


@pytest.mark.parametrize("number", ["-1", "1e18", "1e400", "-1e400", "1795000000000", "-62135596801", "NaN"])
def test_a_weird_number_in_the_document_is_refused(database, config, make_status, untouched, number):
    body = json.dumps(make_status(_timestamp="HERE")).replace('"HERE"', number).encode()
    with pytest.raises(PayloadError):
        ingest(Payload(body, NOW), database, config)
    assert untouched()


def test_posts_are_taken_from_the_window_and_not_from_outside(database, config, make_status):
    for age in (timedelta(minutes=-10), timedelta(0), 90 * DAY):
        take(database, config, make_status(), time=NOW - age)
    second = timedelta(seconds=1)
    with pytest.raises(TimestampOutOfRange, match="lies in the future.*clock of the host"):
        take(database, config, make_status(), time=NOW + timedelta(minutes=10) + second)
    with pytest.raises(TimestampOutOfRange, match="more than 90 days old.*`tsstats ingest`.*TSSTATS_PAST"):
        take(database, config, make_status(), time=NOW - 90 * DAY - second)
    with pytest.raises(TimestampOutOfRange, match="more than 6 hours old"):
        take(database, replace(config, past=timedelta(hours=6)), make_status(), time=NOW - DAY)


def test_files_are_taken_from_all_that_is_kept(database, config, make_status):
    take(database, config, make_status(), time=NOW - 729 * DAY, backfill=True)
    with pytest.raises(TimestampOutOfRange, match="older than the 730 days that are kept.*TSSTATS_RETENTION"):
        take(database, config, make_status(), time=NOW - 731 * DAY, backfill=True)
    with pytest.raises(TimestampOutOfRange, match="lies in the future"):
        take(database, config, make_status(), time=NOW + DAY, backfill=True)


def test_retention_is_seen_from_the_present(database, config, make_status):
    payload = Payload(json.dumps(make_status()).encode(), NOW - 10 * DAY, time=NOW - 731 * DAY, backfill=True)
    with pytest.raises(TimestampOutOfRange, match="730 days"):
        ingest(payload, database, config, now=NOW)


def test_retention_is_asked_for_again_after_a_minute(database, config, make_status):
    payload = Payload(json.dumps(make_status()).encode(), NOW, time=NOW - 80 * DAY)
    ingest(payload, database, config, now=NOW)
    database.run("SELECT remove_retention_policy('tailscale_peers')")
    database.run("SELECT add_retention_policy('tailscale_peers', INTERVAL '70 days')")
    try:
        ingest(replace(payload, time=NOW - 79 * DAY), database, config, now=NOW + timedelta(seconds=59))
        with pytest.raises(TimestampOutOfRange, match="70 days"):
            ingest(replace(payload, time=NOW - 78 * DAY), database, config, now=NOW + timedelta(seconds=61))
    finally:
        database.run("SELECT remove_retention_policy('tailscale_peers')")
        policies.apply(database, {})


def test_a_post_is_of_a_month_of_days_at_most(database, config, make_status, untouched):
    noon = NOW.replace(hour=12, minute=0, second=0) - DAY
    of_days = [
        make_status(_timestamp=(noon - number * DAY).isoformat(), peers={"db": number})
        for number in range(32)
    ]
    with pytest.raises(TimestampOutOfRange, match="of 32 days.*of 31. Split it.*31 days.*`tsstats ingest`"):
        take(database, config, *of_days)
    assert untouched()
    assert len(take(database, config, *of_days[:31])) == 31


@pytest.mark.parametrize(
    ("times", "days"),
    [
        (["2026-03-01T00:30:00+14:00", "2026-02-28T00:00:00Z", "2026-02-28T13:30:00-10:00"], 1),
        (["2026-03-01T08:00:00+09:00", "2026-03-01T10:00:00+09:00"], 2),
        (["2026-03-01T15:59:00-08:00", "2026-03-01T16:00:00-08:00"], 2),
    ],
)
def test_days_are_counted_in_utc(make_status, times, days):
    batches = [
        TAILSCALE.parse(make_status(), Context(NOW, time=datetime.fromisoformat(time))) for time in times
    ]
    check_span(batches, max_days=days)
    with pytest.raises(TimestampOutOfRange, match=f"of {days} day"):
        check_span(batches, max_days=days - 1)


@pytest.mark.parametrize(("days", "backfill"), [(1000, False), (1000, True), (20_000, True)])
def test_a_bomb_of_days_makes_no_chunk(database, config, untouched, days, backfill):
    document = json.dumps({"BackendState": "Stopped", "Version": "1.0", "_timestamp": "HERE"})
    lines = (
        document.replace("HERE", (NOW - (number % 700) * DAY if days == 1000 else _far(number)).isoformat())
        for number in range(days)
    )
    payload = Payload("\n".join(lines).encode(), NOW, host="bomb", backfill=backfill)
    with pytest.raises((TimestampOutOfRange, PayloadTooLarge)):
        ingest(payload, database, config)
    with pytest.raises(TimestampOutOfRange):
        ingest(payload, database, replace(config, max_lines=200_000, max_values=10_000_000))
    assert untouched()


def _far(number):
    return datetime(1800, 1, 1, tzinfo=UTC) + number * DAY


def test_many_bombs_leave_a_database_that_can_be_dropped(database, config, make_status, chunk_count):
    """What each body may not do, many together may not do either: the window bounds the chunks."""
    for number in range(1000):
        time = NOW - (number - 5) * DAY
        try:
            take(database, config, make_status(peers={"db": number}), time=time)
        except TimestampOutOfRange:
            continue
    assert chunk_count() <= 91 + 14 + 3
    database.run("BEGIN")
    database.run("DROP TABLE tailscale_peers CASCADE")
    database.run("DROP TABLE tailscale_status CASCADE")
    database.run("ROLLBACK")

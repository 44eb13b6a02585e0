"""Where the window begins and ends, to the microsecond. The database has told its retention lately."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.errors import StorageUnavailable, TimestampOutOfRange
from ringstats_ts.model import Batch, Events, Host, Rows
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.window import (
    FILE_DAYS,
    OLDEST,
    OLDEST_EVENT,
    check_span,
    check_time,
    without_outdated,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"

SAMPLE = Batch(
    source="tailscale",
    host=Host("h", "h"),
    time=NOW,
    time_known=True,
    received_at=NOW,
    digest=b"",
    rows=(Rows("tailscale_status", (), ()), Rows("tailscale_peers", (), ())),
)


@pytest.fixture
def kept():
    """Databases that keep the rows of tables so long: `kept(requests=DAY)`. They are not asked."""

    def make(*, asked_at=NOW, **tables):
        database = Database(NOBODY)
        database.memory.horizons[("tailscale_peers", "tailscale_status")] = (
            tables.pop("samples", None),
            asked_at,
        )
        for table, length in tables.items():
            database.memory.horizons[(table,)] = length, asked_at
        return database

    return make


def log(*parts, received_at=NOW, **others):
    events = tuple(
        Events(table, ("key", "time"), [(number, time) for number, time in enumerate(times)])
        for table, times in parts
    )
    return replace(SAMPLE, rows=(), events=events, is_log=True, received_at=received_at, **others)


def check(database, time, *, past=90 * DAY, now=NOW, received_at=NOW):
    batch = replace(SAMPLE, time=time, received_at=received_at)
    return check_time(database, batch, future=10 * HOUR, past=past, now=now)


@pytest.mark.parametrize(
    ("last_good", "step", "options", "said"),
    [
        (NOW + 10 * HOUR, INSTANT, {}, "lies in the future"),
        (NOW - 90 * DAY, -INSTANT, {}, "more than 90 days old"),
        (NOW - 5 * HOUR, -INSTANT, {"past": 5 * HOUR}, "more than 5 hours old"),
        (NOW - HOUR, -INSTANT, {"past": HOUR}, "more than 1 hour old"),
        (NOW - 90 * INSTANT, -INSTANT, {"past": 90 * INSTANT}, r"more than 0:00:00\.000090 old"),
        (OLDEST, -INSTANT, {"past": None}, "before 2000"),
        # Both as seen from the arrival.
        (NOW - DAY + 10 * HOUR, INSTANT, {"received_at": NOW - DAY}, "lies in the future"),
        (NOW - 91 * DAY, -INSTANT, {"received_at": NOW - DAY}, "more than 90 days old"),
    ],
)
def test_a_sample_is_taken_from_the_window_to_the_microsecond(kept, last_good, step, options, said):
    check(kept(), last_good, **options)
    with pytest.raises(TimestampOutOfRange, match=said):
        check(kept(), last_good + step, **options)


def test_retention_is_counted_from_now(kept):
    check(kept(samples=100 * DAY), NOW - 100 * DAY, past=None, received_at=NOW - DAY)
    with pytest.raises(TimestampOutOfRange, match="older than the 100 days that are kept. Keep rows longer"):
        check(kept(samples=100 * DAY), NOW - 100 * DAY - INSTANT, past=None, received_at=NOW - DAY)


def test_retention_is_asked_for_again_after_a_minute(kept):
    minute = timedelta(minutes=1)
    check(kept(samples=DAY), NOW, now=NOW + minute)
    with pytest.raises(StorageUnavailable):
        check(kept(samples=DAY), NOW, now=NOW + minute + INSTANT)


@pytest.mark.parametrize(
    ("days", "said"), [(2, "parts of 2 days, or store it as a file"), (1, "parts of 1 day,")]
)
def test_a_body_is_of_so_many_days(days, said):
    batches = [replace(SAMPLE, time=NOW - number * DAY) for number in range(days)]
    check_span([*batches, *batches], max_days=days)
    with pytest.raises(
        TimestampOutOfRange, match=f"of {days + 1} days; those of one body may be of {days}"
    ) as caught:
        check_span([*batches, replace(SAMPLE, time=NOW + DAY)], max_days=days)
    assert said in str(caught.value)


def test_a_file_is_not_told_to_be_stored_as_a_file():
    batches = [replace(SAMPLE, time=NOW - number * DAY) for number in range(FILE_DAYS + 1)]
    check_span(batches[1:], max_days=FILE_DAYS)
    with pytest.raises(TimestampOutOfRange) as caught:
        check_span(batches, max_days=FILE_DAYS)
    assert caught.value.hint == "Split it by time into parts of 366 days."


def test_events_are_older_than_samples():
    assert (OLDEST_EVENT.year, OLDEST.year, OLDEST_EVENT.tzinfo, OLDEST.tzinfo) == (1990, 2000, UTC, UTC)


def test_a_log_is_without_what_is_older_than_its_own_table_keeps(kept):
    times = [NOW - 3 * DAY, NOW - DAY - INSTANT, NOW - DAY, NOW]
    batch = log(("short", times), ("long", times), ("ever", times), warnings=("before",))
    left = without_outdated(kept(short=DAY, long=2 * DAY, ever=None), batch, now=NOW)
    assert [part.times for part in left.events] == [times[2:], times[1:], times]
    assert left.left_out == {"short": 2, "long": 1}
    assert left.warnings[0] == "before"
    assert left.warnings[1].startswith(
        "Left out 3 rows, older than the 1 day that are kept. Keep rows longer"
    )


def test_a_log_of_which_all_is_kept_is_left_as_it_is(kept):
    batch = log(("short", [NOW - DAY]), ("empty", []))
    assert without_outdated(kept(short=DAY, empty=DAY), batch, now=NOW) is batch


def test_a_log_of_nothing_that_is_kept_is_refused_unless_it_is_a_part(kept):
    batch = log(("short", [NOW - DAY - INSTANT]), ("long", [NOW - 3 * DAY]))
    with pytest.raises(TimestampOutOfRange, match="All of the log is older than the 1 day that are kept"):
        without_outdated(kept(short=DAY, long=2 * DAY), batch, now=NOW)
    left = without_outdated(kept(short=DAY, long=2 * DAY), batch, now=NOW, whole=False)
    assert [part.rows for part in left.events] == [[], []]
    assert left.left_out == {"short": 1, "long": 1}

"""The window of time that samples are taken from, and how many days one body may be of.

Every day of samples is a chunk of each hypertable. A clock that is wrong, or a body of
made-up times, would make thousands of them, and a database with thousands of chunks can
neither be queried nor dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ringstats_ts.errors import TimestampOutOfRange
from ringstats_ts.model import Batch, Events
from ringstats_ts.storage.database import Database
from ringstats_ts.words import counted

OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
"""No sample is older than this; a clock that was never set is."""

OLDEST_EVENT = datetime(1990, 1, 1, tzinfo=UTC)
"""No event of a log is older than this. Logs have chunks of 30 days, and are kept for ever unless
that is set otherwise: an old one makes few of them."""

FILE_DAYS = 366
"""Most days (UTC) that the samples of one file may be of."""

HORIZON_KEPT = timedelta(minutes=1)
"""How long the answer about retention is taken for true."""


LONGER = "Keep rows longer: set TSSTATS_RETENTION_<TABLE> to an interval or `never`, then `tsstats migrate`."
"""What to do where rows are too old for their table."""


def check_span(batches: Sequence[Batch], *, max_days: int) -> None:
    """Refuse samples of more than so many days (UTC) in one body.

    Logs are not asked: all that there are have but some hundreds of chunks.

    Raises
    ------
    TimestampOutOfRange
    """
    days = len({time.astimezone(UTC).date() for batch in batches for time in batch.times})
    if days > max_days:
        file = ", or store it as a file with `tsstats ingest`" if max_days < FILE_DAYS else ""
        raise TimestampOutOfRange(
            f"The samples are of {days:,} days; those of one body may be of {max_days:,}.",
            f"Split it by time into parts of {counted(max_days, 'day')}{file}.",
        )


def check_time(
    database: Database, batch: Batch, *, future: timedelta, past: timedelta | None, now: datetime
) -> None:
    """Refuse samples from the future, from long ago, or from before what retention keeps.

    Future and past are as seen from their arrival, retention from `now`. `past` is None where
    old samples are meant.

    Raises
    ------
    TimestampOutOfRange
    """
    first, last = batch.span
    # What came by a clock that was wrong then is not from the future now.
    if last > min(batch.received_at, now) + future:
        raise TimestampOutOfRange(f"The sample time {last.isoformat()} lies in the future.")
    if first < OLDEST:
        raise TimestampOutOfRange(f"The sample time {first.isoformat()} is from before {OLDEST.year}.")
    if past is not None and first < batch.received_at - past:
        raise TimestampOutOfRange(
            f"The sample time {first.isoformat()} is more than {_worded(past)} old.",
            "If it is right, store the file with `tsstats ingest`, or raise TSSTATS_PAST; "
            "if not, check the clock of the host.",
        )
    kept = _horizon(database, [part.table for part in batch.parts], now)
    if kept is not None and first < now - kept:
        raise TimestampOutOfRange(
            f"The sample time {first.isoformat()} is older than the {_worded(kept)} that are kept.", LONGER
        )


def without_outdated(database: Database, batch: Batch, *, now: datetime, whole: bool = True) -> Batch:
    """The log without what is older than its tables keep. `whole` says that it is no part of a log.

    Raises
    ------
    TimestampOutOfRange
        where nothing would be left of a whole log.
    """
    kept = {part.table: _horizon(database, [part.table], now) for part in batch.events}
    events = tuple(_since(part, now, kept[part.table]) for part in batch.events)
    left_out = {
        part.table: len(part.rows) - len(left.rows)
        for part, left in zip(batch.events, events, strict=True)
        if len(left.rows) < len(part.rows)
    }
    if not left_out:
        return batch
    shortest = _worded(min(length for table in left_out if (length := kept[table]) is not None))
    if whole and not any(part.rows for part in events):
        raise TimestampOutOfRange(f"All of the log is older than the {shortest} that are kept.", LONGER)
    rows = counted(sum(left_out.values()), "row")
    warning = f"Left out {rows}, older than the {shortest} that are kept. {LONGER}"
    return replace(batch, events=events, left_out=left_out, warnings=(*batch.warnings, warning))


def _since(part: Events, now: datetime, kept: timedelta | None) -> Events:
    times = part.times if kept is not None else []
    if kept is None or min(times, default=now) >= now - kept:
        return part
    rows = [row for row, time in zip(part.rows, times, strict=True) if time >= now - kept]
    return replace(part, rows=rows)


def _horizon(database: Database, names: Iterable[str], now: datetime) -> timedelta | None:
    """How old a row may be: the shortest retention of the tables it goes to; None is of any age."""
    tables = tuple(sorted(set(names)))
    known, asked_at = database.memory.horizons.get(tables, (None, None))
    if asked_at is None or now > asked_at + HORIZON_KEPT:
        ((known,),) = database.rows("horizon", {"tables": list(tables)})
        database.memory.horizons[tables] = known, now
    return known


def _worded(length: timedelta) -> str:
    for name, unit in (("day", timedelta(days=1)), ("hour", timedelta(hours=1))):
        if length and not length % unit:
            return counted(length // unit, name)
    return str(length)

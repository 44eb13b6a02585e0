"""The window of time that samples are taken from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ringstats_ts.errors import TimestampOutOfRange
from ringstats_ts.model import Batch
from ringstats_ts.storage.database import Database

OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
"""No sample is older than this; a clock that was never set is."""

HORIZON_KEPT = timedelta(minutes=1)
"""How long the answer about retention is taken for true."""


def check_time(database: Database, batch: Batch, *, future: timedelta) -> None:
    """Refuse a sample from the future, or from before what retention keeps.

    Raises
    ------
    TimestampOutOfRange
    """
    if batch.time > batch.received_at + future:
        raise TimestampOutOfRange(f"The sample time {batch.time.isoformat()} lies in the future.")
    if batch.time < OLDEST:
        raise TimestampOutOfRange(f"The sample time {batch.time.isoformat()} is from before {OLDEST.year}.")
    kept = _horizon(database, batch)
    if kept is not None and batch.time < batch.received_at - kept:
        raise TimestampOutOfRange(
            f"The sample time {batch.time.isoformat()} is older than the {kept.days} days that are kept.",
            "Keep raw rows longer: set TSSTATS_RETENTION_<TABLE> to an interval or `never`, "
            "then `tsstats migrate`.",
        )


def _horizon(database: Database, batch: Batch) -> timedelta | None:
    """How old a sample may be: the shortest retention of the tables it goes to."""
    known, asked_at = database.memory.horizons.get(batch.source, (None, None))
    if asked_at is None or batch.received_at > asked_at + HORIZON_KEPT:
        tables = [part.table for part in batch.rows]
        ((known,),) = database.rows("horizon", {"tables": tables})
        database.memory.horizons[batch.source] = known, batch.received_at
    return known

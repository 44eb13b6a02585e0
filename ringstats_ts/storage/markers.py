"""The markers of the canary, as a reader sees them."""

from __future__ import annotations

from datetime import datetime

from ringstats_ts.storage.database import Database


def markers(database: Database, host: str, since: datetime) -> list[datetime]:
    """The times of the host's status documents from `since` on, read as the role tsstats_reader."""
    with database.transaction() as transaction:
        transaction.query("SET LOCAL ROLE tsstats_reader")
        return [time for (time,) in transaction.rows("canary_markers", {"host": host, "since": since})]

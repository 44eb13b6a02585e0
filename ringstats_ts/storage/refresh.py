"""Refreshing continuous aggregates over windows that their policies have passed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from ringstats_ts.model import Receipt
from ringstats_ts.storage import policies
from ringstats_ts.storage.database import Database, quote

WIDEST = timedelta(days=1)
"""Widest bucket of any aggregate: a window is widened to whole buckets of it."""

LATE = timedelta(days=1)
"""Age of a sample from which its window is noted to be refreshed for it. Below the two days
that the first refresh policy looks back, so that no sample falls between the two."""

Window = tuple[datetime, datetime]


def refresh(database: Database, source: str, since: datetime, until: datetime) -> None:
    """Refresh the source's aggregates over a window, bottom-up, outside any transaction.

    The newest buckets are left to real-time aggregation, as the policies leave them:
    a bucket that is materialised before it is over would hide what still comes. Nor does
    it go back to where raw rows are dropped: that would drop the totals too.
    """
    ((oldest,),) = database.rows("oldest_sample", {"source": source})
    if oldest is None:
        return
    start = _floor(max(since, oldest), WIDEST)
    end = _floor(until, WIDEST) + WIDEST
    now = datetime.now(UTC)
    refreshes = [p for p in policies.shipped(database) if p.kind == "refresh" and p.source == source]
    for policy in refreshes:
        newest = _floor(now - (policy.until or WIDEST), policy.until or WIDEST)
        if start < min(end, newest):
            database.run(
                f"CALL refresh_continuous_aggregate('{quote(policy.relation)}', %(since)s, %(until)s)",
                {"since": start, "until": min(end, newest)},
            )


def refresh_late(database: Database) -> int:
    """Work off the windows that late documents left; how many. Safe to run twice at once."""
    by_source: defaultdict[str, list[tuple[int, Window]]] = defaultdict(list)
    for late_window_id, source, since, until in database.rows("late_windows"):
        by_source[source].append((late_window_id, (since, until)))
    done = 0
    for source, windows in by_source.items():
        for since, until in merged([window for _, window in windows]):
            refresh(database, source, since, until)
            within = [key for key, window in windows if since <= window[0] and window[1] <= until]
            database.rows("drop_late_windows", {"late_window_ids": within})
            done += len(within)
    return done


def refresh_since(database: Database, receipts: Iterable[Receipt]) -> None:
    """Refresh what these documents went into.

    For a loader, whose reader wants to see at once what was loaded.
    """
    by_rollup: defaultdict[str, list[Window]] = defaultdict(list)
    for receipt in receipts:
        if receipt.span is not None:
            by_rollup[receipt.rollup].append(receipt.span)
    for rollup, windows in by_rollup.items():
        for since, until in merged(windows):
            database.rows("add_late_window", {"source": rollup, "since": since, "until": until})
    refresh_late(database)


def catch_up(database: Database) -> int:
    """Note the time during which no policy ran, where it is longer than they look back.

    Without this, rows that came before a long stop would leave the aggregates as soon as
    the next refresh moves past them. To be called before the first jobs run.
    """
    return len(database.rows("note_missed_windows", {"late": LATE}))


def merged(windows: list[Window]) -> list[Window]:
    """The windows in whole days, joined where they touch."""
    out: list[Window] = []
    for since, until in sorted(windows):
        if out and _floor(since, WIDEST) <= _floor(out[-1][1], WIDEST) + WIDEST:
            out[-1] = (out[-1][0], max(out[-1][1], until))
        else:
            out.append((since, until))
    return out


def _floor(time: datetime, width: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (time - epoch) // width * width

"""What is to be done again and again: chunks ahead, pruning, late windows.

And what a server does by itself and the embedded database does not: due jobs and vacuum.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from ringstats_ts.config import Config
from ringstats_ts.errors import RingstatsError, StorageUnavailable
from ringstats_ts.storage.changes import settle_nodes
from ringstats_ts.storage.chunks import make_next_chunks
from ringstats_ts.storage.clock import note_clock
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import refresh_late
from ringstats_ts.storage.rejects import prune_rejects

logger = logging.getLogger(__name__)

IDLE = timedelta(seconds=10)
"""Pause between two rounds of upkeep."""

VACUUMED = (
    "budgets",
    "hosts",
    "job_runs",
    "late_windows",
    "receipts",
    "rejects",
    "rejects_kept",
    "series",
    "tailscale_nodes",
)
"""Small tables that are updated or pruned a lot."""


def run_due_jobs(database: Database) -> int:
    """Run TimescaleDB's due jobs, refreshes bottom-up first; how many ran well.

    A failing job is recorded and tried again at its next time; it stops no other.
    """
    done = 0
    for job_id, name, every in database.rows("due_jobs"):
        done += _run(database, name, f"CALL run_job({int(job_id)})")
        database.rows("schedule_job", {"job_id": job_id, "every": every})
    return done


def run_upkeep(database: Database, config: Config) -> None:
    """Make the next chunks, prune what is kept for a while, settle who tells of nodes, refresh.

    What fails is logged and tried again in the next round; it stops nothing else. The
    refresh is last: it may take long, and chunks must be there by midnight.
    """
    for work in (
        lambda: make_next_chunks(database),
        lambda: note_clock(database, config.future),
        lambda: prune(database, config),
        lambda: settle_nodes(database),
        lambda: refresh_late(database),
    ):
        try:
            work()
        except StorageUnavailable:
            raise
        except RingstatsError as error:
            logger.warning("Upkeep failed: %s", error.message)
            # A refresh that failed holds its claim on the aggregate as long as its session lives.
            database.close()


def prune(database: Database, config: Config) -> None:
    """Drop receipts, rejects and budgets of which it is time, or of which there are too many."""
    database.rows("prune_receipts", {"keep": config.receipts_keep})
    database.rows("prune_budgets")
    if prune_rejects(database, config):
        # Else a flood takes new room on the disk each round, until autovacuum comes by.
        database.run("VACUUM (SKIP_LOCKED) rejects")


def vacuum(database: Database) -> None:
    """Vacuum and analyze what changes most. The embedded database has no autovacuum."""
    for table in VACUUMED:
        _run(database, f"vacuum {table}", f"VACUUM (ANALYZE) {table}")


def _run(database: Database, name: str, sql: str) -> bool:
    database.rows("start_job_run", {"job": name})
    error: str | None = None
    try:
        database.run(sql)
    except StorageUnavailable:
        raise
    except RingstatsError as failure:
        error = failure.message
        logger.warning("%s failed: %s", name, error)
    database.rows("finish_job_run", {"job": name, "error": error})
    return error is None

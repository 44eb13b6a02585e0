"""Commits batches with their receipts: all of a body in one transaction, each document once.

Two things make a document known again: its receipt, which answers a retry at once, and
the key of its rows, which holds when the receipt has been pruned.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from ringstats_ts.errors import OutcomeUnknown, PayloadError, StorageUnavailable
from ringstats_ts.model import Batch, Receipt, Rows
from ringstats_ts.storage.changes import Forgotten, forget_changes, record_changes
from ringstats_ts.storage.copytext import copy_text
from ringstats_ts.storage.database import (
    Conflict,
    ConnectionLost,
    Contended,
    Database,
    Memory,
    Transaction,
    quote,
)
from ringstats_ts.storage.ids import Ids
from ringstats_ts.storage.receipts import Task, add_receipt, clash, find_receipt, receipt
from ringstats_ts.storage.refresh import LATE

ATTEMPTS = 4
"""Times that a transaction is tried when others are in its way or its connection is lost."""

DRIFT_PATHS = 100
DRIFT_LENGTH = 200
"""What is noted of one document's unknown fields; all of them are kept in attributes."""


class RefusedTask(Exception):
    """The task of that number, from 0, was refused; with it all of them."""

    def __init__(self, number: int, error: PayloadError) -> None:
        super().__init__(number, error)
        self.number = number
        self.error = error


def store(database: Database, todo: Sequence[Task]) -> list[Receipt]:
    """Commit all the tasks in one transaction, or none.

    Returns the receipts in order. A document that is stored already has `duplicate`
    set and changes nothing.

    Raises
    ------
    RefusedTask
        a document was refused.
    StorageUnavailable
        nothing was stored.
    OutcomeUnknown
        the connection was lost, perhaps behind the commit, and the database is away.
    """
    careful, lost = False, False
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _store_all(database, todo, careful=careful)
        except Conflict:
            careful = True
            database.memory = Memory()
            if attempt == ATTEMPTS:
                raise StorageUnavailable("Other documents of this host are in the way.") from None
        except Contended:
            if attempt == ATTEMPTS:
                raise
        except StorageUnavailable as error:
            # A lost connection may have committed: the retry finds its own receipt then.
            lost = lost or isinstance(error, ConnectionLost)
            if attempt == ATTEMPTS or not isinstance(error, ConnectionLost):
                if lost:
                    raise OutcomeUnknown from error
                raise
        time.sleep(random.uniform(0.01, 0.1))
    raise AssertionError("unreachable")


def _store_all(database: Database, todo: Sequence[Task], *, careful: bool) -> list[Receipt]:
    receipts = []
    with database.transaction() as transaction:
        ids = Ids(transaction, database.memory)
        for number, task in enumerate(todo):
            try:
                with database.translated():
                    receipts.append(_store_one(transaction, ids, task, careful=careful))
            except PayloadError as error:
                raise RefusedTask(number, error) from error
    ids.remember()
    return receipts


def _store_one(transaction: Transaction, ids: Ids, task: Task, *, careful: bool) -> Receipt:
    host_id, last_seen = _lock_host(transaction, task.batch)
    if (earlier := find_receipt(transaction, host_id, task)) is not None:
        return earlier
    forgotten: Forgotten = {}
    if task.replace:
        forgotten = _drop(transaction, host_id, task.batch)
    elif careful and (found := _existing(transaction, ids, host_id, task)):
        if not task.live:
            return found
        task = _moved(transaction, host_id, task)
    late = task.replace or (last_seen is not None and task.batch.time <= last_seen)
    return _write(transaction, ids, host_id, task, late=late, forgotten=forgotten)


def _lock_host(transaction: Transaction, batch: Batch) -> tuple[int, datetime | None]:
    """The host's id and its latest sample before this one; None where it is new."""
    host = batch.host
    found = transaction.rows("lock_host", {"identity": host.identity})
    if found:
        return found[0][0], found[0][1]
    transaction.rows(
        "add_host",
        {
            "identity": host.identity,
            "name": host.name,
            "tailnet": host.tailnet,
            "stable_id": host.stable_id,
            "time": batch.time,
        },
    )
    ((host_id, last_seen),) = transaction.rows("lock_host", {"identity": host.identity})
    return host_id, None if last_seen == batch.time else last_seen


def _existing(transaction: Transaction, ids: Ids, host_id: int, task: Task) -> Receipt | None:
    """A receipt for rows that are stored already under this host and time, their receipt pruned."""
    stored = [_stored(transaction, host_id, task.batch.time, part) for part in task.batch.rows]
    if not any(stored):
        return None
    wanted = [_resolved(ids, task.batch, part) for part in task.batch.rows]
    if not task.live and any(
        sorted(map(repr, have)) != sorted(map(repr, want)) for have, want in zip(stored, wanted, strict=True)
    ):
        raise clash(task, "time:")
    return receipt(task, task.batch.time, sum(map(len, stored)), duplicate=True)


def _stored(transaction: Transaction, host_id: int, at: datetime, part: Rows) -> list[tuple[Any, ...]]:
    names = ", ".join(map(quote, part.columns))
    return transaction.query(
        f"SELECT {names} FROM {quote(part.table)} WHERE host_id = %(host_id)s AND time = %(time)s",
        {"host_id": host_id, "time": at},
    )


def _resolved(ids: Ids, batch: Batch, part: Rows) -> list[tuple[Any, ...]]:
    ids.resolve(batch)
    return list(zip(*ids.columns(part), strict=True))


def _moved(transaction: Transaction, host_id: int, task: Task) -> Task:
    """The same live document at the next free microsecond: two cannot share a time."""
    batch = task.batch
    while any(_stored(transaction, host_id, batch.time, part) for part in batch.rows):
        batch = replace(batch, time=batch.time + timedelta(microseconds=1))
    return replace(task, batch=batch)


def _drop(transaction: Transaction, host_id: int, batch: Batch) -> Forgotten:
    """Take away what is stored for this host and time, for its correction."""
    at = {"host_id": host_id, "source": batch.source, "time": batch.time}
    transaction.rows("drop_receipts_at", at)
    forgotten = {
        changes.table: forget_changes(transaction, changes, host_id=host_id, at=batch.time)
        for changes in batch.changes
    }
    for part in batch.rows:
        transaction.query(
            f"DELETE FROM {quote(part.table)} WHERE host_id = %(host_id)s AND time = %(time)s", at
        )
    return forgotten


def _write(
    transaction: Transaction, ids: Ids, host_id: int, task: Task, *, late: bool, forgotten: Forgotten
) -> Receipt:
    batch = task.batch
    ids.resolve(batch)
    for changes in batch.changes:
        record_changes(transaction, ids, changes, batch, host_id, late=late, forgotten=forgotten)
    row_count = sum(_copy(transaction, ids, host_id, batch, part) for part in batch.rows)
    _note(transaction, host_id, batch)
    return add_receipt(transaction, host_id, task, row_count)


def _copy(transaction: Transaction, ids: Ids, host_id: int, batch: Batch, part: Rows) -> int:
    count = len(part.rows)
    head = [[value] * count for value in (host_id, batch.time, batch.received_at)]
    text = copy_text([*head, *ids.columns(part)])
    transaction.copy(part.table, ("host_id", "time", "received_at", *part.columns), text)
    return count


def _note(transaction: Transaction, host_id: int, batch: Batch) -> None:
    """Bring the host up to date, and note drift and late samples."""
    host = batch.host
    seen = {
        "host_id": host_id,
        "time": batch.time,
        "name": host.name,
        "tailnet": host.tailnet,
        "stable_id": host.stable_id,
    }
    transaction.rows("touch_host", seen)
    if batch.drift:
        paths = sorted({path[:DRIFT_LENGTH] for path in batch.drift[:DRIFT_PATHS]})
        transaction.rows("add_drift", seen | {"source": batch.source, "paths": paths})
    if batch.time < batch.received_at - LATE:
        window = {"source": batch.source, "since": batch.time, "until": batch.time}
        transaction.rows("add_late_window", window)

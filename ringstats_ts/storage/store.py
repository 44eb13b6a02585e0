"""Commits batches with their receipts: all of a body in one transaction, each document once.

Two things make a document known again: its receipt, which answers a retry at once, and
the key of its rows, which holds when the receipt has been pruned.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ringstats_ts.errors import (
    ConflictingPayload,
    StorageUnavailable,
    TimestampOutOfRange,
)
from ringstats_ts.model import Batch, Receipt, Rows
from ringstats_ts.storage.changes import forget_changes, record_changes
from ringstats_ts.storage.copytext import copy_text
from ringstats_ts.storage.database import Conflict, Database, Memory, Transaction, quote
from ringstats_ts.storage.ids import Ids
from ringstats_ts.storage.refresh import LATE

OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
"""No sample is older than this; a clock that was never set is."""

HORIZON_KEPT = timedelta(minutes=1)
"""How long the answer about retention is taken for true."""

ATTEMPTS = 4
"""Times that a transaction is tried when others are in its way or its connection is lost."""


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to be stored, and how to know it again."""

    batch: Batch
    receipt_id: str
    key: str | None = None
    replace: bool = False

    @property
    def live(self) -> bool:
        """Whether nothing but its content tells this document from another one."""
        return self.key is None and not self.batch.time_known

    @property
    def receipt_key(self) -> str:
        if self.key is not None:
            return f"key:{self.key}"
        if self.batch.time_known:
            return f"time:{self.batch.time.isoformat()}"
        return f"live:{self.receipt_id}"


def tasks(batches: Sequence[Batch], *, key: str | None, replace_rows: bool) -> list[Task]:
    """Give each batch of one body its receipt id, and its share of the body's key."""
    numbered = len(batches) > 1 and key is not None
    return [
        Task(batch, str(uuid.uuid4()), f"{key}#{number}" if numbered else key, replace_rows)
        for number, batch in enumerate(batches, 1)
    ]


def store(database: Database, todo: Sequence[Task]) -> list[Receipt]:
    """Commit all the tasks in one transaction, or none.

    Returns the receipts in order. A document that is stored already has `duplicate`
    set and changes nothing.

    Raises
    ------
    ConflictingPayload, TimestampOutOfRange, UnstorablePayload
        the document was refused.
    StorageUnavailable
        nothing was stored, as far as the database could be asked.
    """
    careful = False
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with database.transaction() as transaction:
                ids = Ids(transaction, database.memory)
                receipts = [_store_one(transaction, ids, task, careful=careful) for task in todo]
            ids.remember()
            return receipts
        except Conflict:
            careful = True
            database.memory = Memory()
            if attempt == ATTEMPTS:
                raise StorageUnavailable("Other documents of this host are in the way.") from None
        except StorageUnavailable:
            if attempt == ATTEMPTS or not _worth_retrying(database):
                raise
        time.sleep(random.uniform(0.01, 0.1))
    raise AssertionError("unreachable")


def _worth_retrying(database: Database) -> bool:
    """Whether the database answers again. A retry finds its own receipt if it had committed."""
    with suppress(StorageUnavailable):
        database.run("SELECT 1")
        return True
    return False


def _store_one(transaction: Transaction, ids: Ids, task: Task, *, careful: bool) -> Receipt:
    host_id, last_seen = _lock_host(transaction, task.batch)
    if (earlier := _earlier(transaction, host_id, task)) is not None:
        return earlier
    if task.replace:
        _drop(transaction, host_id, task.batch)
    elif careful and (found := _existing(transaction, ids, host_id, task)):
        if not task.live:
            return found
        task = _moved(transaction, host_id, task)
    return _write(transaction, ids, host_id, last_seen, task)


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


def _earlier(transaction: Transaction, host_id: int, task: Task) -> Receipt | None:
    """The receipt of the same document, if there is one.

    It is this task's own where the connection broke after the commit.
    """
    batch = task.batch
    found = transaction.rows(
        "find_receipt",
        {
            "receipt_id": task.receipt_id,
            "host_id": host_id,
            "source": batch.source,
            "key": task.receipt_key,
            "digest": batch.digest,
            "received_at": batch.received_at,
            "live": task.live,
        },
    )
    if not found:
        return None
    receipt_id, key, digest, at, row_count = found[0]
    if bytes(digest) != batch.digest:
        if task.replace and not key.startswith("key:"):
            return None
        raise _clash(task, key)
    own = str(receipt_id) == task.receipt_id
    return _receipt(replace(task, receipt_id=str(receipt_id)), at, row_count, duplicate=not own)


def _clash(task: Task, key: str) -> ConflictingPayload:
    if key.startswith("key:"):
        return ConflictingPayload(
            "This Idempotency-Key was used for another document.", "Make a new key for each document."
        )
    batch = task.batch
    return ConflictingPayload(
        f"Another document is stored for host {batch.host.name} at {batch.time.isoformat()}."
    )


def _existing(transaction: Transaction, ids: Ids, host_id: int, task: Task) -> Receipt | None:
    """A receipt for rows that are stored already under this host and time, their receipt pruned."""
    stored = [_stored(transaction, host_id, task.batch.time, part) for part in task.batch.rows]
    if not any(stored):
        return None
    wanted = [_resolved(ids, task.batch, part) for part in task.batch.rows]
    if not task.live and any(
        sorted(map(repr, have)) != sorted(map(repr, want)) for have, want in zip(stored, wanted, strict=True)
    ):
        raise _clash(task, "time:")
    return _receipt(task, task.batch.time, sum(map(len, stored)), duplicate=True)


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


def _drop(transaction: Transaction, host_id: int, batch: Batch) -> None:
    """Take away what is stored for this host and time, for its correction."""
    at = {"host_id": host_id, "source": batch.source, "time": batch.time}
    transaction.rows("drop_receipts_at", at)
    for changes in batch.changes:
        forget_changes(transaction, changes, host_id=host_id, at=batch.time)
    for part in batch.rows:
        transaction.execute(
            f"DELETE FROM {quote(part.table)} WHERE host_id = %(host_id)s AND time = %(time)s", at
        )


def _write(
    transaction: Transaction, ids: Ids, host_id: int, last_seen: datetime | None, task: Task
) -> Receipt:
    batch = task.batch
    ids.resolve(batch)
    late = task.replace or (last_seen is not None and batch.time <= last_seen)
    for changes in batch.changes:
        record_changes(transaction, ids, changes, host_id=host_id, at=batch.time, late=late)
    row_count = sum(_copy(transaction, ids, host_id, batch, part) for part in batch.rows)
    _note(transaction, host_id, batch)
    transaction.rows(
        "add_receipt",
        {
            "receipt_id": task.receipt_id,
            "host_id": host_id,
            "source": batch.source,
            "key": task.receipt_key,
            "digest": batch.digest,
            "time": batch.time,
            "received_at": batch.received_at,
            "row_count": row_count,
        },
    )
    return _receipt(task, batch.time, row_count, duplicate=False)


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
        transaction.rows("add_drift", seen | {"source": batch.source, "paths": list(batch.drift)})
    if batch.time < batch.received_at - LATE:
        window = {"source": batch.source, "since": batch.time, "until": batch.time}
        transaction.rows("add_late_window", window)


def _receipt(task: Task, at: datetime, row_count: int, *, duplicate: bool) -> Receipt:
    batch = task.batch
    return Receipt(
        id=task.receipt_id,
        source=batch.source,
        host=batch.host.name,
        time=at,
        rows=row_count,
        duplicate=duplicate,
        warnings=batch.warnings,
    )


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

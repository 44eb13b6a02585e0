"""How a document is known again: by the id of its receipt, its key, or its content a moment ago."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ringstats_ts.errors import ConflictingPayload
from ringstats_ts.model import Batch, Receipt
from ringstats_ts.storage.database import Transaction


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
    return [
        Task(batch, str(uuid.uuid4()), None if key is None else f"{key}#{number}", replace_rows)
        for number, batch in enumerate(batches, 1)
    ]


def find_receipt(transaction: Transaction, host_id: int, task: Task) -> Receipt | None:
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
        raise clash(task, key)
    own = str(receipt_id) == task.receipt_id
    return receipt(replace(task, receipt_id=str(receipt_id)), at, row_count, duplicate=not own)


def add_receipt(transaction: Transaction, host_id: int, task: Task, row_count: int) -> Receipt:
    """Write the receipt, and give it as the answer."""
    batch = task.batch
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
    return receipt(task, batch.time, row_count, duplicate=False)


def clash(task: Task, key: str) -> ConflictingPayload:
    """The error for a key that is taken by another document."""
    if key.startswith("key:"):
        return ConflictingPayload(
            "This Idempotency-Key was used for another document.", "Make a new key for each document."
        )
    batch = task.batch
    return ConflictingPayload(
        f"Another document is stored for host {batch.host.name} at {batch.time.isoformat()}."
    )


def receipt(task: Task, at: datetime, row_count: int, *, duplicate: bool) -> Receipt:
    """The answer for a task."""
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

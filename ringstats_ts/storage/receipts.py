"""How a document is known again: by the id of its receipt, its key, or its content a moment ago."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

from ringstats_ts.errors import ConflictingPayload
from ringstats_ts.model import Batch, Receipt
from ringstats_ts.storage.rejects import bad_lines_told

_KEPT = {
    None: "",
    True: " `tsstats rejects list` shows them.",
    False: " There are too many rejects to keep them: `tsstats rejects drop` makes room; send the log again.",
}


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to be stored, and how to know it again.

    `sent` is what is kept with its bad lines. `unsure`: it may be stored already, for all that is known.
    `instead_of` is the receipt of what was stored of the same document in part, whose place it takes.
    Its arrival may be so far off the database's `clock`; None is any.
    """

    batch: Batch
    receipt_id: str
    key: str | None = None
    replace: bool = False
    sent: Mapping[str, Any] = field(default_factory=dict)
    unsure: bool = False
    instead_of: str | None = None
    clock: timedelta | None = None

    @property
    def live(self) -> bool:
        """Whether nothing but its content tells this document from another one."""
        return self.key is None and not self.batch.time_known and not self.batch.has_events

    @property
    def receipt_key(self) -> str:
        # What was left out of a log may be stored when it comes again, with the same key too.
        if self.key is not None and not self.batch.left_out:
            return f"key:{self.key}"
        if self.batch.has_events:
            return f"content:{self.batch.digest.hex()}{_missing(self.batch)}"
        if self.batch.time_known:
            return f"time:{self.batch.time.isoformat()}"
        return f"live:{self.receipt_id}"

    @property
    def unkept_key(self) -> str:
        """The key of its receipt where not all of it is kept: when it comes again, the rest may be."""
        return f"unkept:{self.receipt_id}"


def _missing(batch: Batch) -> str:
    """Which of its lines and rows a log is without, as it is another one with them; nothing if it has all."""
    numbers = [line.number for line in batch.bad_lines]
    missing = f"{numbers} {sorted(batch.left_out.items())}"
    return f" {blake2b(missing.encode(), digest_size=8).hexdigest()}" if numbers or batch.left_out else ""


def tasks(
    batches: Mapping[int, Batch],
    *,
    key: str | None,
    replace_rows: bool,
    sent: Mapping[str, Any],
    clock: timedelta | None = None,
) -> dict[int, Task]:
    """Give each batch of one body, by its number from 0, its receipt id and its share of the body's key."""
    return {
        number: Task(batch, str(uuid.uuid4()), key_of(key, number), replace_rows, sent, clock=clock)
        for number, batch in batches.items()
    }


def key_of(key: str | None, number: int) -> str | None:
    """The key of a document of a body, by its number from 0: alone and with that key, it is the same one.

    Behind a space, which no sender's key has.
    """
    return key if key is None or number == 0 else f"{key} {number + 1}"


def found_receipt(task: Task, found: Sequence[Any]) -> Receipt | None:
    """The receipt of the same document, from what `find_documents` found of it; None if there is none.

    That of a document which was stored in part is no answer to it. It is this task's own where the
    connection broke after the commit.

    Raises
    ------
    ConflictingPayload
        where the key is another document's.
    """
    receipt_id, key, digest, at, row_count, short_rows = found
    if receipt_id is None:
        return None
    if bytes(digest) != task.batch.digest:
        if task.replace and not key.startswith("key:"):
            return None
        raise clash(task, key)
    own = str(receipt_id) == task.receipt_id
    if short_rows and not own:
        return None
    return receipt(replace(task, receipt_id=str(receipt_id)), at, row_count, duplicate=not own)


def completing(task: Task, found: Sequence[Any]) -> Task:
    """The task, to take the place of what was stored of the same document in part."""
    receipt_id, _, _, at, *_ = found
    batch = replace(task.batch, time=at)
    return replace(task, batch=batch, replace=True, instead_of=str(receipt_id))


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


def receipt(
    task: Task, at: datetime, row_count: int, *, duplicate: bool, kept: bool | None = None
) -> Receipt:
    """The answer for a task. `kept` says whether its bad lines are, where that is known."""
    batch = task.batch
    bad_lines = (f"{bad_lines_told(batch.bad_lines)}{_KEPT[kept]}",) if batch.bad_lines else ()
    return Receipt(
        id=task.receipt_id,
        source=batch.source,
        host=batch.host.name,
        time=at,
        rows=row_count,
        duplicate=duplicate,
        warnings=(*batch.warnings, *bad_lines),
        bad_lines=0 if duplicate else len(batch.bad_lines),
        left_out=sum(batch.left_out.values()),
        span=batch.span if batch.has_events else (at, at),
        rollup=batch.rollup or batch.source,
        shortages=() if duplicate else batch.shortages,
    )

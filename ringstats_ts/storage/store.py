"""Commits batches with their receipts: all of a body in one transaction, each document once.

Two things make a document known again: its receipt, which answers a retry at once, and
the key of its rows, which holds when the receipt has been pruned.

The documents of a body are written together, a table at a time. Where that meets rows
that are there already, or something is refused, all of it is done again with care: one by
one, looking before each.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ringstats_ts.errors import OutcomeUnknown, PayloadError, StorageUnavailable
from ringstats_ts.model import Batch, Receipt, Rows
from ringstats_ts.storage.budget import Allowance, spend
from ringstats_ts.storage.changes import Forgotten, forget_changes
from ringstats_ts.storage.database import Database, Memory, Transaction, quote
from ringstats_ts.storage.failures import Conflict, ConnectionLost
from ringstats_ts.storage.ids import Ids, Spend
from ringstats_ts.storage.receipts import Task, clash, receipt
from ringstats_ts.storage.reporters import Item, Numbered, RefusedTask, enter, look_up
from ringstats_ts.storage.write import write

__all__ = ["RefusedTask", "store"]

ATTEMPTS = 4
"""Times that a transaction is tried when others are in its way or its connection is lost."""


def store(database: Database, todo: Sequence[Task], *, allowance: Allowance | None = None) -> list[Receipt]:
    """Commit all the tasks in one transaction, or none.

    Returns the receipts in order. A document that is stored already has `duplicate`
    set and changes nothing. `allowance` bounds the hosts and entities that are made.

    Raises
    ------
    RefusedTask
        a document was refused.
    StorageUnavailable
        nothing was stored.
    OutcomeUnknown
        the connection was lost at the commit, and the database is away or too slow to tell.
    """
    careful, unclear = False, False
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _try(database, todo, allowance, careful=careful)
        except Conflict:
            careful = True
            database.memory = Memory()
            if attempt == ATTEMPTS:
                raise StorageUnavailable("Other documents of this host are in the way.") from None
        except StorageUnavailable as error:
            # A lost connection may have committed: the retry finds its own receipt then.
            unclear = unclear or (isinstance(error, ConnectionLost) and error.may_have_committed)
            if attempt == ATTEMPTS or not error.retried:
                if unclear:
                    raise OutcomeUnknown from error
                raise
        time.sleep(random.uniform(0.01, 0.1))
    raise AssertionError("unreachable")


def _try(
    database: Database, todo: Sequence[Task], allowance: Allowance | None, *, careful: bool
) -> list[Receipt]:
    try:
        return _store_all(database, todo, allowance, careful=careful)
    except PayloadError as error:
        if careful or len(todo) == 1:
            raise RefusedTask(0, error) from error
    # Which of them it was shows when they are taken one by one.
    return _store_all(database, todo, allowance, careful=True)


def _store_all(
    database: Database, todo: Sequence[Task], allowance: Allowance | None, *, careful: bool
) -> list[Receipt]:
    receipts: dict[int, Receipt] = {}
    ids = None
    try:
        with database.transaction() as transaction:
            ids = Ids(transaction, database.memory, _spender(transaction, allowance, todo))
            numbered = list(enumerate(todo))
            items = enter(transaction, numbered, allowance)
            for run in _runs(numbered, careful=careful):
                if len(run) < len(todo):
                    items = look_up(transaction, run)
                receipts |= _store_run(database, transaction, ids, items, careful=careful)
    except BaseException:
        if ids is not None and ids.made:
            database.memory = Memory()
        raise
    return [receipts[number] for number in range(len(todo))]


def _spender(transaction: Transaction, allowance: Allowance | None, todo: Sequence[Task]) -> Spend:
    def spend_series(series: int) -> None:
        spend(transaction, allowance, at=todo[0].batch.received_at, series=series)

    return spend_series


def _runs(numbered: Numbered, *, careful: bool) -> Iterator[Numbered]:
    """Cut the tasks where one has to see what those before it left.

    That is a correction, a repetition, and a sample that is older than one before it.
    """
    run: list[tuple[int, Task]] = []
    marks: set[tuple[str, ...]] = set()
    latest: dict[str, datetime] = {}
    for number, task in numbered:
        own, identity, at = _marks(task), task.batch.host.identity, task.batch.time
        alone = careful or task.replace or (run and run[-1][1].replace)
        if run and (alone or own & marks or at <= latest.get(identity, datetime.min.replace(tzinfo=UTC))):
            yield run
            run, marks, latest = [], set(), {}
        run.append((number, task))
        marks |= own
        latest[identity] = at
    yield run


def _marks(task: Task) -> set[tuple[str, ...]]:
    """What a repetition of the task would be known by."""
    batch = task.batch
    marks: set[tuple[str, ...]] = {(batch.host.identity, batch.source, task.receipt_key)}
    if task.live:
        marks.add((batch.host.identity, batch.source, batch.digest.hex()))
    return marks


def _store_run(
    database: Database, transaction: Transaction, ids: Ids, items: Sequence[Item], *, careful: bool
) -> dict[int, Receipt]:
    receipts = {item.number: item.receipt for item in items if item.receipt is not None}
    new = [item for item in items if item.receipt is None]
    for item in new if careful else [item for item in new if item.task.replace]:
        try:
            with database.translated():
                receipts[item.number] = _store_one(transaction, ids, item, careful=careful)
                transaction.flush()
        except PayloadError as error:
            raise RefusedTask(item.number, error) from error
    together = [item for item in new if item.number not in receipts]
    if together:
        written = write(transaction, ids, together)
        receipts |= {item.number: done for item, done in zip(together, written, strict=True)}
    return receipts


def _store_one(transaction: Transaction, ids: Ids, item: Item, *, careful: bool) -> Receipt:
    host_id, task = item.reporter.host_id, item.task
    forgotten: Forgotten = {}
    if task.replace:
        forgotten = _drop(transaction, host_id, task.batch)
    elif careful and (found := _existing(transaction, ids, host_id, task)):
        if not task.live:
            return found
        item.task = _moved(transaction, host_id, task)
    (done,) = write(transaction, ids, [item], forgotten)
    return done


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
    ids.resolve([batch])
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

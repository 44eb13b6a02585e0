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

from ringstats_ts.errors import OutcomeUnknown, PayloadError, StorageError, StorageUnavailable
from ringstats_ts.model import Batch, Receipt, Rows
from ringstats_ts.storage.budget import Allowance, Budget
from ringstats_ts.storage.changes import Forgotten, forget_changes
from ringstats_ts.storage.database import Database, Memory, Transaction, quote
from ringstats_ts.storage.failures import Conflict, ConnectionLost
from ringstats_ts.storage.ids import Ids
from ringstats_ts.storage.receipts import Task, clash, receipt
from ringstats_ts.storage.reporters import Item, Numbered, Overtaken, RefusedTask, enter, look_up
from ringstats_ts.storage.write import write

__all__ = ["RefusedTask", "store"]

ATTEMPTS = 4
"""Times that a transaction is tried when others are in its way or its connection is lost."""


def store(database: Database, todo: Sequence[Task], *, allowance: Allowance | None = None) -> list[Receipt]:
    """Commit all the tasks in one transaction, or none.

    Returns the receipts in order. A document that is stored already has `duplicate`
    set and changes nothing. `allowance` bounds the hosts, entities and attributes that are made:
    what is beyond it is left out, and the document goes in without. One that was stored so before
    takes the place of what was stored of it.

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
        except StorageError as error:
            # A lost connection may have committed: the retry finds its own receipt then.
            if isinstance(error, ConnectionLost) and error.may_have_committed:
                unclear, todo = True, [replace(task, unsure=True) for task in todo]
            if isinstance(error, Conflict):
                careful = True
                database.memory = Memory()
            if attempt == ATTEMPTS or not error.retried:
                if unclear:
                    raise OutcomeUnknown from error
                if isinstance(error, Conflict):
                    raise StorageUnavailable("Other documents of this host are in the way.") from None
                raise
        time.sleep(random.uniform(0.01, 0.1))
    raise AssertionError("unreachable")


def _try(
    database: Database, todo: Sequence[Task], allowance: Allowance | None, *, careful: bool
) -> list[Receipt]:
    while True:
        try:
            return _store_all(database, todo, allowance, careful=careful)
        except Overtaken:
            continue
        except PayloadError as error:
            if careful or len(todo) == 1:
                raise RefusedTask(0, error) from error
            break
    # Which of them it was shows when they are taken one by one.
    return _try(database, todo, allowance, careful=True)


def _store_all(
    database: Database, todo: Sequence[Task], allowance: Allowance | None, *, careful: bool
) -> list[Receipt]:
    receipts: dict[int, Receipt] = {}
    ids = None
    try:
        with database.transaction() as transaction:
            budget = Budget(transaction, allowance)
            ids = Ids(transaction, database.memory, budget)
            numbered = list(enumerate(todo))
            items = enter(transaction, numbered, budget, careful=careful)
            for run in _runs(numbered, careful=careful):
                if len(run) < len(todo):
                    items = look_up(transaction, run)
                receipts |= _store_run(transaction, ids, items, careful=careful)
            database.check_room()
    except BaseException:
        if ids is not None and ids.made:
            database.memory = Memory()
        raise
    return [receipts[number] for number in range(len(todo))]


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
    transaction: Transaction, ids: Ids, items: Sequence[Item], *, careful: bool
) -> dict[int, Receipt]:
    receipts = {item.number: item.receipt for item in items if item.receipt is not None}
    new = [item for item in items if item.receipt is None]
    for item in new if careful else [item for item in new if item.task.replace]:
        try:
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
    host_id = item.reporter.host_id
    forgotten: Forgotten = {}
    if item.task.replace:
        forgotten = _drop(transaction, host_id, item.task)
    elif careful and (found := _make_way(transaction, ids, host_id, item)):
        return found
    (done,) = write(transaction, ids, [item], forgotten)
    return done


def _make_way(transaction: Transaction, ids: Ids, host_id: int, item: Item) -> Receipt | None:
    """Look for rows that are stored already under this host and time.

    Where they are the document's own, their receipt was pruned, and this is it. Where they are
    another's, a document that merely arrived then moves to the next free microsecond.

    Raises
    ------
    ConflictingPayload
    """
    while stored := _stored(transaction, host_id, item.task.batch):
        batch = item.task.batch
        if stored == _wanted(ids, batch):
            return receipt(item.task, batch.time, sum(map(len, stored)), duplicate=True)
        if batch.time_known:
            raise clash(item.task, "time:")
        later = replace(batch, time=batch.time + timedelta(microseconds=1))
        item.task = replace(item.task, batch=later)
    return None


def _stored(transaction: Transaction, host_id: int, batch: Batch) -> list[list[str]]:
    """The rows of the batch's host and time, by table, to be compared; none where there are none."""
    found = []
    for part in batch.rows:
        names = ", ".join(map(quote, part.columns))
        rows = transaction.query(
            f"SELECT {names} FROM {quote(part.table)} WHERE {_own(part)}",
            {"host_id": host_id, "time": batch.time, "source": batch.source},
        )
        found.append(sorted(map(repr, rows)))
    return found if any(found) else []


def _wanted(ids: Ids, batch: Batch) -> list[list[str]]:
    """The rows of the batch as `_stored` gives them."""
    (batch,) = ids.resolve([batch])
    return [sorted(map(repr, zip(*ids.columns(part), strict=True))) for part in batch.rows]


def _drop(transaction: Transaction, host_id: int, task: Task) -> Forgotten:
    """Take away what is stored for this host and time, for its correction."""
    batch = task.batch
    at = {"host_id": host_id, "source": batch.source, "time": batch.time, "instead_of": task.instead_of}
    transaction.rows("drop_receipts_at", at)
    forgotten = {
        changes.table: forget_changes(transaction, changes, host_id=host_id, at=batch.time)
        for changes in batch.changes
    }
    for part in batch.rows:
        transaction.query(f"DELETE FROM {quote(part.table)} WHERE {_own(part)}", at)
    return forgotten


def _own(part: Rows) -> str:
    """The condition for the rows of one sample: some tables have those of several sources."""
    shared = " AND source = %(source)s" if "source" in part.columns else ""
    return f"host_id = %(host_id)s AND time = %(time)s{shared}"

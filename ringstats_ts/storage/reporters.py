"""The hosts of the documents that one transaction stores: locked, made where they are new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from ringstats_ts.errors import PayloadError
from ringstats_ts.model import Receipt
from ringstats_ts.storage.budget import Budget
from ringstats_ts.storage.clock import check_skew
from ringstats_ts.storage.database import Transaction
from ringstats_ts.storage.receipts import Task, completing, found_receipt


class RefusedTask(Exception):
    """The task of that number, from 0, was refused; with it all of them."""

    def __init__(self, number: int, error: PayloadError) -> None:
        super().__init__(number, error)
        self.number = number
        self.error = error


class Overtaken(Exception):
    """Another transaction made one of the hosts meanwhile: this one is to begin again, and finds it.

    To wait for its lock with those of the budgets in hand could be for ever.
    """


@dataclass(slots=True)
class Reporter:
    """A host that is locked. `last_seen` is None where this transaction made it."""

    host_id: int
    last_seen: datetime | None
    changes_digests: dict[str, str]


@dataclass(slots=True)
class Item:
    """A task with its number in the body, its host, and its receipt where it was stored before.

    `added` is how many of its events were new; `kept` whether its bad lines are kept, if there are any.
    """

    number: int
    task: Task
    reporter: Reporter
    receipt: Receipt | None
    added: int = 0
    kept: bool | None = None

    @property
    def late(self) -> bool:
        """Whether the host may have a later sample."""
        last_seen = self.reporter.last_seen
        return self.task.replace or (last_seen is not None and self.task.batch.time <= last_seen)


Numbered = Sequence[tuple[int, Task]]


def enter(transaction: Transaction, todo: Numbered, budget: Budget, *, careful: bool) -> list[Item]:
    """Lock the hosts of the tasks, make those that are missing, and look the tasks up.

    With `careful` they are made one by one, so that who is refused can be named.

    Raises
    ------
    RefusedTask
        where a host cannot be made or may not, or a key is another document's.
    PayloadError
        where it is not known which of the hosts it was.
    Overtaken
    """
    first = {task.batch.host.identity: (number, task) for number, task in reversed(todo)}
    identities = {"identities": sorted(first)}
    transaction.later("lock_reporters", identities)
    items = look_up(transaction, todo)
    if len(items) == len(todo):
        return items
    known = {item.task.batch.host.identity for item in items}
    missing = [first[identity] for identity in sorted(first.keys() - known)]
    made: set[str] = set()
    for together in [[one] for one in missing] if careful else [missing]:
        made |= _make(transaction, together, budget)
    if len(made) < len(missing):
        raise Overtaken
    items = look_up(transaction, todo)
    for item in items:
        if item.task.batch.host.identity in made:
            item.reporter.last_seen = None
    return items


def look_up(transaction: Transaction, todo: Numbered) -> list[Item]:
    """What is stored of the tasks' hosts and of the tasks; those of hosts that are not there are left out.

    Raises
    ------
    WrongClock
        where a task arrived at another time than the database has.
    """
    batches = [task.batch for _, task in todo]
    params = {
        "identities": [batch.host.identity for batch in batches],
        "sources": [batch.source for batch in batches],
        "keys": [task.receipt_key for _, task in todo],
        "digests": [batch.digest for batch in batches],
        "received_at": [batch.received_at for batch in batches],
        "live": [task.live for _, task in todo],
    }
    reporters: dict[int, Reporter] = {}
    items = []
    for index, host_id, last_seen, digests, now, *found in sorted(transaction.rows("find_documents", params)):
        number, task = todo[index - 1]
        check_skew(task.batch.received_at - now, task.clock)
        reporter = reporters.setdefault(host_id, Reporter(host_id, last_seen, digests))
        try:
            receipt = found_receipt(task, found) or _own_receipt(transaction, task)
            if receipt is None and found[0] is not None and found[-1]:
                task = completing(task, found)
            items.append(Item(number, task, reporter, receipt))
        except PayloadError as error:
            raise RefusedTask(number, error) from error
    return items


def _own_receipt(transaction: Transaction, task: Task) -> Receipt | None:
    if not (task.unsure and task.batch.bad_lines):
        return None
    found = transaction.rows("find_own_receipt", {"receipt_id": task.receipt_id})
    return found_receipt(task, found[0]) if found else None


def _make(transaction: Transaction, missing: Numbered, budget: Budget) -> set[str]:
    """Make these hosts; the identities of those that nobody else made meanwhile."""
    rows = [
        {
            "identity": task.batch.host.identity,
            "name": task.batch.host.name,
            "tailnet": task.batch.host.tailnet,
            "stable_id": task.batch.host.stable_id,
            "time": task.batch.time,
        }
        for _, task in missing
    ]
    number, _ = missing[0]
    try:
        budget.take_hosts([task.batch.host.identity for _, task in missing])
        made = transaction.rows("add_reporters", {"rows": orjson.dumps(rows).decode()})
    except PayloadError as error:
        if len(missing) > 1:
            raise
        raise RefusedTask(number, error) from error
    return {identity for (identity,) in made}

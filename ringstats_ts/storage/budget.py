"""How much that is new one sender may bring in a day: a mistake or an attack cannot fill the dimensions.

There are three levels, each wider than the one within it: a host of a sender, the sender (its
token, else its address), and all senders together. What is known already costs nothing, and no
budget is read for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ringstats_ts.config import Config
from ringstats_ts.errors import BudgetSpent, StorageError
from ringstats_ts.identity import network_of
from ringstats_ts.model import Attributes, Batch, Changes, Entity, Events, Payload, Rows, Shortage
from ringstats_ts.storage.database import Database, Transaction
from ringstats_ts.words import counted

WIDER = 4
"""So many times what one host may, its sender may; so many times that, all senders together."""

ALL, SENDER, HOST = "all", "sender", "host"

HOSTS, SERIES, ATTRIBUTES = "hosts", "series", "attribute_bytes"

VARIABLES = {HOSTS: "TSSTATS_NEW_HOSTS", SERIES: "TSSTATS_NEW_SERIES", ATTRIBUTES: "TSSTATS_NEW_ATTRIBUTES"}

Part = TypeVar("Part", Rows, Events)

Short = dict[tuple[str, str], int]
"""Rows that are short of something new, by the level and what it ran out of."""

_NAMED = {HOSTS: "new hosts", SERIES: "new series (nodes, paths)", ATTRIBUTES: "bytes of new attributes"}

_WHO = {
    ALL: "All senders together have",
    SENDER: "This sender, with all its hosts, has",
    HOST: "This host has",
}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a sender may still bring. `sender` is its token, else the network of its address."""

    sender: str
    max_hosts: int
    new_hosts: int
    new_series: int
    new_attributes: int

    @classmethod
    def of(cls, payload: Payload, config: Config) -> Allowance:
        """What the settings allow to the sender of this payload."""
        token = payload.token
        return cls(
            sender=f"token {token.token_id}" if token else network_of(payload.sender),
            max_hosts=config.max_hosts,
            new_hosts=config.new_hosts,
            new_series=config.new_series,
            new_attributes=config.new_attributes,
        )

    def limits(self, what: str) -> dict[str, int]:
        """The limit of each level, the widest first. No host has one for hosts: it makes itself alone."""
        if what == HOSTS:
            return {ALL: WIDER * self.new_hosts, SENDER: self.new_hosts}
        own = self.new_series if what == SERIES else self.new_attributes
        return {ALL: WIDER * WIDER * own, SENDER: WIDER * own, HOST: own}


@dataclass(frozen=True, slots=True)
class Purchase:
    """How many of the things asked for may be made; where not all, which level ran out."""

    granted: int
    short: str | None = None


class Budget:
    """What one transaction takes out of the day's budgets. Without an allowance there is no limit.

    Their rows are locked from the first thing that is new to the end of the transaction, the widest
    first: no two transactions wait for each other, and none overshoots. Who rolls back has spent nothing.
    """

    def __init__(self, transaction: Transaction, allowance: Allowance | None) -> None:
        self._transaction = transaction
        self._allowance = allowance

    def take(self, host: str, what: str, costs: Sequence[int]) -> Purchase:
        """Pay for things that a host names, before they are made: as many of the first as can be afforded."""
        allowance = self._allowance
        if allowance is None or not costs:
            return Purchase(len(costs))
        rows = {"sender": allowance.sender, "host": host}
        locked = self._transaction.rows("lock_budgets", rows)
        spent = {level: dict(zip(VARIABLES, row, strict=True)) for level, *row in locked}
        limits = allowance.limits(what)
        room = {level: limit - spent[level][what] for level, limit in limits.items()}
        short = min(room, key=lambda level: room[level])
        granted = _affordable(costs, room[short])
        price = dict.fromkeys(VARIABLES, 0) | {what: sum(costs[:granted])}
        lacking = len(costs) - granted
        self._transaction.later("spend_budgets", rows | price)
        if not lacking:
            return Purchase(granted)
        self._transaction.later("note_shortage", _shortage(allowance.sender, host, short, what, lacking))
        return Purchase(granted, short)

    def take_hosts(self, identities: Sequence[str]) -> None:
        """Pay for hosts; they may be made when it returns.

        Raises
        ------
        BudgetSpent
            and the transaction is to be rolled back.
        """
        allowance = self._allowance
        if allowance is None:
            return
        bought = self.take(identities[0], HOSTS, [1] * len(identities))
        if bought.short is not None:
            raise spent_error(allowance, bought.short, HOSTS)
        # Behind the lock on the budget of all, so that it sees whom the transaction before made.
        ((known,),) = self._transaction.rows("count_hosts", {"limit": allowance.max_hosts})
        if known + len(identities) > allowance.max_hosts:
            raise BudgetSpent(
                f"No more than {allowance.max_hosts:,} hosts may report.",
                "Hosts that are known already are still taken. Is `host` a name that stays the same? "
                "If so, raise TSSTATS_MAX_HOSTS.",
                level=ALL,
                what=HOSTS,
            )

    def spent(self, level: str, what: str) -> BudgetSpent:
        """The error that says which level ran out of what."""
        assert self._allowance is not None
        return spent_error(self._allowance, level, what)


def note_refused(database: Database, allowance: Allowance, host: str, error: BudgetSpent) -> None:
    """Count a document that was refused: with its transaction went the note of it."""
    with suppress(StorageError), database.transaction() as transaction:
        transaction.rows("lock_budgets", {"sender": allowance.sender, "host": host})
        transaction.rows("note_shortage", _shortage(allowance.sender, host, error.level, error.what, 1))


def spent_error(allowance: Allowance, level: str, what: str) -> BudgetSpent:
    """The error for what exceeds the budget of a level."""
    limit = allowance.limits(what)[level]
    return BudgetSpent(
        f"{_WHO[level]} brought {limit:,} {_NAMED[what]} today; more are not taken.",
        f"What is known already is still taken. Try again tomorrow (UTC), or raise {VARIABLES[what]}.",
        level=level,
        what=what,
    )


def _affordable(costs: Sequence[int], room: int) -> int:
    """How many of the first things cost no more than there is."""
    for number, cost in enumerate(costs):
        room -= cost
        if room < 0:
            return number
    return len(costs)


def _shortage(sender: str, host: str, level: str, what: str, lacking: int) -> dict[str, Any]:
    short = {f"short_{name}": lacking if name == what else 0 for name in VARIABLES}
    return {"level": level, "sender": sender, "host": host} | short


@dataclass(slots=True)
class Denied:
    """What a transaction may not make, with the level that ran out: entities, and digests of attributes."""

    entities: dict[Entity, str] = field(default_factory=dict)
    attributes: dict[bytes, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.entities or self.attributes)

    def cut(self, batch: Batch, spent: Callable[[str, str], BudgetSpent]) -> Batch:
        """The batch without what may not be made, and with warnings that say so by `spent`.

        Rows about it are left out; what else mentions it does without. Attributes are left out of
        rows, but of events with them: what is stored of an event stays.

        Raises
        ------
        BudgetSpent
            where nothing of it would be left.
        """
        short: Short = {}
        rows = tuple(self._cut(part, short, whole=False) for part in batch.rows)
        events = tuple(self._cut(part, short, whole=True) for part in batch.events)
        changes = tuple(self._changes(part) for part in batch.changes)
        if not short:
            return replace(batch, changes=changes)
        parts: tuple[Rows | Events, ...] = (*rows, *events)
        if not any(part.rows for part in parts if not part.beside):
            raise spent(*next(iter(short)))
        shortages = tuple(Shortage(*key, count) for key, count in short.items())
        warnings = (*batch.warnings, *(_warning(shortage, spent) for shortage in shortages))
        return replace(
            batch, rows=rows, events=events, changes=changes, shortages=shortages, warnings=warnings
        )

    def _cut(self, part: Part, short: Short, *, whole: bool) -> Part:
        about = part.columns.index(part.about) if part.about is not None else None
        kept = []
        for row in part.rows:
            lacks = {key for cell in row if (key := self._short_of(cell)) is not None}
            for key in lacks:
                short[key] = short.get(key, 0) + 1
            if not lacks or not (whole or self._is_denied(row, about)):
                kept.append(row)
        return part if len(kept) == len(part.rows) else replace(part, rows=kept)

    def _is_denied(self, row: tuple[Any, ...], about: int | None) -> bool:
        return about is not None and row[about] in self.entities

    def _short_of(self, cell: Any) -> tuple[str, str] | None:
        """The level and what it ran out of, where the cell may not be made."""
        if type(cell) is Entity and cell in self.entities:
            return self.entities[cell], SERIES
        if type(cell) is Attributes and cell.digest in self.attributes:
            return self.attributes[cell.digest], ATTRIBUTES
        return None

    def _changes(self, part: Changes) -> Changes:
        kept = [row for row in part.rows if row[0] is None or row[0] not in self.entities]
        return part if len(kept) == len(part.rows) else replace(part, rows=kept)


def _warning(shortage: Shortage, spent: Callable[[str, str], BudgetSpent]) -> str:
    rows = counted(shortage.rows, "row")
    done = "Left out what is new in" if shortage.what == SERIES else "Left out the attributes of"
    again = f"Send the document again tomorrow (UTC), or raise {VARIABLES[shortage.what]}."
    return f"{done} {rows}. {spent(shortage.level, shortage.what).message} {again}"

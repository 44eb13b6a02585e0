"""Ids of entities and attributes: looked up once, made where they are missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import orjson

from ringstats_ts.model import Attributes, Batch, Entity, Events, Rows
from ringstats_ts.storage.budget import ATTRIBUTES, SERIES, Budget, Denied
from ringstats_ts.storage.database import Memory, Transaction

REMEMBERED = 50_000
"""Ids kept in memory per connection and kind; at the limit the memory starts afresh."""

Key = tuple[str, ...]
Column = tuple[type, Sequence[Any]]
Wanted = dict[str, dict[Key, Entity]]

Owners = dict[Entity | bytes, Batch]
"""The batch that names an entity, or attributes by their digest, which are not in memory."""

Name = TypeVar("Name", Entity, bytes)

EMPTY = Attributes(blake2b(b"{}", digest_size=16).digest(), {})
"""What a row has whose own attributes may not be made."""


class Ids:
    """The ids that one transaction needs.

    Those that it makes itself are remembered at once. Where it is rolled back after it
    `made` any, the memory has to be dropped: it would give them to rows that nobody has.
    What the `budget` has no room for is not made, nor asked for again in this transaction.
    """

    def __init__(self, transaction: Transaction, memory: Memory, budget: Budget) -> None:
        self._transaction = transaction
        self._memory = memory
        self._budget = budget
        self._columns: dict[int, list[Column]] = {}
        self._denied = Denied()
        self.made = 0

    def resolve(self, batches: Sequence[Batch]) -> list[Batch]:
        """Find or make every id that the batches' rows mention, and the entities of their changes.

        Returns the batches as they can be stored: without what the budget has no room for.

        Raises
        ------
        BudgetSpent
            where nothing of one would be left.
        """
        self._make_room()
        self._note_columns(batches)
        entities, attributes, owners = self._unknown(batches)
        for dimension in sorted(entities):
            self._resolve_entities(dimension, entities[dimension], batches[0], owners)
        if attributes:
            self._resolve_attributes(attributes, owners)
        if self._denied.attributes:
            self._make_attributes([EMPTY])
        if not self._denied:
            return list(batches)
        cut = [self._denied.cut(batch, self._budget.spent) for batch in batches]
        self._note_columns(cut)
        return cut

    def _note_columns(self, batches: Sequence[Batch]) -> None:
        self._columns = {id(part): _apart(part) for batch in batches for part in batch.parts}

    def resolve_facts(self, batch: Batch, facts: Iterable[Any]) -> None:
        """Find or make the ids of what these facts of its changes name."""
        entities: Wanted = {}
        self._note_unknown(entities, [fact for fact in facts if type(fact) is Entity])
        owners: Owners = dict.fromkeys((e for found in entities.values() for e in found.values()), batch)
        for dimension in sorted(entities):
            self._resolve_entities(dimension, entities[dimension], batch, owners)

    def columns(self, part: Rows | Events) -> list[Sequence[Any]]:
        """The columns of the rows, which were resolved, as they are stored: ids in place of names."""
        return [self._stored(kind, cells) for kind, cells in self._columns[id(part)]]

    def cell(self, value: Any) -> Any:
        """The value as it is stored: an id in place of an entity."""
        return self._memory.entities[value.dimension].get(value.key) if type(value) is Entity else value

    def entities(self, entities: Sequence[Entity]) -> list[int]:
        """The ids of entities of one dimension."""
        if not entities:
            return []
        known = self._memory.entities[entities[0].dimension]
        return [known[entity.key] for entity in entities]

    def _stored(self, kind: type, cells: Sequence[Any]) -> Sequence[Any]:
        if kind is Attributes:
            attributes, empty = self._memory.attributes, self._memory.attributes.get(EMPTY.digest)
            return [None if cell is None else attributes.get(cell.digest, empty) for cell in cells]
        if kind is Entity:
            known = self._memory.entities[next(cell.dimension for cell in cells if cell is not None)]
            return [None if cell is None else known.get(cell.key) for cell in cells]
        return cells

    def _unknown(self, batches: Sequence[Batch]) -> tuple[Wanted, dict[bytes, Attributes], Owners]:
        """What the batches mention and is not in memory, each with the batch that names it."""
        entities: Wanted = {}
        attributes: dict[bytes, Attributes] = {}
        owners: Owners = {}
        for batch in batches:
            own_entities: Wanted = {}
            own_attributes = self._unknown_of(batch, own_entities)
            for dimension, found in own_entities.items():
                entities.setdefault(dimension, {}).update(found)
                owners |= dict.fromkeys(found.values(), batch)
            attributes |= own_attributes
            owners |= dict.fromkeys(own_attributes, batch)
        return entities, attributes, owners

    def _unknown_of(self, batch: Batch, entities: Wanted) -> dict[bytes, Attributes]:
        """Note the entities, and give the attributes, that one batch mentions and that are not in memory."""
        attributes: dict[bytes, Attributes] = {}
        known, denied = self._memory.attributes, self._denied.attributes
        for kind, cells in (column for part in batch.parts for column in self._columns[id(part)]):
            if kind is Entity:
                self._note_unknown(entities, cells)
            elif kind is Attributes:
                attributes |= {
                    c.digest: c
                    for c in cells
                    if c is not None and c.digest not in known and c.digest not in denied
                }
        for changes in batch.changes:
            self._note_unknown(entities, [entity for entity, _, _ in changes.rows])
        return attributes

    def _note_unknown(self, wanted: Wanted, entities: Sequence[Entity | None]) -> None:
        """Note those that are not in memory. They are of one dimension, but for facts, which are few."""
        for dimension in {entity.dimension for entity in entities if entity is not None}:
            known = self._memory.entities.setdefault(dimension, {})
            wanted.setdefault(dimension, {}).update(
                {
                    e.key: e
                    for e in entities
                    if e is not None
                    and e.key not in known
                    and e.dimension == dimension
                    and e not in self._denied.entities
                }
            )

    def _make_room(self) -> None:
        memories: list[dict[Any, int]] = [*self._memory.entities.values(), self._memory.attributes]
        for known in memories:
            if len(known) > REMEMBERED:
                known.clear()

    def _resolve_entities(
        self, dimension: str, wanted: Mapping[Key, Entity], batch: Batch, owners: Owners
    ) -> None:
        known = self._memory.entities[dimension]
        self._find(dimension, wanted)
        # In the order of the documents: where there is not room for all, the reporter goes before its peers.
        missing = self._affordable([one for key, one in wanted.items() if key not in known], owners)
        if not missing:
            return
        rows = [{"key": entity.key, **entity.fields} for entity in missing]
        made = self._transaction.rows(f"add_{dimension}", {"rows": _json(rows), "time": batch.time})
        self.made += len(made)
        known |= {tuple(key): entity_id for *key, entity_id in made}
        self._find(dimension, wanted)

    def _find(self, dimension: str, wanted: Iterable[Key]) -> None:
        known = self._memory.entities[dimension]
        if keys := [key for key in wanted if key not in known]:
            found = self._transaction.rows(f"find_{dimension}", {"keys": _json(keys)})
            known |= {tuple(key): entity_id for *key, entity_id in found}

    def _affordable(self, missing: Sequence[Entity], owners: Owners) -> list[Entity]:
        """Those that there is room for in the budgets of the hosts that name them."""
        bought: list[Entity] = []
        for host, own in _by_host(missing, owners).items():
            purchase = self._budget.take(host, SERIES, [1] * len(own))
            bought += own[: purchase.granted]
            if purchase.short is not None:
                self._denied.entities |= dict.fromkeys(own[purchase.granted :], purchase.short)
        return bought

    def _affordable_attributes(self, missing: Sequence[Attributes], owners: Owners) -> list[Attributes]:
        """Those that there is room for in the budgets of the hosts that bring them."""
        by_digest = {part.digest: part for part in missing}
        bought: list[bytes] = []
        for host, own in _by_host(list(by_digest), owners).items():
            sizes = [len(_json(by_digest[digest].document)) for digest in own]
            purchase = self._budget.take(host, ATTRIBUTES, sizes)
            bought += own[: purchase.granted]
            if purchase.short is not None:
                self._denied.attributes |= dict.fromkeys(own[purchase.granted :], purchase.short)
        return [by_digest[digest] for digest in bought]

    def _resolve_attributes(self, wanted: Mapping[bytes, Attributes], owners: Owners) -> None:
        known = self._memory.attributes
        self._find_attributes(wanted)
        missing = [one for digest, one in wanted.items() if digest not in known]
        if missing:
            self._make_attributes(self._affordable_attributes(missing, owners))

    def _make_attributes(self, missing: Sequence[Attributes]) -> None:
        known = self._memory.attributes
        missing = [part for part in missing if part.digest not in known]
        if not missing:
            return
        rows = [{"digest": part.digest.hex(), "document": part.document} for part in missing]
        made = self._transaction.rows("add_attributes", {"rows": _json(rows)})
        self.made += len(made)
        known |= {bytes(digest): attribute_id for digest, attribute_id in made}
        self._find_attributes([part.digest for part in missing])

    def _find_attributes(self, wanted: Iterable[bytes]) -> None:
        known = self._memory.attributes
        if digests := [digest for digest in wanted if digest not in known]:
            found = self._transaction.rows("find_attributes", {"digests": digests})
            known |= {bytes(digest): attribute_id for digest, attribute_id in found}


def _apart(part: Rows | Events) -> list[Column]:
    """The columns of the rows, each with the kind of its cells: beside None it holds one."""
    return [
        (type(next((cell for cell in column if cell is not None), None)), column)
        for column in zip(*part.rows, strict=True)
    ]


def _by_host(names: Sequence[Name], owners: Owners) -> dict[str, list[Name]]:
    """The names by the host that pays for them."""
    by_host: defaultdict[str, list[Name]] = defaultdict(list)
    for name in names:
        by_host[owners[name].host.identity].append(name)
    return by_host


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()

"""Ids of entities and attributes: looked up once, made where they are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from ringstats_ts.model import Attributes, Batch, Entity, Events, Rows
from ringstats_ts.storage.database import Memory, Transaction

REMEMBERED = 50_000
"""Ids kept in memory per connection and kind; at the limit the memory starts afresh."""

Key = tuple[str, ...]
Column = tuple[type, Sequence[Any]]
Wanted = dict[str, dict[Key, Entity]]

Spend = Callable[[int], None]
"""Asked for so many new entities before they are made; raises where they are too many."""


class Ids:
    """The ids that one transaction needs.

    Those that it makes itself are remembered at once. Where it is rolled back after it
    `made` any, the memory has to be dropped: it would give them to rows that nobody has.
    """

    def __init__(self, transaction: Transaction, memory: Memory, spend: Spend) -> None:
        self._transaction = transaction
        self._memory = memory
        self._spend = spend
        self._columns: dict[int, list[Column]] = {}
        self.made = 0

    def resolve(self, batches: Sequence[Batch]) -> None:
        """Find or make every id that the batches' rows mention, and the entities of their changes."""
        self._make_room()
        self._columns = {id(part): _apart(part) for batch in batches for part in batch.parts}
        entities, attributes = self._unknown(batches)
        for dimension in sorted(entities):
            self._resolve_entities(dimension, entities[dimension], batches[0])
        if attributes:
            self._resolve_attributes(attributes)

    def resolve_facts(self, batch: Batch, facts: Iterable[Any]) -> None:
        """Find or make the ids of what these facts of its changes name."""
        entities: Wanted = {}
        self._note_unknown(entities, [fact for fact in facts if type(fact) is Entity])
        for dimension in sorted(entities):
            self._resolve_entities(dimension, entities[dimension], batch)

    def columns(self, part: Rows | Events) -> list[Sequence[Any]]:
        """The columns of the rows, which were resolved, as they are stored: ids in place of names."""
        return [self._stored(kind, cells) for kind, cells in self._columns[id(part)]]

    def cell(self, value: Any) -> Any:
        """The value as it is stored: an id in place of an entity."""
        return self._memory.entities[value.dimension][value.key] if type(value) is Entity else value

    def entities(self, entities: Sequence[Entity]) -> list[int]:
        """The ids of entities of one dimension."""
        if not entities:
            return []
        known = self._memory.entities[entities[0].dimension]
        return [known[entity.key] for entity in entities]

    def _stored(self, kind: type, cells: Sequence[Any]) -> Sequence[Any]:
        if kind is Attributes:
            attributes = self._memory.attributes
            return [None if cell is None else attributes[cell.digest] for cell in cells]
        if kind is Entity:
            known = self._memory.entities[next(cell.dimension for cell in cells if cell is not None)]
            return [None if cell is None else known[cell.key] for cell in cells]
        return cells

    def _unknown(self, batches: Sequence[Batch]) -> tuple[Wanted, dict[bytes, Attributes]]:
        """What the batches mention and is not in memory."""
        entities: Wanted = {}
        attributes: dict[bytes, Attributes] = {}
        known = self._memory.attributes
        for kind, cells in (column for columns in self._columns.values() for column in columns):
            if kind is Entity:
                self._note_unknown(entities, cells)
            elif kind is Attributes:
                attributes |= {c.digest: c for c in cells if c is not None and c.digest not in known}
        for changes in (changes for batch in batches for changes in batch.changes):
            self._note_unknown(entities, [entity for entity, _, _ in changes.rows])
        return entities, attributes

    def _note_unknown(self, wanted: Wanted, entities: Sequence[Entity | None]) -> None:
        """Note those that are not in memory. They are of one dimension, but for facts, which are few."""
        for dimension in {entity.dimension for entity in entities if entity is not None}:
            known = self._memory.entities.setdefault(dimension, {})
            wanted.setdefault(dimension, {}).update(
                {
                    e.key: e
                    for e in entities
                    if e is not None and e.key not in known and e.dimension == dimension
                }
            )

    def _make_room(self) -> None:
        memories: list[dict[Any, int]] = [*self._memory.entities.values(), self._memory.attributes]
        for known in memories:
            if len(known) > REMEMBERED:
                known.clear()

    def _resolve_entities(self, dimension: str, wanted: Mapping[Key, Entity], batch: Batch) -> None:
        known = self._memory.entities[dimension]
        self._find(dimension, wanted)
        missing = [wanted[key] for key in sorted(wanted.keys() - known.keys())]
        if not missing:
            return
        self._spend(len(missing))
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

    def _resolve_attributes(self, wanted: Mapping[bytes, Attributes]) -> None:
        known = self._memory.attributes
        self._find_attributes(wanted)
        missing = [wanted[digest] for digest in sorted(wanted.keys() - known.keys())]
        if not missing:
            return
        rows = [{"digest": part.digest.hex(), "document": part.document} for part in missing]
        made = self._transaction.rows("add_attributes", {"rows": _json(rows)})
        self.made += len(made)
        known |= {bytes(digest): attribute_id for digest, attribute_id in made}
        self._find_attributes(wanted)

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


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()

"""Ids of entities and attributes: looked up once, made where they are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeVar

import orjson

from ringstats_ts.model import Attributes, Batch, Entity, Rows
from ringstats_ts.storage.database import Memory, Transaction

Key = TypeVar("Key")
Cell = TypeVar("Cell", Entity, Attributes)

REMEMBERED = 50_000
"""Ids kept in memory per connection and kind; at the limit the memory starts afresh."""


class Ids:
    """The ids that one transaction needs.

    What this transaction made itself is remembered for the next one only by
    `remember`, after the commit: a rolled-back id would be given to rows that nobody has.
    """

    def __init__(self, transaction: Transaction, memory: Memory) -> None:
        self._transaction = transaction
        self._memory = memory
        self._entities: dict[Entity, int] = {}
        self._attributes: dict[bytes, int] = {}

    def resolve(self, batch: Batch) -> None:
        """Find or make every id that the batch mentions."""
        self._resolve_entities(batch)
        self._resolve_attributes(batch)

    def cell(self, value: Any) -> Any:
        """The value as it is stored: an id in place of an entity or attributes."""
        kind = type(value)
        if kind is Entity:
            return self.entity(value)
        if kind is Attributes:
            return self._attributes.get(value.digest) or self._memory.attributes[value.digest]
        return value

    def columns(self, part: Rows) -> list[Sequence[Any]]:
        """The columns of the rows as they are stored."""
        return [self._column(column) for column in zip(*part.rows, strict=True)]

    def _column(self, column: Sequence[Any]) -> Sequence[Any]:
        return list(map(self.cell, column)) if _kind(column) in (Entity, Attributes) else column

    def entity(self, entity: Entity) -> int:
        """The id of the entity."""
        return self._entities.get(entity) or self._memory.entities[entity]

    def remember(self) -> None:
        """Keep the ids for later transactions. Call after the commit only."""
        _remember(self._memory.entities, self._entities)
        _remember(self._memory.attributes, self._attributes)

    def _resolve_entities(self, batch: Batch) -> None:
        wanted = {
            e: e for e in _entities(batch) if e not in self._entities and e not in self._memory.entities
        }
        for dimension, group in groupby(sorted(wanted, key=_order), key=lambda e: e.dimension):
            missing = self._find(dimension, list(group))
            if missing:
                rows = [{"key": entity.key, **entity.fields} for entity in missing]
                self._transaction.rows(f"add_{dimension}", {"rows": _json(rows), "time": batch.time})
                self._find(dimension, missing)

    def _find(self, dimension: str, entities: list[Entity]) -> list[Entity]:
        """Look the entities up; those that are not there."""
        keys = _json([entity.key for entity in entities])
        for *key, entity_id in self._transaction.rows(f"find_{dimension}", {"keys": keys}):
            self._entities[Entity(dimension, tuple(key))] = entity_id
        return [entity for entity in entities if entity not in self._entities]

    def _resolve_attributes(self, batch: Batch) -> None:
        mentioned = {cell.digest: cell for part in batch.rows for cell in _cells(part, Attributes)}
        new = mentioned.keys() - self._attributes.keys() - self._memory.attributes.keys()
        wanted = {digest: mentioned[digest] for digest in new}
        if not wanted:
            return
        self._find_attributes(wanted)
        missing = [part for digest, part in wanted.items() if digest not in self._attributes]
        if missing:
            rows = [{"digest": part.digest.hex(), "document": part.document} for part in missing]
            self._transaction.rows("add_attributes", {"rows": _json(rows)})
            self._find_attributes(wanted)

    def _find_attributes(self, wanted: Mapping[bytes, Attributes]) -> None:
        found = self._transaction.rows("find_attributes", {"digests": list(wanted)})
        self._attributes.update((bytes(digest), attribute_id) for digest, attribute_id in found)


def _remember(memory: dict[Key, int], new: dict[Key, int]) -> None:
    if len(memory) + len(new) > REMEMBERED:
        memory.clear()
    memory.update(new)


def _order(entity: Entity) -> tuple[str, tuple[str, ...]]:
    return entity.dimension, entity.key


def _entities(batch: Batch) -> Iterator[Entity]:
    for part in batch.rows:
        yield from _cells(part, Entity)
    for changes in batch.changes:
        for entity, _, facts in changes.rows:
            yield from (value for value in (entity, *facts.values()) if type(value) is Entity)


def _cells(part: Rows, kind: type[Cell]) -> Iterator[Cell]:
    """The cells of that kind. A column holds one kind and None."""
    for column in zip(*part.rows, strict=True):
        if _kind(column) is kind:
            yield from (cell for cell in column if cell is not None)


def _kind(column: Sequence[Any]) -> type:
    return type(next((cell for cell in column if cell is not None), None))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()

"""Takes the numbers out of a JSON object: each with a name, labels, and its place.

The keys on the way to a number are its name. An array on the way is a label: the value
names the element by its own id, else by its index, so that a name does not depend on how
many elements there are. No two numbers of a document have the same name and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from ringstats_ts.model import JSON

ID_KEYS = ("id", "name", "uuid", "key")
"""What tells the elements of an array apart; the first that all of them have, each another."""

INDEXED = 64
"""Elements at most that are told apart by their index."""

_ID_LENGTH = 200
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a document. `path` are the steps to it, `keys` those through objects."""

    path: tuple[str, ...]
    keys: tuple[str, ...]
    labels: Mapping[str, str]
    value: int | float


def take_numbers(
    document: Mapping[str, JSON], id_keys: Mapping[str, str] | None = None
) -> tuple[list[Number], dict[str, JSON]]:
    """Take the numbers out of an object.

    `id_keys` names the key that tells the elements of a top-level array apart; it is the
    name of the label too.

    Returns
    -------
    The numbers, and the object without them: objects and arrays of which nothing is left
    are gone, arrays of elements with ids are in the order of those.
    """
    taker = _Taker(id_keys or {})
    rest = taker.members(document, _Place())
    return taker.numbers, rest


def dotted(keys: Sequence[str]) -> str:
    """Join the keys with dots. One that is empty, has a dot, or begins with a quote is written as JSON."""
    return ".".join(orjson.dumps(key).decode() if "." in key or key[:1] in ("", '"') else key for key in keys)


@dataclass(frozen=True, slots=True)
class _Place:
    path: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    depth: int = 0

    def member(self, key: str) -> _Place:
        return _Place((*self.path, key), (*self.keys, key), self.labels)

    def element(self, index: int, label: str, value: str) -> _Place:
        path, labels = (*self.path, str(index)), {**self.labels, label: value}
        return replace(self, path=path, labels=labels, depth=self.depth + 1)

    @property
    def label(self) -> str:
        """That of an array here. One right inside another has no key of its own."""
        return dotted(self.keys) + "[]" * self.depth


class _Taker:
    def __init__(self, id_keys: Mapping[str, str]) -> None:
        self._id_keys = id_keys
        self.numbers: list[Number] = []

    def members(self, members: Mapping[str, JSON], place: _Place) -> dict[str, JSON]:
        """What is left of an object."""
        rests = ((key, self._rest(value, place.member(key))) for key, value in members.items())
        return {key: rest for key, rest in rests if rest is not _NOTHING}

    def _rest(self, value: JSON, place: _Place) -> JSON:
        if type(value) in (int, float):
            self.numbers.append(Number(place.path, place.keys, place.labels, value))
            return _NOTHING
        if not value or not isinstance(value, dict | list):
            return value
        if isinstance(value, list):
            return self._elements(value, place)
        return self.members(value, place) or _NOTHING

    def _elements(self, elements: list[JSON], place: _Place) -> JSON:
        own = self._id_keys.get(place.keys[0]) if len(place.keys) == 1 and not place.depth else None
        if own is not None and (ids := _ids(elements, own, numbered=True)):
            return self._named(elements, place, own, ids, own)
        for key in ID_KEYS:
            if ids := _ids(elements, key):
                return self._named(elements, place, key, ids, place.label)
        kinds = {type(element) for element in elements}
        if len(elements) > INDEXED or not (kinds <= {int, float} or kinds <= {dict, list}):
            return elements
        rests = [
            self._rest(element, place.element(index, place.label, str(index)))
            for index, element in enumerate(elements)
        ]
        if all(rest is _NOTHING for rest in rests):
            return _NOTHING
        return [
            type(element)() if rest is _NOTHING else rest
            for element, rest in zip(elements, rests, strict=True)
        ]

    def _named(
        self, elements: list[JSON], place: _Place, key: str, ids: Sequence[str], label: str
    ) -> list[JSON]:
        """What is left of elements that have ids: at least those."""
        rests = []
        for name, index in sorted(zip(ids, range(len(ids)), strict=True)):
            element = elements[index]
            others = {other: value for other, value in element.items() if other != key}
            rests.append({key: element[key]} | self.members(others, place.element(index, label, name)))
        return rests


def _ids(elements: Sequence[JSON], key: str, *, numbered: bool = False) -> list[str]:
    """The ids of the elements, if every one has its own under this key; else none.

    With `numbered` one that repeats has its number behind it, as the mount points of a path have.
    """
    ids: list[str] = []
    for element in elements:
        found = element.get(key) if isinstance(element, dict) else None
        if type(found) not in (str, int) or not 0 < len(str(found)) <= _ID_LENGTH:
            return []
        ids.append(str(found))
    if numbered:
        before = [ids[:place].count(name) for place, name in enumerate(ids)]
        ids = [f"{name} ({count + 1})" if count else name for name, count in zip(ids, before, strict=True)]
    return ids if len(set(ids)) == len(ids) else []

"""Takes the numbers out of a JSON object: each with a name, labels, and its place.

The keys on the way to a number are its name. An array on the way is a label: the value
names the element by its own id, else by its index, so that a name does not depend on how
many elements there are. No two numbers of a document have the same name and labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from ringstats_ts.model import JSON

ID_KEYS = ("id", "name", "uuid", "key", "entity_id", "ifname", "device", "interface", "mountpoint")
"""What tells the elements of an array apart, in whatever case; the first that all have, each another."""

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

    `id_keys` names the key that tells the elements of an array at the top apart, which all of
    them have; it is the name of the label too.

    Returns
    -------
    The numbers, and the object without them: objects and arrays of which nothing is left
    are gone, arrays of elements with ids are in the order of those.
    """
    taker = _Taker(id_keys or {})
    rest = taker.members(document, _Place())
    return taker.numbers, rest


def take_elements(elements: list[JSON]) -> tuple[list[Number], list[JSON]] | None:
    """Take the numbers out of objects that are a document together.

    Returns
    -------
    The numbers, and what is left of the elements, as `take_numbers` gives both. A label has
    the name of the key that tells the elements apart, or is `index`. None where nothing
    tells them apart, as they are many and have no ids.
    """
    if len(elements) > INDEXED and _ids(elements) is None:
        return None
    taker = _Taker({})
    rest = taker.elements(elements, _Place())
    return taker.numbers, [] if rest is _NOTHING else rest


def in_order(elements: list[JSON]) -> list[JSON]:
    """The elements in the order of their ids; as they are where they have none."""
    found = _ids(elements)
    return [elements[index] for index in _order(found[1])] if found else elements


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
        if label in self.labels:
            # An array with the key `index`, in an element that is told by its index.
            label += "[]"
        path, labels = (*self.path, str(index)), {**self.labels, label: value}
        return replace(self, path=path, labels=labels, depth=self.depth + 1)

    def label(self, key: str = "index") -> str:
        """That of an array here. One right inside another has no key of its own, and the document no path."""
        return dotted(self.keys) + "[]" * self.depth if self.keys else key


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
            return self.elements(value, place)
        return self.members(value, place) or _NOTHING

    def elements(self, elements: list[JSON], place: _Place) -> JSON:
        """What is left of an array."""
        own = self._id_keys.get(place.keys[0]) if len(place.keys) == 1 and not place.depth else None
        if own is not None:
            names = _each_another(str(element[own]) for element in elements)
            return self._named(elements, place, own, names, own)
        if found := _ids(elements):
            return self._named(elements, place, *found, place.label(found[0]))
        kinds = {type(element) for element in elements}
        if len(elements) > INDEXED or not (kinds <= {int, float} or kinds <= {dict, list}):
            return elements
        rests = [
            self._rest(element, place.element(index, place.label(), str(index)))
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
        for index in _order(ids):
            element = elements[index]
            others = {other: value for other, value in element.items() if other != key}
            rests.append({key: element[key]} | self.members(others, place.element(index, label, ids[index])))
        return rests


def _ids(elements: Sequence[JSON]) -> tuple[str, list[str]] | None:
    """The key under which every element has an id of its own, and these; None where there is no such key."""
    for key in _id_keys(elements[0]):
        ids = [str(each[key]) for each in elements if isinstance(each, dict) and _is_id(each.get(key))]
        if len(set(ids)) == len(elements):
            return key, ids
    return None


def _id_keys(element: JSON) -> list[str]:
    """The keys of an element that may tell it from others, best first; in lower case before in others."""
    found = [key for key in element if key.lower() in ID_KEYS] if isinstance(element, dict) else []
    return sorted(found, key=lambda key: (ID_KEYS.index(key.lower()), key.swapcase()))


def _is_id(value: JSON) -> bool:
    """Whether it may tell an element from the others: a string or an integer, and not too long."""
    return type(value) in (str, int) and 0 < len(str(value)) <= _ID_LENGTH


def _order(ids: Sequence[str]) -> list[int]:
    return sorted(range(len(ids)), key=ids.__getitem__)


def _each_another(names: Iterable[str]) -> list[str]:
    """The names; one that repeats has its number behind it, as the mount points of a path have."""
    ids: dict[str, None] = {}
    counts = Counter[str]()
    for name in names:
        found = name
        while found in ids:
            counts[name] += 1
            found = f"{name} ({counts[name] + 1})"
        ids[found] = None
    return list(ids)

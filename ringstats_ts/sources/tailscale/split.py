"""An object of the document, taken apart into columns and attributes.

The attributes hold every key that has no column, as it was sent, and under keys that
begin with $ what is needed to put the columns back to where they were:

`$absent`
    keys with a column that were not in the object (sorted).
`$raw`
    key to value: what the column would not give back, and keys that begin with $.
`$zone`
    key to form (see `times`): times that are not written in Z.

A column gives back its value; NULL gives Go's zero time, "" or null, by the kind of
the field. The SQL function `tailscale_fields` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.limits import pointer
from ringstats_ts.model import JSON
from ringstats_ts.sources.times import ZERO, read_time

Path = tuple[str, ...]

_ABSENT = object()
_INT64 = range(-(2**63), 2**63)
COUNTER = range(2**63)
"""What a counter may be."""


def refuse(path: Path, complaint: str) -> NoReturn:
    """Say that the value at `path` cannot be stored."""
    raise UnstorablePayload(
        f"{'.'.join(path)} {complaint}. Send the tool's output unchanged.", pointer=pointer(path)
    )


def kind(value: JSON) -> str:
    """Name the type of a JSON value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def members(fields: Mapping[str, JSON], key: str, path: Path) -> Mapping[str, JSON] | None:
    """Read a field that is an object, null or absent."""
    value = fields.get(key)
    if value is None or isinstance(value, dict):
        return value
    refuse((*path, key), f"is {kind(value)} where an object is expected")


def text(fields: Mapping[str, JSON], key: str, path: Path) -> str | None:
    """Read a field that is a string, null or absent; an empty one is None."""
    value = fields.get(key)
    if value is None or type(value) is str:
        return value or None
    refuse((*path, key), f"is {kind(value)} where a string is expected")


def flag(fields: Mapping[str, JSON], key: str, path: Path) -> bool | None:
    """Read a field that is true, false, null or absent."""
    value = fields.get(key)
    if value is None or value is True or value is False:
        return value
    refuse((*path, key), f"is {kind(value)} where true or false is expected")


def integer(fields: Mapping[str, JSON], key: str, path: Path) -> int | None:
    """Read a field that is an integer of 64 bits, null or absent."""
    value = fields.get(key)
    return None if value is None else _whole(value, _INT64, (*path, key))


def texts(fields: Mapping[str, JSON], key: str, path: Path) -> list[str] | None:
    """Read a field that is an array of strings, null or absent."""
    value = fields.get(key)
    if value is None:
        return None
    if type(value) is not list:
        refuse((*path, key), f"is {kind(value)} where an array is expected")
    for index, member in enumerate(value):
        if type(member) is not str:
            refuse((*path, key, str(index)), f"is {kind(member)} where a string is expected")
    return value


def time(fields: Mapping[str, JSON], key: str, path: Path) -> datetime | None:
    """Read a field that is a time, null or absent; one never set is None."""
    value = fields.get(key)
    if value in (None, "", ZERO):
        return None
    return _time(value, (*path, key))[0]


class Split:
    """Takes the keys that have a column out of one object.

    Each method reads one key, gives the value for its column, and notes what the column
    alone would not give back.
    """

    __slots__ = ("_absent", "_fields", "_path", "_raw", "_rest", "_zone")

    def __init__(self, fields: Mapping[str, JSON], path: Path, known: frozenset[str]) -> None:
        self._fields = fields
        self._path = path
        self._rest = dict(fields)
        self._absent: list[str] = []
        self._raw: dict[str, JSON] = {}
        self._zone: dict[str, str] = {}
        if not fields.keys() <= known:
            for key in [key for key in fields if key.startswith("$")]:
                self._raw[key] = self._rest.pop(key)

    def text(self, key: str) -> str | None:
        """A string; NULL gives back ""."""
        value = self._rest.pop(key, _ABSENT)
        if type(value) is str:
            return value or None
        self._null(key, value)
        return text(self._fields, key, self._path)

    def flag(self, key: str) -> bool | None:
        """True or false; NULL gives back null."""
        value = self._rest.pop(key, _ABSENT)
        if value is True or value is False:
            return value
        if value is _ABSENT:
            self._absent.append(key)
        return flag(self._fields, key, self._path)

    def counter(self, key: str) -> int | None:
        """A count of bytes; NULL gives back null."""
        value = self._rest.pop(key, _ABSENT)
        if type(value) is int and 0 <= value < COUNTER.stop:
            return value
        if value is _ABSENT:
            self._absent.append(key)
            return None
        return None if value is None else _whole(value, COUNTER, (*self._path, key))

    def texts(self, key: str) -> list[str] | None:
        """An array of strings; NULL gives back null."""
        if self._rest.pop(key, _ABSENT) is _ABSENT:
            self._absent.append(key)
        return texts(self._fields, key, self._path)

    def time(self, key: str, usual: str = "Z") -> datetime | None:
        """A time; NULL gives back the zero time. `usual` is the form that needs no note."""
        value = self._rest.pop(key, _ABSENT)
        if value == ZERO:
            return None
        if value is _ABSENT or value is None or value == "":
            self._null(key, value)
            return None
        found, form = _time(value, (*self._path, key))
        if form is None:
            self._raw[key] = value
        elif form != usual and found is not None:
            self._zone[key] = form
        return found

    def has(self, key: str) -> bool:
        """Whether the key was in the object."""
        return key in self._fields

    def drop(self, key: str) -> JSON:
        """Take out a key whose content is stored elsewhere; None where it is absent."""
        value = self._rest.pop(key, _ABSENT)
        if value is _ABSENT:
            self._absent.append(key)
            return None
        return value

    def keep(self, key: str) -> None:
        """Note a value, if there was one, that its column does not give back."""
        if key in self._fields:
            self._raw[key] = self._fields[key]

    def write(self, key: str, form: str) -> None:
        """Note the form of a time."""
        self._zone[key] = form

    def rest(self) -> dict[str, JSON]:
        """Give the attributes: what was not taken out, and the notes."""
        rest = self._rest
        if self._absent:
            rest["$absent"] = sorted(self._absent)
        if self._raw:
            rest["$raw"] = self._raw
        if self._zone:
            rest["$zone"] = self._zone
        return rest

    def _null(self, key: str, value: object) -> None:
        """Note a key that is absent, or whose value NULL does not give back."""
        if value is _ABSENT:
            self._absent.append(key)
        else:
            self._raw[key] = value


def _whole(value: JSON, allowed: range, path: Path) -> int:
    if type(value) is float and (value >= allowed.stop or value <= allowed.start - 1):
        refuse(path, "is out of range")
    if type(value) is not int:
        refuse(path, f"is {kind(value)} where an integer is expected")
    if value not in allowed:
        refuse(path, "is negative" if allowed is COUNTER and value < 0 else "is out of range")
    return value


def _time(value: JSON, path: Path) -> tuple[datetime | None, str | None]:
    if type(value) is not str:
        refuse(path, f"is {kind(value)} where a time is expected")
    found = read_time(value)
    if found is None:
        refuse(path, "is not a time with a zone (RFC 3339)")
    return found

"""An object of the API, taken apart into columns and attributes.

Fields come and go with versions, so NULL is what stands for an absent one. The attributes
hold every key that has no column, as it was sent, and under keys that begin with $ what
the columns alone would not give back:

`$raw`
    key to value: null and "", which are NULL in the column too, a time that is none, a
    number in a column of text, and keys that begin with $.
`$zone`
    key to form (see `ringstats_ts.sources.times`): times that are not written in
    Z. The form `protobuf` is an object with `seconds` and `nanos`.
`$around`
    what is around a device that is no part of a listing, which has it in a row of its own;
    without the time that is the row's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from ringstats_ts.limits import pointer
from ringstats_ts.model import JSON
from ringstats_ts.sources.tailscale import split
from ringstats_ts.sources.tailscale.split import Path, kind, refuse
from ringstats_ts.sources.times import read_time, read_unix

PROTOBUF = "protobuf"
AROUND = "$around"

_STAMP = {"seconds", "nanos"}
_NANOS = range(1_000_000_000)


class Fields:
    """Takes the keys that have a column out of one object.

    Each method reads the first of its keys that is there, and gives the value for the
    column. The keys are names of one field: what versions and writers call it. Those behind
    the first stay in the attributes.
    """

    __slots__ = ("_given", "_raw", "_rest", "_zone", "no_times", "path")

    def __init__(self, given: Mapping[str, JSON], path: Path) -> None:
        self._given = given
        self.path = path
        self._rest = {key: value for key, value in given.items() if not key.startswith("$")}
        self._raw = {key: value for key, value in given.items() if key.startswith("$")}
        self._zone: dict[str, str] = {}
        self.no_times: list[str] = []
        """JSON pointers to the times that are none."""

    def has(self, key: str) -> bool:
        """Whether the key was in the object."""
        return key in self._given

    def look(self, *keys: str) -> JSON:
        """The value of a field, which stays where it is; None where it is absent."""
        return next((self._given[key] for key in keys if key in self._given), None)

    def text(self, *keys: str) -> str | None:
        """A string."""
        key, value = self._take(keys)
        return None if key is None else split.text({key: value}, key, self.path)

    def flag(self, *keys: str) -> bool | None:
        """True or false."""
        key, value = self._take(keys)
        return None if key is None else split.flag({key: value}, key, self.path)

    def texts(self, *keys: str) -> list[str] | None:
        """An array of strings."""
        key, value = self._take(keys)
        return None if key is None else split.texts({key: value}, key, self.path)

    def identifier(self, *keys: str) -> str | None:
        """A string, or a number that Go wrote without the quotation marks of protobuf's JSON."""
        key, value = self._take(keys)
        if type(value) is int:
            self._raw[str(key)] = value
            return str(value)
        return None if key is None else split.text({key: value}, key, self.path)

    def time(self, *keys: str) -> datetime | None:
        """A time; None for one that was never set, and for what is none."""
        key, value = self._take(keys)
        if key is None:
            return None
        if type(value) not in (str, dict):
            refuse((*self.path, key), f"is {kind(value)} where a time is expected")
        found = _read_stamp(value) if type(value) is dict else read_time(value)
        time, form = found or (None, None)
        if time is None or form is None:
            self._raw[key] = value
        elif form != "Z":
            self._zone[key] = form
        if found is None:
            self.no_times.append(pointer((*self.path, key)))
        return time

    def keep(self, key: str) -> None:
        """Note a value that its column does not give back."""
        self._raw[key] = self._given[key]

    def note_time(self, key: str, form: str) -> None:
        """Take out a time that is stored elsewhere, and note its form."""
        del self._rest[key]
        self._zone[key] = form

    def rest(self) -> dict[str, JSON]:
        """Give the attributes: what was not taken out, and the notes."""
        notes = {"$raw": self._raw, "$zone": self._zone}
        return self._rest | {key: note for key, note in notes.items() if note}

    def _take(self, keys: tuple[str, ...]) -> tuple[str | None, JSON]:
        """The key that is there, and its value; no key where the column is NULL."""
        for key in keys:
            if key in self._rest:
                value = self._rest.pop(key)
                if value is not None and value != "":
                    return key, value
                self._raw[key] = value
                return None, None
        return None, None


def unknown(given: JSON, known: frozenset[str], where: str) -> Iterator[str]:
    """Yield the paths of the unknown fields of what may be an object."""
    if isinstance(given, dict):
        for key in given.keys() - known:
            yield f"{where}.{key}" if where else key


def _read_stamp(stamp: Mapping[str, Any]) -> tuple[datetime | None, str | None] | None:
    """Read google.protobuf.Timestamp as encoding/json writes it, digits behind the microsecond cut off."""
    seconds, nanos = stamp.get("seconds", 0), stamp.get("nanos", 0)
    if not stamp or not stamp.keys() <= _STAMP or type(seconds) is not int or type(nanos) is not int:
        return None
    found = read_unix(seconds)
    if found is None or nanos not in _NANOS:
        return None
    time = found[0] + timedelta(microseconds=nanos // 1000)
    # Go's zero time, which is one that was never set.
    return (time, PROTOBUF) if time.year > 1 else (None, None)

"""A datapoint to its value, time, series and labels."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import orjson

from ringstats_ts.model import JSON, Entity
from ringstats_ts.sources.pattoo.forms import HOSTNAME, POINT, Point
from ringstats_ts.sources.samples import exact, series
from ringstats_ts.sources.tailscale.split import Path, refuse

_COUNTERS = frozenset((32, 64))
_NUMBERS = _COUNTERS | {0, 1, 99, 101}
_TEXTS = frozenset((2, None))
"""Types of data: COUNT, COUNT64; INT and FLOAT as they were before 2019-11-16 and are since; STRING, NONE."""

ABOUT = frozenset(
    ("release", "version", "pattoo_agent_id", "pattoo_agent_polling_interval", "pattoo_polling_interval")
)
"""What changes with an update or a setting: the agents' own checksum leaves out the first two, too."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS = re.compile(r"\d{1,16}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][-+]?\d{1,3})?", re.ASCII)


def is_number(point: Point) -> bool:
    """Whether its type of data is a number's, and it has a value."""
    return _data_type(point) in _NUMBERS and point.fields.get("pattoo_value") is not None


def is_known(point: Point) -> bool:
    """Whether its type of data is one that agents have ever sent."""
    return _data_type(point) in _NUMBERS | _TEXTS


def read_series(point: Point, *, hostname: bool) -> Entity:
    """What the value is of; `hostname` as for `labels`.

    Raises
    ------
    UnstorablePayload
    """
    name = point.fields.get("pattoo_key")
    if not isinstance(name, str) or not name:
        refuse(point.path, "has no pattoo_key that is a string")
    kind = "counter" if _data_type(point) in _COUNTERS else "gauge"
    return series("pattoo", name, labels(point, hostname=hostname), kind=kind, path=point.path)


def labels(point: Point, *, hostname: bool) -> dict[str, str]:
    """The metadata that tell it from others of its key; the agent's host name only where it is asked for."""
    left_out = POINT | ABOUT if hostname else POINT | ABOUT | {HOSTNAME}
    return {key: text(value) for key, value in point.fields.items() if key not in left_out}


def text(value: JSON) -> str:
    """Metadata as text."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def read_value(point: Point) -> Decimal:
    """The number, which may be written as a string.

    Raises
    ------
    UnstorablePayload
        where it is none, or more than a double precision holds.
    """
    value = point.fields["pattoo_value"]
    if type(value) in (int, float):
        return exact(value)
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        refuse(point.path, "has a pattoo_value that is no number, though its pattoo_data_type says so")
    found, rounded = Decimal(value), float(value)
    if abs(rounded) == float("inf") or (found and not rounded):
        refuse(point.path, "has a pattoo_value that is out of range")
    return exact(found)


def read_time(value: JSON, path: Path) -> datetime:
    """Read milliseconds since 1970.

    Raises
    ------
    UnstorablePayload
    """
    if type(value) is not int and not (isinstance(value, str) and _MILLISECONDS.fullmatch(value)):
        refuse(path, "has a time that is not in milliseconds since 1970")
    try:
        return _EPOCH + timedelta(milliseconds=int(value))
    except OverflowError:
        refuse(path, "has a time that is out of range")


def _data_type(point: Point) -> int | None:
    """Its type of data; -1 for what is none."""
    found = point.fields.get("pattoo_data_type")
    if isinstance(found, str) and found.isascii() and found.isdigit():
        return int(found[:3])
    return found if found is None or type(found) is int else -1

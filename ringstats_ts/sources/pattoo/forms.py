"""The forms of a post: where its datapoints are, and how each is written.

From 2019-11-21 on: an array of objects, at first with plain keys, then with `pattoo_` in
front of them; from 2019-12-08 on every pair of key and value is written once, and a
datapoint is the numbers of its pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ringstats_ts.model import JSON
from ringstats_ts.sources.tailscale.split import Path, kind, refuse

TARGET = "pattoo_agent_polled_target"
HOSTNAME = "pattoo_agent_hostname"

POINT = frozenset(("pattoo_key", "pattoo_value", "pattoo_data_type", "pattoo_timestamp", "pattoo_checksum"))
_AGENT = frozenset(
    (
        HOSTNAME,
        TARGET,
        "pattoo_agent_id",
        "pattoo_agent_program",
        "pattoo_agent_polled_device",
        "pattoo_agent_polling_interval",
        "pattoo_polling_interval",
    )
)


@dataclass(frozen=True, slots=True)
class Point:
    """A datapoint: what the agent says of it, by the names that the latest form has, and where it stands."""

    path: Path
    fields: Mapping[str, JSON]


def points_key(document: Mapping[str, JSON]) -> str | None:
    """The key of the datapoints; None where the document is no post."""
    points = document.get("pattoo_datapoints")
    if isinstance(points, dict):
        known = "pattoo_agent_id" in document and points.keys() >= {"key_value_pairs", "datapoint_pairs"}
        return "pattoo_datapoints" if known else None
    for prefix in ("pattoo_", ""):
        points = document.get(f"{prefix}datapoints")
        head = {f"{prefix}source", f"{prefix}polling_interval"}
        if isinstance(points, list) and head <= document.keys() and _is_point(points, prefix):
            return f"{prefix}datapoints"
    return None


def read_points(document: Mapping[str, JSON], key: str) -> list[Point]:
    """Read the datapoints that are under the key.

    Raises
    ------
    UnstorablePayload
    """
    points = document[key]
    return list(_joined(points, key) if isinstance(points, dict) else _apart(points, key))


def _is_point(points: list[JSON], prefix: str) -> bool:
    """Whether the first is one; an agent that has nothing to tell sends none."""
    keys = {f"{prefix}key", f"{prefix}data_type"}
    return not points or (isinstance(points[0], dict) and keys <= points[0].keys())


def _apart(points: list[JSON], key: str) -> Iterator[Point]:
    for number, point in enumerate(points):
        path = (key, str(number))
        if not isinstance(point, dict):
            refuse(path, f"is {kind(point)} where an object is expected")
        own, metadata = dict(point), None
        for name in ("metadata", "pattoo_metadata"):
            metadata = own.pop(name, None) or metadata
        pairs = [(_prefixed(name, POINT), value) for name, value in own.items()]
        yield Point(path, _fields([*pairs, *_metadata(metadata, (*path, "metadata"))], path))


def _metadata(metadata: JSON, path: Path) -> list[tuple[str, JSON]]:
    parts = [metadata] if isinstance(metadata, dict) else metadata or []
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        refuse(path, "is not an array of objects")
    return [(_prefixed(name, _AGENT), value) for part in parts for name, value in part.items()]


def _joined(points: Mapping[str, JSON], key: str) -> Iterator[Point]:
    pairs = _pairs(points["key_value_pairs"], (key, "key_value_pairs"))
    place = (key, "datapoint_pairs")
    numbers = points["datapoint_pairs"]
    if not isinstance(numbers, list):
        refuse(place, f"is {kind(numbers)} where an array is expected")
    for index, own in enumerate(numbers):
        path = (*place, str(index))
        if not isinstance(own, list):
            refuse(path, f"is {kind(own)} where an array is expected")
        for step, number in enumerate(own):
            if type(number) not in (int, str) or str(number) not in pairs:
                refuse((*path, str(step)), "is not the number of a pair")
        yield Point(path, _fields([pairs[str(number)] for number in own], path))


def _pairs(pairs: JSON, path: Path) -> dict[str, tuple[str, JSON]]:
    if not isinstance(pairs, dict):
        refuse(path, f"is {kind(pairs)} where an object is expected")
    for number, pair in pairs.items():
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            refuse((*path, number), "is not a key and a value")
    return {number: (pair[0], pair[1]) for number, pair in pairs.items()}


def _fields(pairs: Iterable[tuple[str, JSON]], path: Path) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    for name, value in pairs:
        latest = TARGET if name == "pattoo_agent_polled_device" else name
        if found.setdefault(latest, value) != value:
            refuse(path, f"has two values of {name[:60]}")
        if latest not in POINT and isinstance(value, dict | list):
            refuse(path, f"has metadata that is {kind(value)} where a string is expected")
    return found


def _prefixed(name: str, known: frozenset[str]) -> str:
    """The name as later agents write it, where they know it."""
    return f"pattoo_{name}" if f"pattoo_{name}" in known else name

"""Documents as rows of one wide table, by the column names of tailscale-stats.

`Self_RxBytes`, `Self_AllowedIPs_0`, `Peer_nodekey:<hex>_RxBytes`, `User_<id>_LoginName`:
keys joined by `_`, list elements by their index, empty objects and lists left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO

import orjson
import pyarrow as pa

from ringstats_ts.model import JSON

# Values in memory at a time: some 100 bytes each while they are Python objects.
CELLS = 1_000_000

EXACT_IN_DOUBLE = 2**53

Record = dict[str, JSON]


def flatten(document: JSON, name: str = "") -> Iterator[tuple[str, JSON]]:
    """The columns of a document and their values."""
    if isinstance(document, dict):
        children = document.items()
    elif isinstance(document, list):
        children = {str(index): value for index, value in enumerate(document)}.items()
    else:
        yield name, document
        return
    for key, value in children:
        yield from flatten(value, f"{name}_{key}" if name else key)


class Spill:
    """Records on their way to a table whose columns are known only after the last of them.

    They wait in a file, one JSON array each, in the order in which the columns came up;
    only the names and types of the columns are in memory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._kinds: dict[str, set[str]] = {}

    def add(self, record: Record) -> None:
        """Append a record."""
        for name, value in record.items():
            self._kinds.setdefault(name, set()).add(_kind(value))
        values = [record.get(name) for name in self._kinds]
        self._file.write(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))

    @property
    def schema(self) -> pa.Schema:
        """All columns so far, by name."""
        return pa.schema([(name, _type(self._kinds[name])) for name in sorted(self._kinds)])

    def tables(self) -> Iterator[pa.Table]:
        """The records in the order they came, some at a time."""
        schema = self.schema
        places = {name: place for place, name in enumerate(self._kinds)}
        self._file.seek(0)
        size = max(1, CELLS // max(1, len(schema)))
        while lines := list(islice(self._file, size)):
            rows = [orjson.loads(line) for line in lines]
            columns = [_array(rows, places[field.name], field.type) for field in schema]
            yield pa.Table.from_arrays(columns, schema=schema)


def _kind(value: JSON) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() if abs(value) <= EXACT_IN_DOUBLE:
            return "int"
        case int() if -(2**63) <= value < 2**63:
            return "long"
        case float():
            return "float"
        case _:
            return "text"


def _type(kinds: set[str]) -> pa.DataType:
    """The one type that holds all values exactly; text where there is none."""
    known = kinds - {"null"}
    if known == {"bool"}:
        return pa.bool_()
    if known and known <= {"int", "long"}:
        return pa.int64()
    if known and known <= {"int", "float"}:
        return pa.float64()
    return pa.string()


def _array(rows: Sequence[list[JSON]], place: int, kind: pa.DataType) -> pa.Array:
    values = [row[place] if place < len(row) else None for row in rows]
    return pa.array(map(_text, values) if kind == pa.string() else values, kind)


def _text(value: JSON) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()

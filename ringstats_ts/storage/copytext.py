"""Rows in PostgreSQL's text format, made column by column: that is where cells are alike.

COPY in text format is the fastest way in from here: by INSERT (VALUES, unnest of arrays, or
jsonb) the same rows took 2 to 4 times as long on a server, and 1.3 to 1.7 times in the
embedded database. Binary COPY would save the server 1 to 2 microseconds a row and cost about
one here, and the exact type of every column would have to be known. benchmarks/README.md has
the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from types import NoneType
from typing import Any

import orjson

_SPECIAL = "\\\t\n\r"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

# Kinds of cells whose JSON, but for quotes and null, is what PostgreSQL reads.
_PLAIN = (frozenset({int, NoneType}), frozenset({datetime, NoneType}), frozenset({bool, NoneType}))


def copy_text(columns: Sequence[Sequence[Any]]) -> str:
    """The columns as rows for COPY ... FROM STDIN: one a line, tabs between, NULL as \\N."""
    lines = map("\t".join, zip(*map(_column, columns), strict=True))
    return "\n".join([*lines, ""])


def row_text(values: Sequence[Any]) -> list[str | None]:
    """One row as literals for INSERT."""
    return [None if value is None else _FORMATS[type(value)](value) for value in values]


def _column(values: Sequence[Any]) -> Sequence[str]:
    kinds = set(map(type, values))
    if kinds <= {str, NoneType}:
        return _strings(values)
    if any(kinds <= plain for plain in _PLAIN):
        return _plain(values)
    return ["\\N" if value is None else _FORMATS[type(value)](value).translate(_ESCAPES) for value in values]


def _strings(values: Sequence[str | None]) -> Sequence[str]:
    together = "".join(filter(None, values))
    if any(special in together for special in _SPECIAL):
        return ["\\N" if value is None else value.translate(_ESCAPES) for value in values]
    return ["\\N" if value is None else value for value in values]


def _plain(values: Sequence[Any]) -> Sequence[str]:
    """A tenth of the time of isoformat, cell by cell."""
    try:
        encoded = orjson.dumps(values)
    except TypeError:
        return ["\\N" if value is None else _FORMATS[type(value)](value) for value in values]
    return encoded[1:-1].replace(b'"', b"").replace(b"null", b"\\N").decode().split(",")


def _array(values: Sequence[Any]) -> str:
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bytes(value: bytes) -> str:
    return "\\x" + value.hex()


_FORMATS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "t" if value else "f",
    int: str,
    float: repr,
    Decimal: str,
    str: str,
    bytes: _bytes,
    datetime: datetime.isoformat,
    list: _array,
    tuple: _array,
}

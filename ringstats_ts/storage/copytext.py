"""Rows in PostgreSQL's COPY text format, made column by column: that is where cells are alike."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

_SPECIAL = "\\\t\n\r"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_text(columns: Sequence[Sequence[Any]]) -> io.StringIO:
    """The columns as rows for COPY ... FROM STDIN: one a line, tabs between, NULL as \\N."""
    lines = map("\t".join, zip(*map(_column, columns), strict=True))
    return io.StringIO("".join(f"{line}\n" for line in lines))


def _column(values: Sequence[Any]) -> Sequence[str]:
    kinds = set(map(type, values))
    if kinds == {str} and not any(special in "".join(values) for special in _SPECIAL):
        return values
    return [_FORMATS[type(value)](value) for value in values]


def _array(values: Sequence[Any]) -> str:
    """An array literal; its own escapes first, COPY's on top."""
    return _text("{" + ",".join(map(_element, values)) + "}")


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(value: str) -> str:
    return value.translate(_ESCAPES)


_FORMATS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "\\N",
    bool: lambda value: "t" if value else "f",
    int: str,
    float: repr,
    str: _text,
    datetime: datetime.isoformat,
    list: _array,
    tuple: _array,
}

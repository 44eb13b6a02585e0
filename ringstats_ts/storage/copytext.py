"""Rows in PostgreSQL's COPY text format."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_text(rows: Iterable[Iterable[Any]]) -> io.StringIO:
    """The rows as COPY ... FROM STDIN takes them: one a line, tabs between, NULL as \\N."""
    return io.StringIO("".join("\t".join(map(_cell, row)) + "\n" for row in rows))


def _cell(value: Any) -> str:
    return _FORMATS[type(value)](value)


def _array(values: list[Any]) -> str:
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

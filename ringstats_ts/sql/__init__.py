"""Every statement the program sends, by name, from queries.sql.

A statement begins at `-- name: <name>`; the comment lines that follow say what it
is for. Parameters are psycopg2's `%(name)s`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def statements() -> dict[str, str]:
    """All statements by name."""
    text = files(__package__).joinpath("queries.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    names = parts[::2]
    if len(set(names)) != len(names):
        raise ValueError(f"queries.sql has a name twice: {sorted(n for n in names if names.count(n) > 1)}")
    return {name: _body(part) for name, part in zip(names, parts[1::2], strict=True)}


def statement(name: str) -> str:
    """The statement of that name."""
    return statements()[name]


def _body(part: str) -> str:
    lines = (line for line in part.splitlines() if not line.startswith("--"))
    return "\n".join(lines).strip().removesuffix(";")

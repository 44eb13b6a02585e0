"""The law of migrations (migrations/README.md), as far as a file can be held to it without a database."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import sqlparse

MIGRATIONS = Path(__file__).parents[1] / "migrations"
NAMES = sorted(path.stem for path in MIGRATIONS.glob("*.sql") if not path.stem.endswith(".rollback"))


def statements(path: Path) -> list[str]:
    """Split as yoyo does."""
    return [text for text in sqlparse.split(path.read_text(encoding="utf-8")) if text.strip(" \n;")]


def test_numbers_follow_each_other() -> None:
    assert [int(name[:4]) for name in NAMES] == list(range(1, len(NAMES) + 1))


def test_no_rollback_stands_alone() -> None:
    rollbacks = {path.name.removesuffix(".rollback.sql") for path in MIGRATIONS.glob("*.rollback.sql")}

    assert rollbacks == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_name_and_first_line_say_one_purpose(name: str) -> None:
    first_line = (MIGRATIONS / f"{name}.sql").read_text(encoding="utf-8").splitlines()[0]

    assert re.fullmatch(r"\d{4}-[a-z]+(-[a-z0-9]+)+", name)
    assert re.fullmatch(r"-- [A-Z].*\.", first_line)


@pytest.mark.parametrize("name", NAMES)
def test_rollback_has_a_statement_for_each(name: str) -> None:
    forward = statements(MIGRATIONS / f"{name}.sql")
    back = statements(MIGRATIONS / f"{name}.rollback.sql")

    assert len(back) == len(forward)


def test_released_migrations_are_frozen() -> None:
    lines = (MIGRATIONS / "released.sha256").read_text(encoding="utf-8").splitlines()
    released = {name: digest for digest, name in (line.split() for line in lines)}
    actual = {name: hashlib.sha256((MIGRATIONS / name).read_bytes()).hexdigest() for name in released}

    assert actual == released

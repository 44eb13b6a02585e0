"""A person's SQL, read behind a boundary: by the function tsstats_query, or as a login that can only read.

What a statement is, and whether it reads, the server decides.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extensions

from ringstats_ts.errors import ConfigError, QueryError
from ringstats_ts.sql import statement
from ringstats_ts.storage.failures import first_line

MAX_ROWS = 1_000_000
MAX_BYTES = 256 * 1024 * 1024
MAX_SECONDS = 900

BATCH_ROWS = 1000
LESS = "Ask for less, with WHERE, GROUP BY or LIMIT; `tsstats export` writes any number of rows."

_FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",]*))(?:,|\Z)')

_NOT_READING = {"0A000", "25006", "42P11"}
"""SQLSTATEs of what is not one statement that reads."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of a query and the names of their columns."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def read(cursor: psycopg2.extensions.cursor, sql: str) -> Answer:
    """The answer, in an open transaction, which is to be rolled back afterwards.

    Raises
    ------
    psycopg2.Error
        see `refusal`.
    """
    limits = {"query": sql, "max_rows": MAX_ROWS, "max_bytes": MAX_BYTES}
    cursor.execute(statement("query"), limits)
    *found, (_, names, types) = cursor.fetchall()
    casts = [psycopg2.extensions.string_types.get(oid) for oid in types]
    rows = [
        tuple(
            text if text is None or cast is None else cast(text, cursor)
            for text, cast in zip(_fields(row, len(names)), casts, strict=True)
        )
        for row, _, _ in found
    ]
    return Answer(names, rows)


def read_as_login(cursor: psycopg2.extensions.cursor, sql: str) -> Answer:
    """The answer, in an open transaction of a login that may do nothing but read.

    Raises
    ------
    ConfigError
        where the login may do more.
    psycopg2.Error
        see `refusal`.
    """
    if "\0" in sql:
        # The driver would send what stands before it.
        raise QueryError("The query contains a NUL character.")
    cursor.execute(statement("may_do_more"))
    if cursor.fetchall() != [(False,)]:
        raise ConfigError(
            "DATABASE_READ_URI names a role that may do more than read.",
            "Name one that is a member of tsstats_reader and of nothing else.",
        )
    cursor.execute(f"DECLARE rows NO SCROLL CURSOR FOR {sql}")
    rows: list[tuple[Any, ...]] = []
    size = 0
    while True:
        cursor.execute(f"FETCH {BATCH_ROWS} FROM rows")
        columns = [column.name for column in cursor.description or ()]
        batch = cursor.fetchall()
        rows += batch
        size += sum(sys.getsizeof(value) for row in batch for value in row)
        if len(rows) > MAX_ROWS or size > MAX_BYTES:
            raise QueryError(f"The answer has more than {MAX_ROWS:,} rows or {MAX_BYTES:,} bytes.", LESS)
        if len(batch) < BATCH_ROWS:
            return Answer(columns, rows)


def refusal(error: psycopg2.Error) -> QueryError:
    """What the server said, and what is taken instead."""
    hint = None
    if error.pgcode in _NOT_READING:
        hint = "A query is one SELECT, VALUES, TABLE or WITH, in a read-only transaction."
    elif error.pgcode == "54000":
        hint = LESS
    elif error.pgcode == "57014":
        hint = f"A query may take {MAX_SECONDS // 60} minutes."
    return QueryError(f"The query failed: {first_line(error)}.", hint)


def _fields(row: str, count: int) -> Iterator[str | None]:
    """The values of a row in its text form: None where there is nothing, "" where the text is empty."""
    inner = row[1:-1]
    position = 0
    for _ in range(count):
        match = _FIELD.match(inner, position)
        if match is None:
            raise QueryError("The query failed: a row could not be read.")
        position = match.end()
        quoted, plain = match.groups()
        yield plain or None if quoted is None else quoted.replace('""', '"').replace("\\\\", "\\")

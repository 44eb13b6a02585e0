"""The connection: opened when it is needed, replaced when it was lost, every error translated.

Nothing else in the program imports the driver. A `Database` belongs to one thread.
"""

from __future__ import annotations

import selectors
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TextIO

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import sqlparse

from ringstats_ts.errors import (
    OutdatedSchema,
    QueryError,
    RingstatsError,
    StorageError,
    StorageUnavailable,
    UnstorablePayload,
)
from ringstats_ts.model import Entity
from ringstats_ts.sql import statement

Params = dict[str, Any]

CONNECT_SECONDS = 5

CONTENDED_CLASS = "40"
RETRYABLE_CLASSES = ("08", "53", "55", "57", "58")
RETRYABLE_STATES = ("25006", "25P03")
CONFLICT_STATES = ("23503", "23505")
UNSTORABLE_CLASSES = ("22", "54")
MISSING_STATES = ("42P01", "42703", "42883")
NO_ACCESS = (
    "does not exist",
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
)
"""In the words of a server that answers, and will say the same again. It sends no SQLSTATE."""


@dataclass(slots=True)
class Memory:
    """What was read from this database and does not change: ids by natural key, retention.

    It is dropped with the connection, since another database may answer the next one.
    """

    entities: dict[Entity, int] = field(default_factory=dict)
    attributes: dict[bytes, int] = field(default_factory=dict)
    horizons: dict[str, tuple[timedelta | None, datetime]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of a query and the names of their columns."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


class Database:
    """One connection to TimescaleDB, in UTC, outside any transaction between calls.

    Parameters
    ----------
    uri
        libpq URI. Never shown or logged.
    timeout
        bound of one statement, by `statement_timeout`; None for none.
    """

    def __init__(self, uri: str, timeout: timedelta | None = None) -> None:
        self._uri = uri
        self._timeout = timeout
        self._connection: psycopg2.extensions.connection | None = None
        self.memory = Memory()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def rows(self, name: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """Run the statement of that name by itself and give its rows."""
        return self.run(statement(name), params)

    def run(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """Run SQL by itself, outside a transaction, and give its rows."""
        try:
            with self.translated(), self.connection().cursor() as cursor:
                return _execute(cursor, sql, params)
        except UnstorablePayload as error:
            # Nobody's payload: a value that was read, or a number that grew too large.
            raise QueryError(error.message) from error

    def read(self, sql: str) -> Answer:
        """Run SQL of a person's, read-only and as the role tsstats_reader.

        Raises
        ------
        QueryError
            with the server's message, or because there are several statements: the second
            could end the transaction that keeps the first one harmless.
        """
        if len([part for part in sqlparse.split(sql) if part.strip("; \t\r\n")]) != 1:
            raise QueryError("A query is one statement.", "Run several one by one.")
        connection = self.connection()
        try:
            with connection.cursor() as cursor:
                cursor.execute("BEGIN READ ONLY")
                cursor.execute("SET LOCAL ROLE tsstats_reader")
                cursor.execute(sql)
                names = [column.name for column in cursor.description or ()]
                return Answer(names, cursor.fetchall() if cursor.description else [])
        except psycopg2.Error as error:
            if connection.closed:
                raise translate(error, lost=True) from error
            raise QueryError(f"The query failed: {_first_line(error)}.") from error
        finally:
            self._roll_back(connection)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction: committed at the end of the block, rolled back where it raises.

        Raises
        ------
        StorageUnavailable
            where the connection is lost. It may have committed if this came at the end.
        """
        with self.translated():
            connection = self.connection()
            cursor = connection.cursor()
            try:
                cursor.execute("BEGIN")
                yield Transaction(cursor)
                cursor.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise

    def connection(self) -> psycopg2.extensions.connection:
        """The open connection, in autocommit."""
        if self._connection is None or _is_lost(self._connection):
            self.close()
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg2.extensions.connection:
        options = ["-c TimeZone=UTC"]
        if self._timeout is not None:
            options.append(f"-c statement_timeout={int(self._timeout.total_seconds() * 1000)}")
        try:
            connection = psycopg2.connect(
                self._uri,
                connect_timeout=CONNECT_SECONDS,
                application_name="tsstats",
                options=" ".join(options),
            )
        except psycopg2.OperationalError as error:
            if any(words in str(error) for words in NO_ACCESS):
                raise NoAccess(f"The database cannot be used: {_first_line(error)}.") from None
            raise StorageUnavailable(
                f"The database cannot be reached: {_first_line(error)}.", "Is it running? Try again."
            ) from None
        except psycopg2.Error:
            # libpq's own words quote the address, and with it the password.
            raise StorageError("The database address cannot be used.", "Check DATABASE_URI.") from None
        connection.autocommit = True
        self.memory = Memory()
        return connection

    def _roll_back(self, connection: psycopg2.extensions.connection) -> None:
        """Roll back; a connection that cannot is closed, so that the next call opens another."""
        try:
            if not connection.closed:
                with connection.cursor() as cursor:
                    cursor.execute("ROLLBACK")
        except psycopg2.Error:
            connection.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the driver's errors in the block into ours."""
        try:
            yield
        except psycopg2.Error as error:
            if error.pgcode in MISSING_STATES:
                raise OutdatedSchema(
                    f"The database lacks what this version needs: {_first_line(error)}."
                ) from error
            raise translate(error, lost=self._connection is None or bool(self._connection.closed)) from error


class Transaction:
    """What may be done between BEGIN and COMMIT."""

    def __init__(self, cursor: psycopg2.extensions.cursor) -> None:
        self._cursor = cursor

    def rows(self, name: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """Run the statement of that name and give its rows."""
        return self.query(statement(name), params)

    def query(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """Run SQL and give its rows."""
        return _execute(self._cursor, sql, params)

    def copy(self, table: str, columns: Sequence[str], text: TextIO) -> None:
        """COPY rows in PostgreSQL's text format into the table."""
        names = ", ".join(quote(column) for column in columns)
        self._cursor.copy_expert(f"COPY {quote(table)} ({names}) FROM STDIN", text)


def _execute(cursor: psycopg2.extensions.cursor, sql: str, params: Params | None) -> list[tuple[Any, ...]]:
    try:
        cursor.execute(sql, params)
    except UnicodeEncodeError as error:
        raise UnstorablePayload("A text has a lone surrogate, which cannot be stored.") from error
    except ValueError as error:
        raise UnstorablePayload("A text holds the character NUL, which cannot be stored.") from error
    return cursor.fetchall() if cursor.description else []


class NoAccess(StorageError):
    """The database does not let us in."""

    code = "no-access"
    hint = "Check DATABASE_URI."


class ConnectionLost(StorageUnavailable):
    """The connection to the database was lost."""


class Contended(StorageUnavailable):
    """Another transaction was in the way."""


class Conflict(StorageError):
    """A row with this key is stored already, or one that was there is gone."""

    code = "conflict"


class Identifier:
    """A name that stands in a statement where a parameter does. Never from input."""

    def __init__(self, name: str) -> None:
        self._name = name

    def getquoted(self) -> bytes:
        return quote(self._name).encode()

    def __conform__(self, protocol: object) -> Identifier:
        return self


def _is_lost(connection: psycopg2.extensions.connection) -> bool:
    """Whether the server has hung up, without asking it.

    Nothing but a goodbye makes an idle connection readable. Without this, the first
    document after a restart of the database would be refused, on every connection.
    """
    if connection.closed:
        return True
    if connection.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


def quote(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def translate(error: psycopg2.Error, *, lost: bool) -> RingstatsError:
    """Turn a driver's error into ours. `lost` says whether the connection is gone.

    A lost connection has no SQLSTATE in psycopg2, so the connection itself is asked.
    """
    state = error.pgcode or ""
    detail = _first_line(error)
    if lost or isinstance(error, psycopg2.InterfaceError):
        return ConnectionLost(f"The connection to the database was lost: {detail}.")
    if state.startswith(CONTENDED_CLASS):
        return Contended(f"Another transaction was in the way: {detail}.")
    if state.startswith(RETRYABLE_CLASSES) or state in RETRYABLE_STATES:
        return StorageUnavailable(f"The database cannot take this now: {detail}.")
    if state in CONFLICT_STATES:
        return Conflict(f"{detail}.")
    if state.startswith(UNSTORABLE_CLASSES):
        return UnstorablePayload(f"A value cannot be stored: {detail}.")
    return QueryError(f"The database refused: {detail}.")


def _first_line(error: psycopg2.Error) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix("ERROR:").strip().rstrip(".")

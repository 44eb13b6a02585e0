"""The connection: opened when it is needed, replaced when it was lost, ended when its time is up.

A `Database` belongs to one thread; every error that leaves it is one of ours.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import psycopg2
import psycopg2.extensions

from ringstats_ts.errors import QueryError, RingstatsError, StorageFull, UnstorablePayload
from ringstats_ts.sql import statement
from ringstats_ts.storage import reading
from ringstats_ts.storage.connect import connect, is_lost
from ringstats_ts.storage.failures import ConnectionLost, DeadlinePassed, first_line, translate
from ringstats_ts.storage.reading import Answer
from ringstats_ts.storage.watchdog import WATCHDOG, Watch, Watchdog

Params = dict[str, Any]

COPY_BYTES = 256 * 1024
"""What COPY hands to the driver at once; the driver's own 8 KiB would be many small steps."""


@dataclass(slots=True)
class Memory:
    """What was read from this database and does not change: ids by natural key, retention.

    `entities` are by dimension, `attributes` by digest. `client_key` is the fingerprint of the
    key that its logs are stored with.

    It is dropped with the connection, since another database may answer the next one.
    """

    entities: dict[str, dict[tuple[str, ...], int]] = field(default_factory=dict)
    attributes: dict[bytes, int] = field(default_factory=dict)
    horizons: dict[tuple[str, ...], tuple[timedelta | None, datetime]] = field(default_factory=dict)
    client_key: str | None = None


class Database:
    """One connection to TimescaleDB, in UTC, outside any transaction between calls.

    Parameters
    ----------
    uri
        libpq URI. Never shown or logged.
    timeout
        bound of everything that is asked at once: of one statement or transaction, or of
        what stands in one `deadline` block; None for none.
    watchdog
        ends the connection where the server does not keep that bound.
    check
        looks at each database that answers; where it raises, nothing else is asked of that one.
    """

    def __init__(
        self,
        uri: str,
        timeout: timedelta | None = None,
        watchdog: Watchdog = WATCHDOG,
        check: Callable[[Database], object] | None = None,
    ) -> None:
        self._uri = uri
        self._timeout = timeout
        self._watchdog = watchdog
        self._check = check
        self._connection: psycopg2.extensions.connection | None = None
        self._transaction: Transaction | None = None
        self._deadline: float | None = None
        self._watch: Watch | None = None
        self.memory = Memory()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        self._release()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def deadline(self, within: timedelta | None = None) -> Iterator[None]:
        """Bound all that the block asks of the database; by the timeout, unless told otherwise.

        Past it, what waits for the server fails with DeadlinePassed, and so does what would
        begin. In a block that has a deadline already this does nothing.
        """
        within = within or self._timeout
        if within is None or self._deadline is not None:
            yield
            return
        self._deadline = monotonic() + within.total_seconds()
        try:
            yield
        finally:
            self._deadline = None
            self._release()

    def rows(self, name: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """Run the statement of that name by itself and give its rows."""
        return self.run(statement(name), params)

    def run(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """Run SQL by itself, outside a transaction, and give its rows."""
        try:
            with self.deadline(), self.translated(), self.connection().cursor() as cursor:
                if self._transaction is not None:
                    # In its block, this belongs to it.
                    self._transaction.flush()
                return _execute(cursor, sql, params)
        except UnstorablePayload as error:
            # Nobody's payload: a value that was read, or a number that grew too large.
            raise QueryError(error.message) from error

    def read(self, sql: str, *, login: bool = False) -> Answer:
        """Run SQL of a person's, which reads as the role tsstats_reader and does nothing else.

        It does so by a function, or where the connection is of a `login` that only reads, as it is.

        Raises
        ------
        QueryError
            with the server's message.
        """
        with self.deadline():
            connection = self.connection()
            try:
                with connection.cursor() as cursor:
                    cursor.execute("BEGIN READ ONLY")
                    if self._timeout is None:
                        cursor.execute(f"SET LOCAL statement_timeout = '{reading.MAX_SECONDS}s'")
                    return reading.read_as_login(cursor, sql) if login else reading.read(cursor, sql)
            except psycopg2.Error as error:
                if connection.closed:
                    raise self._translate(error) from error
                raise reading.refusal(error) from error
            except ValueError as error:
                raise QueryError(f"The query failed: {first_line(error)}.") from error
            finally:
                self._roll_back(connection)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction: committed at the end of the block, rolled back where it raises.

        Raises
        ------
        ConnectionLost
            with `may_have_committed` where this came at the end.
        """
        with self.deadline():
            connection = self.connection()
            committing = False
            try:
                with self.translated(), connection.cursor() as cursor:
                    transaction = self._transaction = Transaction(cursor, self.translated)
                    yield transaction
                    committing = True
                    transaction.commit()
                    if cursor.statusmessage != "COMMIT":
                        # What failed in the block and went no further; the server does not call it an error.
                        raise QueryError("The transaction was rolled back.")
            except BaseException as error:
                if isinstance(error, ConnectionLost):
                    error.may_have_committed = committing
                self._roll_back(connection)
                raise
            finally:
                self._transaction = None

    def connection(self) -> psycopg2.extensions.connection:
        """The open connection, in autocommit, under watch inside a `deadline` block.

        Raises
        ------
        StorageUnavailable, NoAccess
        """
        if self._deadline is not None and monotonic() >= self._deadline:
            passed = DeadlinePassed()
            passed.may_have_committed = False
            raise passed
        if self._connection is None or is_lost(self._connection):
            if self._transaction is not None:
                # What belongs to it must not be done without it, on a connection of its own.
                raise ConnectionLost
            self.close()
            self._connection = connect(self._uri, self._timeout, self._deadline)
            self.memory = Memory()
            self._watch_over(self._connection)
            self._check_it()
        self._watch_over(self._connection)
        return self._connection

    def _watch_over(self, connection: psycopg2.extensions.connection) -> None:
        if self._deadline is not None and self._watch is None:
            self._watch = self._watchdog.watch(connection.fileno(), self._deadline)

    def _check_it(self) -> None:
        """Look at the database that a new connection leads to; where it is not ours, close that."""
        if self._check is not None:
            try:
                self._check(self)
            except BaseException:
                self.close()
                raise

    def check_room(self) -> None:
        """Refuse to store more where the embedded database runs out of disk space.

        It says so with its answers, so this costs nothing, and is as true as the last of them.

        Raises
        ------
        StorageFull
        """
        if full := self.connection().get_parameter_status("tsstats_full"):
            raise StorageFull(f"The disk of the database is almost full: {full}.")

    def _release(self) -> None:
        if self._watch is not None:
            self._watchdog.release(self._watch)
            self._watch = None

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
            raise self._translate(error) from error

    def _translate(self, error: psycopg2.Error) -> RingstatsError:
        lost = self._connection is None or bool(self._connection.closed)
        return translate(error, lost=lost, overdue=self._watch is not None and self._watch.ended)


class Transaction:
    """What may be done between BEGIN and COMMIT.

    What gives no answer waits and goes to the server in one message with what comes next:
    each message is a way there and back. Where one of its statements fails, the server
    carries out none behind it, COMMIT neither, and the transaction is rolled back.

    `translated` turns the driver's errors into ours.
    """

    def __init__(
        self, cursor: psycopg2.extensions.cursor, translated: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._cursor = cursor
        self._translated = translated
        self._waiting: list[bytes] = [b"BEGIN"]

    def rows(self, name: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """Run the statement of that name and give its rows."""
        return self.query(statement(name), params)

    def query(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """Run SQL and give its rows."""
        self._waiting.append(_bound(self._cursor, sql, params))
        self.flush()
        return self._cursor.fetchall() if self._cursor.description else []

    def later(self, name: str, params: Params) -> None:
        """Run the statement of that name before whatever is sent next, and take no answer."""
        self._waiting.append(_bound(self._cursor, statement(name), params))

    def insert_later(self, table: str, columns: Sequence[str], row: Sequence[str | None]) -> None:
        """Insert one row, of values in PostgreSQL's text format, before whatever is sent next."""
        sql = f"INSERT INTO {quote(table)} ({_names(columns)}) VALUES %(row)s"
        self._waiting.append(_bound(self._cursor, sql, {"row": tuple(row)}))

    def copy(self, table: str, columns: Sequence[str], text: str) -> None:
        """COPY rows in PostgreSQL's text format into the table."""
        try:
            # Encoded here: what the driver cannot encode looks like a cancelled query.
            content = io.BytesIO(text.encode())
        except UnicodeEncodeError as error:
            raise translate(error) from error
        self.flush()
        sql = f"COPY {quote(table)} ({_names(columns)}) FROM STDIN"
        with self._translated():
            self._cursor.copy_expert(sql, content, COPY_BYTES)

    def copy_new(
        self, table: str, columns: Sequence[str], text: str, *, compare: bool
    ) -> tuple[int, list[Any]]:
        """COPY rows, but leave out those whose key the table has already.

        They go through a temporary table, which stays as long as the connection. Returns how
        many were new and, to `compare`, the times of those whose key has other values; the
        first two columns, which say whose they are and when they came, are no such values.
        """
        staged = f"new_{table}"
        like = f"{quote(staged)} (LIKE {quote(table)})"
        self.query(f"CREATE TEMPORARY TABLE IF NOT EXISTS {like} ON COMMIT DELETE ROWS")
        self.copy(staged, columns, text)
        names = _names(columns)
        self.query(
            f"INSERT INTO {quote(table)} ({names}) SELECT {names} FROM pg_temp.{quote(staged)}"
            " ON CONFLICT DO NOTHING"
        )
        added = self._cursor.rowcount
        differing: list[Any] = []
        if compare and added < text.count("\n"):
            own, values = quote(columns[0]), _names(columns[2:])
            differing = self.query(
                f"SELECT DISTINCT time FROM (SELECT {own}, {values} FROM pg_temp.{quote(staged)} EXCEPT"
                f" SELECT {own}, {values} FROM {quote(table)} WHERE ({own}, time) IN"
                f" (SELECT {own}, time FROM pg_temp.{quote(staged)})) AS other ORDER BY time"
            )
        self.query(f"DELETE FROM pg_temp.{quote(staged)}")
        return added, [time for (time,) in differing]

    def flush(self) -> None:
        """Send what waits: its errors are raised here."""
        if self._waiting:
            message = b";\n".join(self._waiting)
            self._waiting.clear()
            with self._translated():
                self._cursor.execute(message)

    def commit(self) -> None:
        """Send what waits, and COMMIT with it. Called at the end of the block, by nobody else."""
        self._waiting.append(b"COMMIT")
        self.flush()


def _execute(cursor: psycopg2.extensions.cursor, sql: str, params: Params | None) -> list[tuple[Any, ...]]:
    cursor.execute(_bound(cursor, sql, params))
    return cursor.fetchall() if cursor.description else []


def _bound(cursor: psycopg2.extensions.cursor, sql: str, params: Params | None) -> bytes:
    """The statement with its parameters in it, as it is sent."""
    try:
        return cursor.mogrify(sql, params)
    except ValueError as error:
        raise translate(error) from error


def _names(columns: Sequence[str]) -> str:
    return ", ".join(map(quote, columns))


class Identifier:
    """A name that stands in a statement where a parameter does. Never from input."""

    def __init__(self, name: str) -> None:
        self._name = name

    def getquoted(self) -> bytes:
        return quote(self._name).encode()

    def __conform__(self, protocol: object) -> Identifier:
        return self


def quote(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'

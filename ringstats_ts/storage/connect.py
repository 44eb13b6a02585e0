"""Opens connections: in bounded time, and while the server refuses by one thread at a time."""

from __future__ import annotations

import random
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import cache
from time import monotonic
from typing import Any, TypeVar

import psycopg2
import psycopg2.extensions

from ringstats_ts.errors import StorageError, StorageUnavailable
from ringstats_ts.storage.failures import translate_connect

CONNECT_SECONDS = 5
"""For each address of the server."""

PAUSE_SECONDS = (0.2, 1.0)
"""Between two attempts of a process while the server refuses; spread, as all processes begin together."""

KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""So that work without a deadline ends a minute after a network or a machine that is gone."""

Connection = psycopg2.extensions.connection

T = TypeVar("T")


class Gate:
    """Lets everybody connect while that works, and one at a time, with pauses, while it does not.

    The others get the last refusal at once: a thread that waits for a server which
    is away answers nobody.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refusal: StorageError | None = None
        self._until = 0.0

    def enter(self, connect: Callable[[], T]) -> T:
        """What `connect` gives; its StorageError, or that of the attempt before."""
        with self._lock:
            if self._refusal is not None:
                if monotonic() < self._until:
                    raise type(self._refusal)(self._refusal.message, self._refusal.hint)
                # This thread is the one that tries.
                self._until = float("inf")
        refusal = None
        try:
            return connect()
        except StorageError as error:
            refusal = error
            raise
        finally:
            with self._lock:
                self._refusal = refusal
                self._until = monotonic() + random.uniform(*PAUSE_SECONDS)


@cache
def gate(uri: str) -> Gate:  # noqa: ARG001
    """The gate of a server, which all threads of the process share."""
    return Gate()


def connect(uri: str, timeout: timedelta | None, deadline: float | None) -> Connection:
    """Open a connection: in UTC, in autocommit.

    Parameters
    ----------
    timeout
        bound of a statement, and of a transaction that says nothing; half of it of a lock.
        None for none.
    deadline
        by the monotonic clock; None for none but libpq's.

    Raises
    ------
    StorageError
        StorageUnavailable, or NoAccess where trying again would not help.
    """
    if deadline is None:
        return gate(uri).enter(lambda: _open(uri, timeout))
    return gate(uri).enter(lambda: _within(deadline - monotonic(), lambda: _open(uri, timeout)))


def is_lost(connection: Connection) -> bool:
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


def _open(uri: str, timeout: timedelta | None) -> Connection:
    try:
        connection: Connection = psycopg2.connect(
            uri,
            connect_timeout=CONNECT_SECONDS,
            application_name="tsstats",
            client_encoding="UTF8",
            **KEEPALIVE,
            options=" ".join(f"-c {name}={value}" for name, value in _settings(timeout).items()),
        )
    except (psycopg2.Error, ValueError) as error:
        raise translate_connect(error) from None
    connection.autocommit = True
    return connection


def _settings(timeout: timedelta | None) -> dict[str, str | int]:
    if timeout is None:
        return {"TimeZone": "UTC"}
    milliseconds = int(timeout.total_seconds() * 1000)
    return {
        "TimeZone": "UTC",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds // 2,
        # What we left behind a dead network would hold its locks for ever.
        "idle_in_transaction_session_timeout": milliseconds,
    }


def _within(seconds: float, connect: Callable[[], Connection]) -> Connection:
    """Connect, or give up in time and leave that to a thread.

    libpq bounds each address of a name by itself, and the look-up of the name not at all.
    """
    result: Future[Connection] = Future()

    def run() -> None:
        try:
            connection = connect()
        except StorageError as error:
            if result.set_running_or_notify_cancel():
                result.set_exception(error)
            return
        if result.set_running_or_notify_cancel():
            result.set_result(connection)
        else:
            connection.close()

    threading.Thread(target=run, name="connect", daemon=True).start()
    try:
        return result.result(min(seconds, CONNECT_SECONDS))
    except TimeoutError:
        if result.cancel():
            raise StorageUnavailable("The database cannot be reached: it did not answer in time.") from None
        return result.result()

"""Bounds on waiting for a client, which gunicorn has none of.

The timeout of a socket bounds one `recv`, and a client that sends a byte a second is never
late for one. So whose time is up has its socket shut for reading, by the same thread that
watches the database: `recv` returns as at the end of a connection, and the answer can
still be sent.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from gunicorn.http.errors import ParseException

from ringstats_ts.storage.watchdog import WATCHDOG, Watch


class Deadline:
    """`with Deadline(sock, 10) as wait:` bounds what the block waits for; `wait.over` says whether it did."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._watch = Watch(monotonic() + seconds, sock, how=socket.SHUT_RD)

    @property
    def over(self) -> bool:
        """Whether the time was up."""
        return self._watch.ended

    def __enter__(self) -> Deadline:
        WATCHDOG.add(self._watch)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Wait without a bound from here on."""
        WATCHDOG.discard(self._watch)


class Reader(Protocol):
    """What gunicorn reads a body with: of a known length, or in chunks."""

    def read(self, size: int) -> bytes: ...


class TimedReader:
    """Reads a body that has to be there in time, which runs from the first read.

    Raises TimeoutError where the time is up, and `late` is called.
    """

    def __init__(
        self, reader: Reader, sock: socket.socket, seconds: float, late: Callable[[], object]
    ) -> None:
        self._reader = reader
        self._sock = sock
        self._seconds = seconds
        self._late = late
        self._until: float | None = None

    def allow(self, seconds: float) -> None:
        """Give it so many seconds from now."""
        self._until = monotonic() + seconds

    def read(self, size: int) -> bytes:
        if self._until is None:
            self.allow(self._seconds)
        assert self._until is not None
        with Deadline(self._sock, self._until - monotonic()) as wait:
            try:
                data = self._reader.read(size)
            except (OSError, ParseException):
                # Chunks that end before their time are an error of their own.
                if not wait.over:
                    raise
        if not wait.over:
            return data
        self._late()
        raise TimeoutError("the body did not arrive in time")

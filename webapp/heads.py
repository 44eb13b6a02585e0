"""Connections whose request has not begun, or has no whole head yet.

They wait in the thread that watches all connections, with a bound on their time and on the bytes
of a head: whoever sends a byte now and then holds no thread and no seat.
"""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Callable
from functools import partial
from math import inf
from selectors import EVENT_READ, BaseSelector
from time import monotonic

from gunicorn.workers.gthread import TConn

SECONDS = 10.0
"""For the whole head, from when the connection could have sent it."""

BYTES = 16 * 1024
"""Of a head, with its request line: what nginx takes, and curl and browsers stay far below."""

LINE_BYTES = 4094
"""Of a request line."""

_LINE = re.compile(rb"(?:\r\n)?[^\r\n]*HTTP/[0-9]\.[0-9]\r\n")
"""A request line, perhaps behind an empty one."""

READ_BYTES = 8 * 1024


class Heads:
    """Those of one worker. For the thread of the poller.

    `whole` is called with a connection whose head is there, or cannot be one: the parser then says
    so; `endless` with one whose head is too long, `ended` with one that has ended, or whose time is over.
    """

    def __init__(
        self,
        poller: BaseSelector,
        whole: Callable[[TConn], None],
        endless: Callable[[TConn], None],
        ended: Callable[[TConn], None],
    ) -> None:
        self._poller = poller
        self._whole = whole
        self._endless = endless
        self._ended = ended
        # In the order of their ends, since all have the same time.
        self._open: dict[TConn, float] = {}

    @property
    def due(self) -> float:
        """When the time of the first is over."""
        return next(iter(self._open.values()), inf)

    def begin(self, conn: TConn) -> None:
        """Wait for the next head of the connection; it may be there."""
        conn.init()
        if settled := self._read(conn):
            settled(conn)
        else:
            self._open[conn] = monotonic() + SECONDS
            self._poller.register(conn.sock, EVENT_READ, partial(self._more, conn))

    def end_late(self, now: float) -> None:
        """Give those up whose time is over."""
        while self.due <= now:
            self._ended(self._first())

    def make_room(self) -> TConn | None:
        """Give up the one that has waited longest, if there is one, so that another can come."""
        return self._first() if self._open else None

    def _first(self) -> TConn:
        conn = next(iter(self._open))
        self._forget(conn)
        return conn

    def _forget(self, conn: TConn) -> None:
        del self._open[conn]
        self._poller.unregister(conn.sock)

    def _more(self, conn: TConn, _sock: socket.socket) -> None:
        if settled := self._read(conn):
            self._forget(conn)
            settled(conn)

    def _read(self, conn: TConn) -> Callable[[TConn], None] | None:
        """Take what there is; what becomes of the connection, if that settles it."""
        ahead: io.BytesIO = conn.parser.unreader.buf
        if _is_whole(ahead.getvalue()):
            return self._whole
        try:
            data = conn.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            return self._ended
        ahead.seek(0, io.SEEK_END)
        ahead.write(data)
        if _is_whole(ahead.getvalue()):
            return self._whole
        return self._endless if is_endless(ahead.getvalue()) else None


def is_endless(head: bytes) -> bool:
    """Whether it is longer than any that is taken."""
    return len(head) > BYTES or (len(head) > LINE_BYTES and not has_line(head))


def has_line(head: bytes) -> bool:
    """Whether its request line is there."""
    return b"\r\n" in head[2:]


def _is_whole(head: bytes) -> bool:
    """Whether it is there, or the parser will refuse it at once for what is there."""
    if b"\r\n\r\n" in head or head.count(b"\n") != head.count(b"\r\n"):
        return True
    return has_line(head) and not _LINE.match(head)

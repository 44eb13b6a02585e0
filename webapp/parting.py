"""Connections that have their answer and end, until their clients have read it.

wget and curl report a broken connection instead of the answer where it is closed on what they
still send. So that is read and thrown away for a while, in the thread that watches all
connections: whoever keeps his end open holds nobody up.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from selectors import EVENT_READ, BaseSelector
from time import monotonic

SECONDS = 5.0
BYTES = 8 * 1024 * 1024
READ_BYTES = 64 * 1024


@dataclass(slots=True)
class _Parting:
    until: float
    left: int = BYTES


class Partings:
    """Those of one worker; at most `places`, any more are closed at once. For the thread of the poller.

    `gone` is called as each is closed.
    """

    def __init__(self, poller: BaseSelector, places: int, gone: Callable[[], None]) -> None:
        self._poller = poller
        self._places = places
        self._gone = gone
        # In the order of their ends, since all have the same time.
        self._open: dict[socket.socket, _Parting] = {}
        self._waste = bytearray(READ_BYTES)

    @property
    def due(self) -> float:
        """When the time of the first is over."""
        return next((parting.until for parting in self._open.values()), inf)

    def begin(self, sock: socket.socket) -> None:
        """Send no more, and close the socket when its client has, or its time is over."""
        try:
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(sock)
            return
        if len(self._open) == self._places:
            self._close(sock)
            return
        self._open[sock] = _Parting(monotonic() + SECONDS)
        self._poller.register(sock, EVENT_READ, self._read)

    def end_late(self, now: float) -> None:
        """Close those whose time is over."""
        while self.due <= now:
            self._end(next(iter(self._open)))

    def _read(self, sock: socket.socket) -> None:
        parting = self._open[sock]
        try:
            count = sock.recv_into(self._waste)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        parting.left -= count
        if not count or parting.left <= 0:
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        del self._open[sock]
        self._poller.unregister(sock)
        self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        with suppress(OSError):
            sock.close()
        self._gone()

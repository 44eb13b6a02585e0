"""Ends connections whose time is up.

Nothing in libpq or TCP bounds a server that hangs: a stopped backend does not keep its
statement_timeout, and a network that swallows bytes may still acknowledge them. Shutting
the socket down under the thread that waits on it does: its call fails at once.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RDWR
from time import monotonic

NEVER = float("inf")


@dataclass(eq=False, slots=True)
class Watch:
    """One connection under watch, until a moment of the monotonic clock. `ended` once that came."""

    deadline: float
    socket: socket.socket
    ended: bool = False
    how: int = SHUT_RDWR


class Watchdog:
    """One daemon thread, begun with the first watch; a fork begins its own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: set[Watch] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = NEVER

    def watch(self, descriptor: int, deadline: float) -> Watch:
        """Shut the socket down at the deadline, unless the watch is released before."""
        # A duplicate: the number of a descriptor that was closed is soon somebody else's.
        watch = Watch(deadline, socket.socket(fileno=os.dup(descriptor)))
        self.add(watch)
        return watch

    def add(self, watch: Watch) -> None:
        """Watch a socket that stays open until `discard`."""
        with self._changed:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()
            elif watch.deadline < self._wakes_at:
                self._changed.notify()

    def release(self, watch: Watch) -> None:
        """Watch this one no longer."""
        self.discard(watch)
        watch.socket.close()

    def discard(self, watch: Watch) -> None:
        """Leave this one alone from here on."""
        with self._changed:
            self._watches.discard(watch)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = monotonic()
                for watch in [watch for watch in self._watches if watch.deadline <= now]:
                    self._watches.discard(watch)
                    self._end(watch)
                self._wakes_at = min((watch.deadline for watch in self._watches), default=NEVER)
                self._changed.wait(None if self._wakes_at == NEVER else self._wakes_at - now)

    def _end(self, watch: Watch) -> None:
        watch.ended = True
        # The other side may have ended it just now.
        with suppress(OSError):
            watch.socket.shutdown(watch.how)


WATCHDOG = Watchdog()
"""The one of this process."""

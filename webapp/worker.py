"""gunicorn's threaded worker, with bounds on how long it waits for a client, and errors in our form.

gunicorn itself waits for ever for the rest of a head or a body, and it sees connections
off in the one thread that accepts new ones: whoever keeps his end open holds all others
up. Here each wait has an end, and takes place in the thread of its request.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from gunicorn import util
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from ringstats_ts.config import Config
from webapp import errors
from webapp.admission import reserve
from webapp.deadline import Deadline, TimedReader

HEAD_SECONDS = 10.0
"""For the request line and headers."""

# wget and curl report a broken connection instead of the answer where it is closed on what they still send.
DRAIN_BYTES = 8 * 1024 * 1024
# No shorter than for the head: the earliest deadline wakes the watching thread, once for all later ones.
DRAIN_SECONDS = 10.0
LINGER_SECONDS = 1.0
READ_BYTES = 64 * 1024


class Worker(ThreadWorker):  # type: ignore[misc]
    """Runs the requests of one process, each in a thread."""

    def init_process(self) -> None:
        """Begin; called once, in the process of the worker."""
        config = Config.from_env()
        self._body_seconds = config.body_timeout.total_seconds()
        # Reading what nobody wants must not take the threads that answer health checks.
        self._leisure = threading.Semaphore(max(reserve(config.threads) - 1, 0))
        util.write_error = errors.write_problem
        super().init_process()

    def handle(self, conn: TConn) -> Any:
        """Take one request from the connection. Not true where the connection is to be closed."""
        conn.head = Deadline(conn.sock, HEAD_SECONDS)
        with conn.head:
            kept = super().handle(conn)
        if not kept:
            self._part(conn.sock)
        return kept

    def handle_request(self, req: Any, conn: TConn) -> bool:
        """Answer the request, then read what is left of its body, so that the client reads the answer."""
        conn.head.stop()
        reader = TimedReader(req.body.reader, conn.sock, self._body_seconds, req.force_close)
        req.body.reader = reader
        kept: bool = super().handle_request(req, conn)
        self._drain(req.body, reader)
        return kept

    def _drain(self, body: Any, reader: TimedReader) -> None:
        with _taken(self._leisure) as taken, suppress(OSError, ParseException):
            # gunicorn reads 64 KiB more itself, and keeps the connection where that was the end.
            reader.allow(DRAIN_SECONDS if taken else 0.0)
            left = DRAIN_BYTES if taken else 0
            while left > 0 and (chunk := body.read(READ_BYTES)):
                left -= len(chunk)

    def _part(self, sock: socket.socket) -> None:
        """Shut the connection, a little after the answer where the client still sends."""
        with _taken(self._leisure) as taken, suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(LINGER_SECONDS)
            until = monotonic() + LINGER_SECONDS
            with suppress(TimeoutError):
                while taken and monotonic() < until and sock.recv(READ_BYTES):
                    pass
            sock.shutdown(socket.SHUT_RD)


@contextmanager
def _taken(places: threading.Semaphore) -> Iterator[bool]:
    """Take a place if there is one, for the block."""
    taken = places.acquire(blocking=False)
    try:
        yield taken
    finally:
        if taken:
            places.release()

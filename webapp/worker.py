"""gunicorn's threaded worker, with a door, bounds on waiting for a client, and errors in our form.

gunicorn itself puts every request into an endless queue for its threads, waits for ever for the rest
of a head or a body, and sees connections off in the one thread that accepts new ones. Here that
thread looks at the first bytes of a request. Who brings a document needs a seat; those without one
wait in a line that costs no thread, and are told soon that it was in vain. All others find a thread.
"""

from __future__ import annotations

import socket
from concurrent.futures import Future
from functools import partial
from selectors import EVENT_READ
from time import monotonic
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import TConn, ThreadWorker

from ringstats_ts.config import Config
from webapp import errors
from webapp.admission import Line, patience, seats
from webapp.deadline import Deadline, TimedReader
from webapp.metrics import metrics
from webapp.parting import Partings

FIRST_SECONDS = 5.0
"""For the first byte on a new connection."""

HEAD_SECONDS = 10.0
"""For the request line and headers."""

REST_SECONDS = 10.0
"""For the rest of a body that nobody wants, up to 64 KiB; behind more the connection is closed.

No shorter than for the head: the earliest deadline wakes the watching thread, once for all later ones.
"""

# Together less than gunicorn's worker_connections, so that health checks find room too.
WAITING = 256
PARTING = 128

SEATLESS = (b"GET ", b"HEAD ", b"OPTIONS ")
"""Methods that bring nothing to store."""


class Worker(ThreadWorker):  # type: ignore[misc]
    """Runs the requests of one process, each in a thread."""

    def init_process(self) -> None:
        """Begin; called once, in the process of the worker."""
        config = Config.from_env()
        self._body_seconds = config.body_timeout.total_seconds()
        self._patience = patience(config)
        self._line: Line[Any] = Line(seats(config.threads), WAITING, self._patience)
        util.write_error = errors.write_problem
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop, then answer who is here. Waits for all of them, the line too."""
        self._partings = Partings(self.poller, PARTING, self._gone)
        super().run()

    def enqueue_req(self, conn: TConn) -> None:
        """Give a connection that has something to say a thread, now or when it has a seat."""
        try:
            first = _first_bytes(conn)
        except BlockingIOError:
            self._await_first_byte(conn)
            return
        except OSError:
            first = b""
        conn.brings_document = first.startswith(b"POST ")
        if not first:
            self._partings.begin(conn.sock)
        elif first.startswith(SEATLESS) or self._line.sit(conn):
            self._hand_over(conn)
        elif self._line.wait(conn, monotonic()):
            metrics().waiting.inc()
        else:
            self._turn_away(conn, 0.0)

    def finish_request(self, conn: TConn, done: Future[Any]) -> None:
        """Give its seat to the next in line, and see the connection off or wait for its next request."""
        following = self._line.leave(conn)
        if following is not None:
            metrics().waiting.dec()
            self._hand_over(following)
        if done.cancelled() or done.exception() or not done.result():
            self._partings.begin(conn.sock)
        else:
            super().finish_request(conn, done)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Do what there is to do, once, within `timeout` seconds."""
        due = min(self._line.due, self._partings.due) - monotonic()
        super().wait_for_and_dispatch_events(max(min(timeout, due), 0.0))
        now = monotonic()
        for conn in self._line.late(now):
            metrics().waiting.dec()
            self._turn_away(conn, self._patience)
        self._partings.end_late(now)

    def handle(self, conn: TConn) -> Any:
        """Take one request from the connection. Not true where the connection is to be closed."""
        conn.head = Deadline(conn.sock, HEAD_SECONDS)
        with conn.head:
            return super().handle(conn)

    def handle_request(self, req: Any, conn: TConn) -> bool:
        """Answer the request; gunicorn then reads what is left of its body, or gives up."""
        conn.head.stop()
        reader = TimedReader(req.body.reader, conn.sock, self._body_seconds, req.force_close)
        req.body.reader = reader
        kept: bool = super().handle_request(req, conn)
        reader.allow(REST_SECONDS)
        return kept

    def _await_first_byte(self, conn: TConn) -> None:
        conn.timeout = monotonic() + FIRST_SECONDS
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _hand_over(self, conn: TConn) -> None:
        # A thread of gunicorn would look again, with a poller of its own.
        conn.data_ready = True
        super().enqueue_req(conn)

    def _turn_away(self, conn: TConn, waited: float) -> None:
        answer = errors.turn_away(waited, document=conn.brings_document)
        try:
            conn.sock.setblocking(False)
            conn.sock.send(answer)
        except OSError:
            pass
        self._partings.begin(conn.sock)

    def _gone(self) -> None:
        self.nr_conns -= 1


def _first_bytes(conn: TConn) -> bytes:
    """The first of the next request, which stay where they are; none at the end of the connection."""
    ahead: bytes = conn.parser.unreader.buf.getvalue() if conn.parser else b""
    return ahead or conn.sock.recv(8, socket.MSG_PEEK)

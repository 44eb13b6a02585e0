"""gunicorn's threaded worker, with a door, bounds on waiting for a client, and errors in our form.

gunicorn itself puts every request into an endless queue for its threads, waits for ever for the rest
of a head or a body, and sees connections off in the one thread that accepts new ones. Here that
thread waits for whole heads, too. Who brings a document needs one kind of seat, who wants to look
at something another; those without one wait in a line that costs no thread, and are told soon that
it was in vain. A thread is left for health checks.
"""

from __future__ import annotations

import re
import socket
import struct
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import TConn, ThreadWorker

from ringstats_ts.config import Config
from webapp import errors, heads
from webapp.admission import Line, looks, patience, seats
from webapp.deadline import Deadline, TimedReader
from webapp.heads import Heads
from webapp.metrics import metrics
from webapp.parting import Partings

REST_SECONDS = 10.0
"""For the rest of a body that nobody wants, up to 64 KiB; behind more the connection is closed.

No shorter than for the head: the earliest deadline wakes the watching thread, once for all later ones.
"""

SEND_TIMEOUT = struct.pack("ll", 5, 0)
"""For a client to make room for more of its answer, as the kernel has it: seconds and microseconds."""

# Together less than gunicorn's worker_connections, so that health checks find room too.
WAITING = 256
LOOKING = 64
PARTING = 96

SPARE = 16
"""Connections that are never taken by those that wait for a head: the oldest of these makes room."""

HEALTH = re.compile(rb"(?:GET|HEAD) /healthz/?[ ?]")
LOOKS = (b"GET ", b"HEAD ", b"OPTIONS ")
"""Methods that bring nothing to store."""


class Worker(ThreadWorker):  # type: ignore[misc]
    """Runs the requests of one process, each in a thread."""

    def init_process(self) -> None:
        """Begin; called once, in the process of the worker."""
        config = Config.from_env()
        self._body_seconds = config.body_timeout.total_seconds()
        self._patience = patience(config)
        self._documents: Line[Any] = Line(seats(config.threads), WAITING, self._patience)
        self._looks: Line[Any] = Line(looks(config.threads), LOOKING, self._patience)
        util.write_error = errors.write_problem
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop, then answer who is here. Waits for all of them, the lines too."""
        self._partings = Partings(self.poller, PARTING, self._gone)
        self._heads = Heads(self.poller, self._admit, self._refuse_head, self._part)
        super().run()

    def accept(self, listener: socket.socket) -> None:
        """Take a connection in; where there are many, in the place of one that has not asked for anything."""
        super().accept(listener)
        if self.nr_conns > self.worker_connections - SPARE and (late := self._heads.make_room()):
            late.close()
            self._gone()

    def enqueue_req(self, conn: TConn) -> None:
        """Wait for the head of the connection's next request."""
        if not conn.initialized:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SEND_TIMEOUT)
        self._heads.begin(conn)

    def finish_request(self, conn: TConn, done: Future[Any]) -> None:
        """Give its seat to the next in line, and see the connection off or wait for its next request."""
        following = conn.line.leave(conn) if conn.line else None
        if following is not None:
            self._count_waiting(following, -1)
            self._hand_over(following)
        if done.cancelled() or done.exception() or not done.result():
            self._partings.begin(conn.sock)
        else:
            super().finish_request(conn, done)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Do what there is to do, once, within `timeout` seconds."""
        waits = (self._documents, self._looks, self._partings, self._heads)
        due = min(wait.due for wait in waits) - monotonic()
        super().wait_for_and_dispatch_events(max(min(timeout, due), 0.0))
        now = monotonic()
        for conn in (*self._documents.late(now), *self._looks.late(now)):
            self._count_waiting(conn, -1)
            self._turn_away(conn, self._patience)
        self._partings.end_late(now)
        self._heads.end_late(now)

    def handle(self, conn: TConn) -> Any:
        """Take one request from the connection. Not true where the connection is to be closed."""
        conn.head = Deadline(conn.sock, heads.SECONDS)
        with conn.head:
            return super().handle(conn)

    def handle_request(self, req: Any, conn: TConn) -> bool:
        """Answer the request; gunicorn then reads what is left of its body, or gives up."""
        conn.head.stop()
        if req.method != "POST" and any(map(_is_of_a_body, req.headers)):
            # Nobody wants it, and to wait for its end would hold a thread.
            req.force_close()
        reader = TimedReader(req.body.reader, conn.sock, self._body_seconds, req.force_close)
        req.body.reader = reader
        kept: bool = super().handle_request(req, conn)
        reader.allow(REST_SECONDS)
        return kept

    def _admit(self, conn: TConn) -> None:
        """Give a connection whose head is there a thread, now or when it has a seat."""
        head = conn.parser.unreader.buf.getvalue().lstrip(b"\r\n")
        conn.brings_document = head.startswith(b"POST ")
        conn.line = None
        if HEALTH.match(head):
            self._hand_over(conn)
            return
        conn.line = self._looks if head.startswith(LOOKS) else self._documents
        if conn.line.sit(conn):
            self._hand_over(conn)
        elif conn.line.wait(conn, monotonic()):
            self._count_waiting(conn, 1)
        else:
            self._turn_away(conn, 0.0)

    def _refuse_head(self, conn: TConn) -> None:
        line = heads.has_line(conn.parser.unreader.buf.getvalue())
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if line else HTTPStatus.REQUEST_URI_TOO_LONG
        with suppress(OSError):
            errors.write_problem(conn.sock, status, "", "")
        self._part(conn)

    def _part(self, conn: TConn) -> None:
        self._partings.begin(conn.sock)

    def _count_waiting(self, conn: TConn, number: int) -> None:
        if conn.line is self._documents:
            metrics().waiting.inc(number)

    def _hand_over(self, conn: TConn) -> None:
        super().enqueue_req(conn)

    def _turn_away(self, conn: TConn, waited: float) -> None:
        answer = errors.turn_away(waited, document=conn.brings_document)
        with suppress(OSError):
            conn.sock.setblocking(False)
            conn.sock.send(answer)
        self._part(conn)

    def _gone(self) -> None:
        self.nr_conns -= 1


def _is_of_a_body(header: tuple[str, str]) -> bool:
    name, value = header
    return name == "TRANSFER-ENCODING" or (name == "CONTENT-LENGTH" and value.strip() != "0")

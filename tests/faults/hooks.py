"""The application with one point in it at which a test can look, or kill: TEST_HOOK names it.

Run by gunicorn, in place of `webapp:create_app()`. The first request to come to the point writes
its process id to `paused` in TEST_HOOK_DIRECTORY and waits there until it is killed; every later one goes on.
"""

import contextlib
import os
import re
import time
import zlib
from pathlib import Path

import webapp
import webapp.body
import webapp.ingest
from ringstats_ts.storage import store
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.watchdog import Watchdog
from webapp.admission import Admission
from webapp.body import Body
from webapp.worker import Worker

POINT = os.environ["TEST_HOOK"]
DIRECTORY = Path(os.environ["TEST_HOOK_DIRECTORY"])


def pause(point):
    if point != POINT:
        return
    written = DIRECTORY / f"writing-{os.getpid()}"
    written.write_text(str(os.getpid()))
    with contextlib.suppress(FileExistsError):
        (DIRECTORY / "paused").hardlink_to(written)
        time.sleep(600)


def create_app():
    app = webapp.create_app()
    _hook_ingest()
    _hook_transaction()
    for name, take_away in OFF_SWITCHES.items():
        if name == POINT:
            take_away()
    app.wsgi_app = _after_response(app.wsgi_app)
    return app


def _hook_ingest():
    ingest = webapp.ingest.ingest

    def hooked(payload, *args, **kwargs):
        pause("before-insert")
        _hang(payload.body)
        receipts = ingest(payload, *args, **kwargs)
        pause("after-commit")
        return receipts

    webapp.ingest.ingest = hooked


def _hang(body):
    """A pattern that takes ages on this body, and lets no other thread run."""
    if POINT == "hang" and b"by chance" in body:
        time.sleep(1)
    if POINT == "hang" and b"hangs" in body:
        re.match(r"(a+)+$", "a" * 64 + "b")


def _hook_transaction():
    transaction = Database.transaction

    @contextlib.contextmanager
    def hooked(self):
        with transaction(self) as begun:
            yield begun
            pause("after-insert")

    Database.transaction = hooked


def _after_response(wsgi_app):
    def hooked(environ, start_response):
        try:
            yield from wsgi_app(environ, start_response)
        finally:
            if environ["REQUEST_METHOD"] == "POST":
                pause("after-response")

    return hooked


def _receive_as_flask_does():
    """A chunked body is then cut off at the limit without a word."""

    def receive(self):
        self._request.max_content_length = self._config.max_body_bytes
        self.raw += self._request.get_data()

    Body.receive = receive


def _inflate_without_limit():
    webapp.body.inflate = lambda chunks, _limit: zlib.decompress(b"".join(chunks), 31)


def _admit_everyone():
    def admit(self, conn):
        conn.brings_document, conn.line = True, None
        self._hand_over(conn)

    Worker._admit = admit
    Admission.turn = lambda self: contextlib.nullcontext()


def _watch_nothing():
    Watchdog.add = lambda self, watch: None


def _try_once():
    store.ATTEMPTS = 1


OFF_SWITCHES = {
    "whole-body": _receive_as_flask_does,
    "bounded-inflate": _inflate_without_limit,
    "no-admission": _admit_everyone,
    "no-watchdog": _watch_nothing,
    "one-attempt": _try_once,
}
"""Points that take a protection away: the test of it must then fail."""

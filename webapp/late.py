"""Refreshes the aggregates under documents that came late, in a thread of the worker process.

The refresh policies look at recent time only. Where something else does this
(the embedded database's runner), `TSSTATS_LATE_REFRESH=off`.
"""

from __future__ import annotations

import logging
import random
import threading

from ringstats_ts.config import Config
from ringstats_ts.errors import RingstatsError
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import refresh_late
from webapp import log

EVERY_SECONDS = 10.0


class LateRefresher:
    """A daemon thread with a connection of its own."""

    def __init__(self, config: Config, every: float = EVERY_SECONDS) -> None:
        if config.database_uri is None:
            raise ValueError("there is no database to refresh")
        # Without a bound on statements: a refresh of a long window takes as long as it takes.
        self._database = Database(config.database_uri)
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="late-refresh", daemon=True)

    def start(self) -> None:
        """Begin. Call it after the fork: threads do not survive one."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ask it to end, and wait; a refresh that is under way goes on in the database."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        # The first look comes soon, for what a stop left behind; jitter lets the workers take turns.
        pause = self._every * random.uniform(0, 0.2)
        while not self._stop.wait(pause):
            pause = self._every * random.uniform(0.8, 1.2)
            try:
                refresh_late(self._database)
            except RingstatsError as error:
                log.write(logging.WARNING, "late-refresh", error=error.code)
        self._database.close()

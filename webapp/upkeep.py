"""Upkeep in a thread of each worker process: pruning, and refreshes for documents that came late.

The refresh policies look at recent time only. Where something else does this
(the embedded database's runner), `TSSTATS_UPKEEP=off`.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading

from ringstats_ts.config import OWNER_VARIABLE, Config
from ringstats_ts.errors import RingstatsError
from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import catch_up
from ringstats_ts.storage.upkeep import run_upkeep
from webapp import log
from webapp.metrics import count_upkeep

EVERY_SECONDS = 10.0


class Upkeep:
    """A daemon thread with a connection of its own. Workers may overlap: each round is safe to repeat."""

    def __init__(self, config: Config, every: float = EVERY_SECONDS) -> None:
        if config.database_uri is None:
            raise ValueError("there is no database to look after")
        self._config = config
        # Without a bound on statements: a refresh of a long window takes as long as it takes.
        self._database = Database(config.database_uri, check=schema.check_texts)
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin. Call it after the fork: threads do not survive one."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ask it to end, and wait; a refresh that is under way goes on in the database."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        caught_up = False
        # The first look comes soon, for what a stop left behind; jitter lets the workers take turns.
        pause = self._every * random.uniform(0, 0.2)
        while not self._stop.wait(pause):
            pause = self._every * random.uniform(0.8, 1.2)
            try:
                caught_up = caught_up or catch_up(self._database) >= 0
                run_upkeep(self._database, self._config)
                count_upkeep()
            except RingstatsError as error:
                count_upkeep(error)
                log.write(logging.WARNING, "upkeep", error=error.code)
        self._database.close()


def end_with_owner() -> None:
    """Stop the web service when the process that started it is gone, however it ended.

    A killed `tsstats up` cannot stop what it started; the end of its pipe can.
    """
    if descriptor := os.environ.get(OWNER_VARIABLE):
        threading.Thread(target=_wait_for_end, args=(int(descriptor),), name="owner", daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    master = os.getppid()
    os.read(descriptor, 1)
    if os.getppid() == master:
        os.kill(master, signal.SIGTERM)

"""What the requests of one process share: settings, a connection per thread, small caches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

from flask import Flask, current_app

from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError, StorageError
from ringstats_ts.references import references
from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.overview import DayTraffic, Overview
from webapp.admission import Admission
from webapp.notes import Notes

READY_SECONDS = 2.0
OVERVIEW_SECONDS = 10.0
TRAFFIC_SECONDS = 60.0

T = TypeVar("T")


class Cached(Generic[T]):
    """What a costly look at the database gave, for some seconds; its failure too.

    One thread looks; the others wait for it or, where there is an older value, get that:
    a crowd of requests is one query.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._until = 0.0
        self._found: _Found[T] | None = None

    def get(self, look: Callable[[], T]) -> T:
        """The value; `look` is asked where it is too old.

        Raises
        ------
        StorageError
            as `look` raised it.
        """
        found = self._found
        if self._lock.acquire(blocking=found is None):
            try:
                found = self._refreshed(look)
            finally:
                self._lock.release()
        assert found is not None
        if found.error is not None:
            raise found.error.with_traceback(None)
        return found.values[0]

    def _refreshed(self, look: Callable[[], T]) -> _Found[T]:
        if self._found is None or monotonic() >= self._until:
            try:
                self._found = _Found([look()])
            except StorageError as error:
                self._found = _Found([], error)
            self._until = monotonic() + self._seconds
        return self._found


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    values: list[T]
    error: StorageError | None = None


class Service:
    """The settings, and the connection of the thread that asks."""

    def __init__(self, config: Config) -> None:
        if config.database_uri is None:
            raise ConfigError("No database is named. Set DATABASE_URI, or start with `tsstats up`.")
        self.config = config
        if config.places or config.networks or config.client_key:
            # A file that cannot be used ends the start, not the first log.
            references(config)
        self._uri = config.database_uri
        self._threads = threading.local()
        self.readiness: Cached[None] = Cached(READY_SECONDS)
        self.admission = Admission(config)
        self.notes = Notes()
        self.overview: Cached[Overview] = Cached(OVERVIEW_SECONDS)
        self.traffic: Cached[DayTraffic] = Cached(TRAFFIC_SECONDS)

    def attach(self, app: Flask) -> None:
        """Make this the service of the application."""
        app.extensions["tsstats"] = self

    def database(self) -> Database:
        """The connection of this thread, which opens when it is first used."""
        database: Database | None = getattr(self._threads, "database", None)
        if database is None:
            database = self._threads.database = Database(
                self._uri, self.config.database_timeout, check=schema.check_texts
            )
        return database


def service() -> Service:
    """The service of the application that runs."""
    found: Service = current_app.extensions["tsstats"]
    return found

"""A database that runs transactions side by side.

The embedded database runs one at a time, so that a lock taken away is missed by nobody there.
TSSTATS_TEST_DATABASE_URI names a server; else one is made of the machine's PostgreSQL, with
TimescaleDB where that is installed. Where neither can be had these tests are skipped.
"""

import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.storage.database import Database
from tests.conftest import SERVER
from tests.faults import timescale


@pytest.fixture(scope="session")
def database_uri(request):
    """A migrated database of these tests' own."""
    if SERVER is None:
        yield timescale.prepare(request.getfixturevalue("new_postgres")().__enter__())
        return
    with request.getfixturevalue("new_database")("side_by_side", migrated=True) as uri:
        yield uri


@pytest.fixture
def waits(database):
    """Runs something in a thread: `with waits(run) as ended: ...` begins when that waits for a lock.

    It fails where the thread ends without having waited. `ended` is its result, which is there
    after the block.
    """

    return lambda run: _Waiting(run, database)


class _Waiting:
    def __init__(self, run, database):
        self.result = None
        self._run, self._database = run, database
        self._thread = threading.Thread(target=self._work)

    def _work(self):
        try:
            self.result = self._run()
        except Exception as error:
            self.result = error

    def __enter__(self):
        self._thread.start()
        end = time.monotonic() + 30
        while not self._is_waiting():
            assert self._thread.is_alive(), f"It did not wait: {self.result!r}"
            assert time.monotonic() < end
            time.sleep(0.01)
        return self

    def __exit__(self, *exc):
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _is_waiting(self):
        return self._database.run(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )


@pytest.fixture
def open_transaction(database_uri, config):
    """Stores a document and does not commit: `hold(document)`, then `hold.commit()`."""
    return lambda: _Held(database_uri, config)


class _Held:
    """The transaction of an `ingest` in a thread, which stops before its COMMIT."""

    def __init__(self, uri, config):
        self._uri, self._config = uri, config
        self._stored, self._go_on = threading.Event(), threading.Event()
        self._errors = []

    def __enter__(self):
        return self

    def __call__(self, document, **told):
        def run():
            try:
                with _Holding(self._uri) as database:
                    database.reached, database.go_on = self._stored, self._go_on
                    payload = Payload(json.dumps(document).encode(), datetime.now(UTC), **told)
                    ingest(payload, database, self._config)
            except Exception as error:
                self._errors.append(error)
                self._stored.set()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert self._stored.wait(30)

    def commit(self):
        """Let it commit, and wait until it has."""
        self._go_on.set()
        self._thread.join(30)
        assert self._errors == []

    def __exit__(self, *exc):
        self.commit()


class _Holding(Database):
    @contextmanager
    def transaction(self):
        with super().transaction() as transaction:
            yield transaction
            transaction.flush()
            self.reached.set()
            assert self.go_on.wait(30)

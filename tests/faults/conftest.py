"""Databases and services that may be broken: one of each kind, whole and empty when a test begins."""

import json
import shutil
import uuid
from contextlib import ExitStack

import pytest

from tests.faults.targets import CONF, Embedded, Native
from tests.service import Server

TABLES = ("receipts", "tailscale_status", "tailscale_peers")


@pytest.fixture(scope="session")
def session_native(new_postgres):
    return Native(new_postgres(CONF).__enter__())


@pytest.fixture(scope="session")
def session_embedded(tmp_path_factory, migrated_data_dir):
    target = Embedded(shutil.copytree(migrated_data_dir, tmp_path_factory.mktemp("embedded") / "data"))
    yield target
    target.stop()


@pytest.fixture
def native(session_native):
    """A migrated PostgreSQL of our own, without documents; skips where none can be had."""
    session_native.empty()
    return session_native


@pytest.fixture
def embedded_target(session_embedded):
    session_embedded.empty()
    return session_embedded


@pytest.fixture(params=[pytest.param("postgres", marks=pytest.mark.faults), "embedded"])
def target(request):
    """Each of the databases in turn, without documents."""
    return request.getfixturevalue({"postgres": "native", "embedded": "embedded_target"}[request.param])


@pytest.fixture
def start_server(tmp_path):
    """Starts services that end with the test: `start_server(uri, "after-commit", TSSTATS_WORKERS="1")`."""
    with ExitStack() as stack:
        yield lambda uri, hooks=None, **settings: stack.enter_context(
            Server(uri, tmp_path, hooks, **settings)
        )


@pytest.fixture
def make_document(make_status):
    """Makes the bytes of a status document with that many peers, and headers with a key of its own."""

    def make(reporter="gateway", peers=3, rx_bytes=1000):
        names = {f"peer{number}": rx_bytes for number in range(peers)}
        return json.dumps(make_status(reporter, names)).encode(), {"Idempotency-Key": uuid.uuid4().hex}

    return make


@pytest.fixture
def stored():
    """How many receipts, status rows and peer rows a target has."""
    return lambda target: tuple(target.count(table) for table in TABLES)

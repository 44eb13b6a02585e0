"""One service for all of these tests, which must outlive them."""

import pytest

from ringstats_ts.storage.database import Database
from tests.hostile.intake import Intake
from tests.service import Server

WORKERS = 2


@pytest.fixture(scope="package")
def service(tmp_path_factory, database_uri):
    """The intake of a service as shipped, but that any number of hosts and series may be named."""
    many = {"TSSTATS_NEW_HOSTS": "1000000", "TSSTATS_NEW_SERIES": "100000000", "TSSTATS_MAX_HOSTS": "1000000"}
    directory = tmp_path_factory.mktemp("hostile")
    with Server(database_uri, directory, **many) as server, Database(database_uri) as database:
        server.wait_until(lambda: len(server.workers()) == WORKERS)
        yield Intake(server, database)


@pytest.fixture
def intake(service, make_status):
    """The intake; no test may end a worker, meet a bug, or leave it unable to take a good document."""
    workers = service.server.workers()
    yield service
    service.good(make_status("good", {"db": 1}))
    assert service.server.workers() == workers
    assert service.server.log_lines("bug") == []


@pytest.fixture
def status(make_status):
    """A status document in order, small."""
    return make_status("hostile", {"db": 1000})

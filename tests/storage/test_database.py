"""The connection: what is set on it."""

from datetime import timedelta

import pytest

from ringstats_ts.config import Config
from ringstats_ts.storage.database import Database
from webapp.service import Service


@pytest.mark.parametrize(
    ("timeout", "set_to"), [(None, "0"), (timedelta(seconds=7), "7s"), (timedelta(milliseconds=250), "250ms")]
)
def test_statements_are_bounded_as_asked(database_uri, timeout, set_to):
    with Database(database_uri, timeout) as database:
        assert database.run("SHOW statement_timeout") == [(set_to,)]
        assert database.run("SHOW TimeZone") == [("UTC",)]


def test_the_requests_of_the_web_service_are_bounded(database_uri):
    config = Config.from_env({"DATABASE_URI": database_uri})
    with Service(config).database() as database:
        assert database.run("SHOW statement_timeout") == [(f"{config.database_timeout.seconds}s",)]

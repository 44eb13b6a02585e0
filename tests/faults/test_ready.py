"""A database that answers but takes no document: `/readyz` says so before a post does."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest

from ringstats_ts.storage import overview
from ringstats_ts.storage.database import Database

PAGE = 8192


@pytest.fixture
def damage(native):
    """Spoils the first page of a table, as a disk does; the test has it back whole."""
    spoilt = {}

    def spoil(table):
        ((name, directory),) = native.run(
            f"SELECT pg_relation_filepath('{table}'), current_setting('data_directory')"
        )
        native.run("CHECKPOINT")
        native.cluster.stop()
        path = Path(directory, name)
        spoilt[path] = whole = path.read_bytes()
        path.write_bytes(b"\x55" * PAGE + whole[PAGE:])
        native.cluster.start()

    yield spoil
    native.cluster.stop()
    for path, whole in spoilt.items():
        path.write_bytes(whole)
    native.cluster.start()


@pytest.mark.parametrize("table", ["receipts", "hosts"])
def test_damage_is_seen(native, start_server, make_document, damage, table):
    body, _ = make_document()
    assert start_server(native.uri).post(body).status == 200
    damage(table)
    server = start_server(native.uri)
    assert server.get("/readyz").status == 503
    assert server.post(body).status == 503


def test_a_trial_waits_for_no_post_nor_for_another_trial(native, start_server, make_document):
    body, _ = make_document()
    assert start_server(native.uri).post(body).status == 200
    with closing(psycopg2.connect(native.uri)) as post, post.cursor() as cursor:
        cursor.execute("SELECT FROM hosts FOR UPDATE")
        cursor.execute(
            "INSERT INTO hosts (identity, name, first_seen, last_seen) VALUES ('x', 'x', now(), now())"
        )
        cursor.execute("LOCK TABLE budgets, receipts, tailscale_peers IN ROW EXCLUSIVE MODE")
        with (
            Database(native.uri, timedelta(seconds=2)) as one,
            Database(native.uri, timedelta(seconds=2)) as two,
            one.transaction(),
        ):
            overview.check_writable(one)
            overview.check_writable(two)

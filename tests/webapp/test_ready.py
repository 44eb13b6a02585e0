"""`/readyz` and `tsstats doctor` take the way of a post: what stops documents stops them."""

import pytest
from click.testing import CliRunner

from ringstats_ts.cli import main
from ringstats_ts.config import Config
from ringstats_ts.errors import LostClientKey, StorageError
from ringstats_ts.storage import overview
from ringstats_ts.storage.clientkey import check_client_key, check_kept_key

TABLES = (
    "hosts",
    "receipts",
    "attributes",
    "series",
    "samples",
    "tailscale_nodes",
    "tailscale_peers",
    "rejects",
)


@pytest.fixture
def ready(database):
    return lambda: overview.check_writable(database)


@pytest.fixture
def state(connection):
    """All that a trial could leave behind: rows, chunks, the numbers of sequences."""

    def read():
        with connection.cursor() as cursor:
            found = []
            for sql in (
                *(f"SELECT count(*) FROM {table}" for table in TABLES),
                "SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2",
                "SELECT count(*) FROM timescaledb_information.chunks",
            ):
                cursor.execute(sql)
                found.append(cursor.fetchall())
            return found

    return read


def test_leaves_nothing_behind(ready, state):
    before = state()
    for _ in range(3):
        ready()
    assert state() == before


REFUSING = """
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse()
"""


def check_after(database, harm):
    """The trial, in a transaction that does some harm."""
    with database.transaction() as transaction:
        transaction.query(harm)
        overview.check_writable(database)


@pytest.mark.parametrize("table", TABLES[:-1])
def test_a_table_that_takes_nothing_is_seen(database, status_of_today, table):
    with pytest.raises(StorageError):
        check_after(database, REFUSING.format(table))


def test_a_table_that_is_gone_is_seen(database):
    with pytest.raises(StorageError):
        check_after(database, "ALTER TABLE receipts RENAME TO gone")


def test_a_read_only_database_is_seen(database):
    with pytest.raises(StorageError, match="read-only"):
        check_after(database, "SET TRANSACTION READ ONLY")


@pytest.fixture
def status_of_today(server, body):
    """A document of now, so that there are chunks."""
    assert server.post(body).status == 200
    assert server.post(b'{"value": 1}', "/?host=a").status == 200


class TestKey:
    @pytest.fixture(autouse=True)
    def kept(self, database, clean):
        check_client_key(database, "f" * 16)

    def test_a_lost_one_is_seen_and_none_is_made(self, database, tmp_path):
        config = Config.from_env({"TSSTATS_DATA": str(tmp_path)})
        with pytest.raises(LostClientKey):
            check_kept_key(database, config)
        assert not any(tmp_path.iterdir())

    def test_another_one_is_seen(self, database):
        with pytest.raises(LostClientKey):
            check_kept_key(database, Config.from_env({"TSSTATS_CLIENT_KEY": "another key than before"}))

    def test_without_logs_none_is_needed(self, database, connection, tmp_path):
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM client_keys")
        check_kept_key(database, Config.from_env({"TSSTATS_DATA": str(tmp_path)}))
        assert not any(tmp_path.iterdir())

    def test_the_service_and_doctor_say_so(self, start_server, database_uri, tmp_path):
        answer = start_server(TSSTATS_DATA=str(tmp_path / "none")).get("/readyz")
        assert (answer.status, answer.json["type"]) == (503, "/problems/lost-client-key")
        told = CliRunner().invoke(
            main, ["doctor", "--database", database_uri, "--data", str(tmp_path / "none")]
        )
        assert told.exit_code == 1
        assert (
            "BAD posts        The logs in this database were stored with another client key." in told.output
        )


def test_doctor_says_that_documents_can_be_stored(database_uri, clean):
    told = CliRunner().invoke(main, ["doctor", "--database", database_uri])
    assert "ok  posts        a document can be written and read" in told.output

"""Migrations, and plain words about databases that cannot be used."""

import json
import os
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner
from yoyo.backends import DatabaseBackend

from ringstats_ts.cli import main
from ringstats_ts.config import Config
from ringstats_ts.errors import OutdatedSchema, QueryError, StorageUnavailable, UnsuitableDatabase
from ringstats_ts.storage import policies, schema
from ringstats_ts.storage.database import Database
from webapp import create_app


@pytest.fixture(scope="module")
def own_uri(new_database):
    """A database of this module's own, which it may take apart."""
    with new_database("schema") as uri:
        yield uri


def relations(database):
    return database.run(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
        " AND relname NOT LIKE '%%yoyo%%' AND NOT EXISTS (SELECT 1 FROM pg_depend AS d"
        " WHERE d.objid = pg_class.oid AND d.deptype = 'e') ORDER BY 1"
    )


def functions(database):
    return database.run(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND NOT EXISTS"
        " (SELECT 1 FROM pg_depend AS d WHERE d.objid = pg_proc.oid AND d.deptype = 'e') ORDER BY 1"
    )


def test_migrations_apply_roll_back_and_apply_again(own_uri):
    with Database(own_uri) as database:
        before = functions(database)
        assert schema.migrate(database, own_uri) == schema.shipped()
        assert schema.migrate(database, own_uri) == []
        made = relations(database), functions(database)
        assert schema.roll_back(database, own_uri) == schema.shipped()[-1:]
        with pytest.raises(
            OutdatedSchema, match=f"lacks 1 migration, from {schema.shipped()[-1]}.*tsstats migrate"
        ):
            schema.check(database)
        assert schema.roll_back(database, own_uri, everything=True) == schema.shipped()[-2::-1]
        assert relations(database) == []
        assert functions(database) == before
        assert schema.migrate(database, own_uri) == schema.shipped()
        assert (relations(database), functions(database)) == made
        assert schema.check(database).license == "timescale"


def test_a_running_service_says_that_the_tables_are_gone_and_goes_on_when_they_are_back(own_uri, make_status):
    client = create_app(Config.from_env({"DATABASE_URI": own_uri})).test_client()

    def post(rx_bytes):
        return client.post("/", data=json.dumps(make_status(peers={"db": rx_bytes})))

    with Database(own_uri) as database:
        schema.migrate(database, own_uri)
        assert post(1000).status_code == 200
        schema.roll_back(database, own_uri, everything=True)
        answer = post(2000)
        assert (answer.status_code, answer.json["type"]) == (503, "/problems/outdated-schema")
        assert answer.json["title"] == "The database lacks migrations."
        assert answer.json["detail"].endswith("Run `tsstats migrate`.")
        assert client.get("/", headers={"Accept": "text/html"}).status_code == 503
        with pytest.raises(QueryError, match="does not exist"):
            database.read("SELECT 1 FROM hosts")
        schema.migrate(database, own_uri)
        assert post(3000).status_code == 200
        assert database.run("SELECT count(*) FROM tailscale_status") == [(1,)]


def test_policies_are_registered_once_and_follow_the_configuration(own_uri):
    with Database(own_uri) as database:
        schema.migrate(database, own_uri)
        policies.apply(database, {})
        assert policies.apply(database, {}) == []
        overrides = {
            "TSSTATS_RETENTION_TAILSCALE_PEERS": "90 days",
            "TSSTATS_COLUMNSTORE_TAILSCALE_PEERS_5M": "never",
            "TSSTATS_REFRESH_TAILSCALE_PEERS_HOURLY": "start=4 days every=10 minutes",
        }
        assert len(policies.apply(database, overrides)) == 3
        assert policies.apply(database, overrides) == []
        registered = {
            (kind, relation): rest for kind, relation, *rest in database.rows("registered_policies")
        }
        assert registered["retention", "tailscale_peers"][0].days == 90
        assert ("columnstore", "tailscale_peers_5m") not in registered
        start, end, every = registered["refresh", "tailscale_peers_hourly"]
        assert (start.days, end.seconds, every.seconds) == (4, 3600, 600)
        assert len(policies.apply(database, {})) == 3


def test_every_refresh_has_a_batch_size_and_a_start_inside_retention(own_uri):
    with Database(own_uri) as database:
        schema.migrate(database, own_uri)
        policies.apply(database, {})
        refreshes = database.run(
            "SELECT config ->> 'buckets_per_batch', (config ->> 'start_offset')::interval"
            " FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'"
        )
        kept = min(p.after for p in policies.shipped(database) if p.kind == "retention" and p.after)
        aggregates = database.run(
            "SELECT count(*)::integer FROM timescaledb_information.continuous_aggregates"
        )
        assert aggregates == [(len(refreshes),)]
        for batch, start in refreshes:
            assert int(batch) == policies.BUCKETS_PER_BATCH
            assert start < kept


def test_a_database_that_is_away_is_told():
    with Database("postgresql://127.0.0.1:1/none") as database, pytest.raises(StorageUnavailable):
        schema.check(database)


class Answering(Database):
    """Answers the question about the server with what is given, all else for real."""

    def __init__(self, uri, server):
        super().__init__(uri)
        self.server = server

    def rows(self, name, params=None):
        return [self.server] if name == "server" else super().rows(name, params)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ((140010, "14.10", "2.20.0", True, "timescale"), "PostgreSQL 14.10; 15 or newer"),
        ((170005, "17.5", None, True, None), "no TimescaleDB.*CREATE EXTENSION"),
        ((170005, "17.5", None, False, None), "no TimescaleDB.*timescale/timescaledb"),
        ((170005, "17.5", "2.23.1", True, "apache"), "2.23.1 in its Apache edition"),
        ((170005, "17.5", "2.19.3", True, "timescale"), "2.19.3; 2.20 or newer"),
    ],
)
def test_what_is_wrong_with_the_server_is_said_in_one_sentence(database_uri, server, message):
    with Answering(database_uri, server) as database, pytest.raises(UnsuitableDatabase, match=message):
        schema.check_server(database)


@pytest.fixture
def altered(own_uri):
    """Makes the applied migrations others than this version's, for the length of a test."""
    with Database(own_uri) as database:
        schema.migrate(database, own_uri)
        policies.apply(database, {})
        yield lambda how: database.run(ALTERED[how])
        database.run("DELETE FROM _yoyo_migration WHERE migration_hash = 'ff'")
        schema.accept(database, own_uri)


ALTERED = {
    "newer": "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc)"
    " VALUES ('ff', '0099-from-the-future', now())",
    "other text": "UPDATE _yoyo_digest SET digest = 'another' WHERE migration_id LIKE '0003-%%'",
    "unknown text": "DELETE FROM _yoyo_digest WHERE migration_id LIKE '0003-%%'",
    "no digests": "DROP TABLE _yoyo_digest",
}
SAID = {
    "newer": "newer than this version: it has migration 0099-from-the-future",
    "other text": "another text of migration 0003-create-tailscale-tables",
    "unknown text": "another text of migration 0003-create-tailscale-tables",
    "no digests": "another text of migration 0001-create-core-tables",
}


@pytest.mark.parametrize("how", ALTERED)
def test_a_schema_that_is_not_this_versions_is_refused_by_every_way_in(own_uri, altered, how, tmp_path):
    altered(how)
    runner = CliRunner(env={"DATABASE_URI": own_uri})
    (tmp_path / "empty.json").write_text("{}")
    for words in (
        ["serve", "--listen", "127.0.0.1:1"],
        ["up", "--listen", "127.0.0.1:0"],
        ["ingest", str(tmp_path)],
        ["migrate"],
        ["query", "SELECT 1"],
        ["show", "gateway"],
        ["token", "list"],
        ["rejects", "list"],
        ["export", "--out", str(tmp_path / "out")],
        ["canary", "http://127.0.0.1:1", "--once"],
    ):
        if words[0] in ("serve", "up"):
            words[2] = f"127.0.0.1:{free_port()}"
        done = runner.invoke(main, words)
        assert done.exit_code == 1, (words, done.output)
        assert SAID[how] in done.output, (words, done.output)
        assert "another database (DATABASE_URI" in done.output
    doctor = runner.invoke(main, ["doctor"])
    assert doctor.exit_code == 1
    assert SAID[how] in doctor.output
    assert ("unknown" if how == "newer" else "changed") in runner.invoke(main, ["migrate", "--status"]).output


@pytest.mark.parametrize("how", ALTERED)
def test_a_service_that_waited_for_the_database_does_not_serve_it(own_uri, altered, how, make_status):
    altered(how)
    with Database(own_uri) as database:
        before = database.run("SELECT count(*) FROM receipts")
    client = create_app(Config.from_env({"DATABASE_URI": own_uri})).test_client()
    for answer in (client.post("/", data=json.dumps(make_status())), client.get("/readyz")):
        assert answer.status_code == 503
        assert SAID[how] in answer.json["detail"]
    with Database(own_uri) as database:
        assert database.run("SELECT count(*) FROM receipts") == before


def test_another_text_is_gone_on_with_where_that_is_asked_and_a_newer_schema_is_not(own_uri, altered):
    runner = CliRunner(env={"DATABASE_URI": own_uri})
    for how in ("other text", "unknown text", "no digests"):
        altered(how)
        assert runner.invoke(main, ["migrate", "--accept"]).exit_code == 0
        assert runner.invoke(main, ["query", "SELECT 1"]).exit_code == 0
    altered("newer")
    assert SAID["newer"] in runner.invoke(main, ["migrate", "--accept"]).output
    with Database(own_uri) as database, pytest.raises(UnsuitableDatabase, match="0099-from-the-future"):
        schema.roll_back(database, own_uri)


def test_a_migration_that_was_cut_off_is_applied_with_the_text_of_that_time(own_uri):
    with Database(own_uri) as database:
        schema.migrate(database, own_uri)
        schema.roll_back(database, own_uri)
        database.run("UPDATE _yoyo_digest SET digest = 'of before' WHERE migration_id = %(last)s", LAST)
        schema.migrate(database, own_uri)
        schema.check(database)


LAST = {"last": schema.shipped()[-1]}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_two_migrate_at_once_and_each_migration_is_applied_once(new_database):
    with new_database("at_once") as uri:
        command = [sys.executable, "-m", "ringstats_ts.cli", "migrate"]
        environment = os.environ | {"DATABASE_URI": uri}
        runs = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        lines = "".join(run.communicate(timeout=300)[0] for run in runs).splitlines()
        assert [run.returncode for run in runs] == [0, 0]
        assert sorted(line for line in lines if line.startswith("applied")) == [
            f"applied {name}" for name in schema.shipped()
        ]


@pytest.mark.parametrize("direction", ["apply", "rollback"])
def test_a_migration_that_is_cut_off_before_it_is_noted_can_be_done_again(
    new_database, monkeypatch, direction
):
    with new_database(f"cut_{direction}") as uri, Database(uri) as database:
        if direction == "rollback":
            schema.migrate(database, uri)
        do = {"apply": schema.migrate, "rollback": schema.roll_back}[direction]
        note = {"apply": "mark_one", "rollback": "unmark_one"}[direction]
        with monkeypatch.context() as cut:
            cut.setattr(DatabaseBackend, note, killed)
            with pytest.raises(KeyboardInterrupt):
                do(database, uri)
        assert do(database, uri)
        schema.migrate(database, uri)
        assert schema.pending(database) == []


def killed(*_arguments, **_options):
    raise KeyboardInterrupt

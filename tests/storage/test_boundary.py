"""PUBLIC loses what is not reading: by itself in a database of our own, when asked in one that is shared."""

import os
import secrets

import psycopg2
import psycopg2.extensions
import pytest
from click.testing import CliRunner

from ringstats_ts.cli import main
from ringstats_ts.storage import boundary, health, policies, schema
from ringstats_ts.storage.database import Database
from tests.conftest import SERVER

ROLE = f"tsstats_owner_{os.getpid()}"


@pytest.fixture(scope="module")
def own_uri(new_database):
    """A migrated database of this module's own."""
    with new_database("boundary") as uri:
        with Database(uri) as database:
            schema.migrate(database, uri)
            policies.apply(database, {})
        yield uri


@pytest.fixture
def own(own_uri):
    """That database, as it comes from the server: open."""
    with Database(own_uri) as database:
        for privilege in (
            "TEMPORARY ON DATABASE " + database.run("SELECT quote_ident(current_database())")[0][0],
            "EXECUTE ON FUNCTION lo_create",
            "EXECUTE ON FUNCTION _timescaledb_functions.freeze_chunk",
        ):
            database.run(f"GRANT {privilege} TO PUBLIC")
        yield database


def finding(database):
    return next(found for found in health.examine(database, {}) if found.subject == "reader")


def test_a_database_of_our_own_is_closed_without_being_asked(own, own_uri):
    assert not boundary.is_shared(own)
    assert not finding(own).ok
    assert boundary.close(own, own_uri) >= 3
    assert finding(own) == health.Finding("reader", True, "a login in tsstats_reader can only read")
    assert boundary.close(own, own_uri) == 0


def test_what_an_update_of_the_extension_grants_again_is_said_and_mended(own, own_uri):
    boundary.close(own, own_uri)
    own.run("CREATE FUNCTION later() RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT 1'")
    own.run("ALTER EXTENSION timescaledb ADD FUNCTION later()")
    try:
        assert "1 privilege, such as EXECUTE ON ROUTINE public.later()" in finding(own).detail
        assert boundary.close(own, own_uri) == 1
        assert finding(own).ok
    finally:
        own.run("ALTER EXTENSION timescaledb DROP FUNCTION later()")
        own.run("DROP FUNCTION later()")


@pytest.mark.parametrize(
    ("make", "drop"),
    [
        ("CREATE TABLE other (x integer)", "DROP TABLE other"),
        ("CREATE SCHEMA app CREATE VIEW v AS SELECT 1", "DROP SCHEMA app CASCADE"),
        (
            f"CREATE ROLE {ROLE}_other; CREATE SCHEMA app AUTHORIZATION {ROLE}_other",
            f"DROP SCHEMA app; DROP ROLE {ROLE}_other",
        ),
    ],
    ids=["table", "view-elsewhere", "owner"],
)
def test_a_shared_database_is_closed_when_that_is_asked(own, own_uri, make, drop):
    own.run(make)
    try:
        assert boundary.is_shared(own)
        assert boundary.close(own, own_uri) == 0
        assert "`tsstats migrate --harden` takes them away" in finding(own).detail
        runner = CliRunner(env={"DATABASE_URI": own_uri})
        said = runner.invoke(main, ["migrate"]).output
        assert "tsstats_reader may do more than read" in said
        statements = runner.invoke(main, ["migrate", "--harden", "--print"]).output.splitlines()
        assert "REVOKE EXECUTE ON ROUTINE pg_catalog.lo_create(oid) FROM PUBLIC;" in statements
        assert not finding(own).ok
        assert "took " in runner.invoke(main, ["migrate", "--harden"]).output
        assert finding(own).ok
    finally:
        own.run(drop)


@pytest.mark.skipif(SERVER is None, reason="the embedded database has no logins")
def test_a_role_that_is_not_a_superuser_shows_what_is_left_for_one():
    password, name = secrets.token_hex(16), f"tsstats_managed_{os.getpid()}"
    administrator = psycopg2.connect(SERVER)
    administrator.autocommit = True
    cursor = administrator.cursor()
    cursor.execute(f"CREATE ROLE {ROLE} LOGIN CREATEROLE PASSWORD '{password}'")
    cursor.execute(f"CREATE DATABASE {name} OWNER {ROLE}")
    dsn = {"user": ROLE, "password": password, "dbname": name}
    uri = psycopg2.extensions.make_dsn(SERVER, **dsn)
    superuser = psycopg2.extensions.make_dsn(SERVER, dbname=name)
    try:
        with Database(superuser) as database:
            database.run("CREATE EXTENSION timescaledb")
            database.run("SELECT _timescaledb_functions.stop_background_workers()")
        runner = CliRunner(env={"DATABASE_URI": uri})
        done = runner.invoke(main, ["migrate"])
        assert done.exit_code == 0, done.output
        assert "took 1 privilege" in done.output
        assert "`tsstats migrate --harden --print` prints what a superuser has to run" in done.output
        doctor = runner.invoke(main, ["doctor"])
        assert doctor.exit_code == 1
        assert "BAD" in next(line for line in doctor.output.splitlines() if " reader " in line)
        statements = runner.invoke(main, ["migrate", "--harden", "--print"]).output
        with Database(superuser) as database:
            database.run(statements)
        doctor = runner.invoke(main, ["doctor"])
        assert doctor.exit_code == 0, doctor.output
        # It keeps by name what it had as a part of PUBLIC: policies, jobs, refreshes, temporary tables.
        done = runner.invoke(
            main, ["migrate"], env={"TSSTATS_RETENTION_TAILSCALE_PEERS": "9 days"}, catch_exceptions=False
        )
        assert "set retention of tailscale_peers" in done.output
        with Database(uri) as database:
            database.run("CALL refresh_continuous_aggregate('tailscale_peers_5m', NULL, NULL)")
            database.run("CREATE TEMPORARY TABLE t ()")
            database.run("SELECT drop_chunks('tailscale_peers', older_than => INTERVAL '1 day')")
            jobs = database.run("SELECT job_id FROM timescaledb_information.jobs WHERE job_id >= 1000")
            for (job,) in jobs:
                database.run(f"CALL run_job({job})")
    finally:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        cursor.execute(f"DROP ROLE {ROLE}")
        administrator.close()

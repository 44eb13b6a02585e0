"""The login that `migrate` makes: it only reads, its password is in one file and nowhere else."""

import os
import stat
from pathlib import Path

import psycopg2
import pytest
from click.testing import CliRunner
from psycopg2.extensions import make_dsn

from ringstats_ts.cli import main
from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError, StorageError
from ringstats_ts.storage import connect, login, schema
from ringstats_ts.storage.database import Database
from tests.conftest import SERVER
from tests.faults import timescale

HBA = """
host all tsstats_login all scram-sha-256
host all all all trust
"""


@pytest.fixture(scope="module")
def server(new_postgres):
    """A server of our own, since a role is one of all its databases; it logs everything."""
    cluster = new_postgres({"log_statement": "all", "log_min_error_statement": "debug5"})
    with cluster:
        cluster.migrated = timescale.prepare(cluster)
        (cluster.directory / "data" / "pg_hba.conf").write_text(HBA)
        cluster.run("SELECT pg_reload_conf()")
        yield cluster


@pytest.fixture
def uri(server):
    server.run("DROP ROLE IF EXISTS tsstats_login")
    return server.migrated


@pytest.fixture
def database(uri):
    with Database(uri) as database:
        yield database


@pytest.fixture
def config(uri, tmp_path):
    return settings(uri, tmp_path / "data")


def settings(uri, data_dir, **more):
    return Config.from_env({}, database_uri=uri, data_dir=data_dir, **more)


def kept(config):
    (path,) = config.data_dir.glob("tsstats_login-*")
    return path


def verifier(database):
    return database.run("SELECT rolpassword FROM pg_authid WHERE rolname = 'tsstats_login'")


def tsstats(config, *words, **environment):
    environment = {"DATABASE_URI": config.database_uri, "TSSTATS_DATA": str(config.data_dir)} | environment
    return CliRunner(env=environment).invoke(main, list(words))


def reader(config):
    """Who reads what a person asks."""
    # A process of its own would know of no refusal.
    connect.gate.cache_clear()
    done = tsstats(config, "query", "SELECT session_user AS session, current_user AS who", "--csv")
    assert done.exit_code == 0, done.output
    return done.output.splitlines()[1]


def route(config):
    return next(
        line for line in tsstats(config, "doctor").output.splitlines() if line[4:].startswith("query")
    )


BY_FUNCTION = "postgres,tsstats_query"
BY_LOGIN = "tsstats_login,tsstats_login"


def test_it_is_made_once_and_then_reads(database, config):
    assert reader(config) == BY_FUNCTION
    assert "by the function tsstats_query: There is no tsstats_login. `tsstats migrate` makes it" in route(
        config
    )
    assert login.make(database, config)
    before = kept(config).read_text(), verifier(database)
    assert not login.make(database, config)
    assert (kept(config).read_text(), verifier(database)) == before
    assert reader(config) == BY_LOGIN
    assert "reads as the login tsstats_login" in route(config)
    assert login.elsewhere(database, config) is None


def test_the_file_is_for_this_user_alone_and_named_for_the_server(database, config):
    login.make(database, config)
    ((identifier,),) = database.run("SELECT system_identifier::text FROM pg_control_system()")
    assert kept(config).name == f"tsstats_login-{identifier}"
    assert stat.S_IMODE(kept(config).stat().st_mode) == 0o600
    assert [path.name for path in config.data_dir.iterdir()] == [kept(config).name]


def test_the_server_sees_no_password(database, config, server):
    login.make(database, config)
    assert reader(config) == BY_LOGIN
    password = kept(config).read_text().strip()
    assert len(password) >= 43
    assert "CREATE ROLE tsstats_login LOGIN PASSWORD 'SCRAM-SHA-256$" in server.log
    assert password not in server.log


def test_it_has_its_bounds(database, config):
    login.make(database, config)
    ((limit, member, options),) = database.run(
        "SELECT rolconnlimit, ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = r.oid),"
        " rolconfig FROM pg_roles AS r WHERE rolname = 'tsstats_login'"
    )
    assert (limit, member) == (20, ["tsstats_reader"])
    assert sorted(options) == [
        "default_transaction_read_only=on",
        "idle_in_transaction_session_timeout=30s",
        "statement_timeout=30s",
        "temp_file_limit=2GB",
    ]
    with login.connect(database, config.database_uri, config) as as_login:
        with pytest.raises(StorageError, match="read-only"):
            as_login.run("CREATE TABLE t ()")
        with pytest.raises(StorageError, match="permission denied"):
            as_login.run("SELECT * FROM tokens")


def test_a_role_that_may_create_roles_makes_it_too(database, config, uri):
    database.run("CREATE ROLE creator LOGIN CREATEROLE")
    database.run("GRANT tsstats_reader TO creator WITH ADMIN OPTION")
    with Database(make_dsn(uri, user="creator")) as creator:
        assert login.make(creator, config)
    assert reader(config) == BY_LOGIN
    database.run("DROP ROLE tsstats_login; DROP ROLE creator")


def test_who_may_create_no_roles_makes_nothing(database, config, uri):
    database.run("CREATE ROLE nobody LOGIN")
    with Database(make_dsn(uri, user="nobody")) as other:
        assert not login.make(other, config)
    database.run("DROP ROLE nobody")
    assert not config.data_dir.exists()
    assert verifier(database) == []
    assert reader(config) == BY_FUNCTION


def test_another_machine_leaves_the_password_as_it_is(database, config, tmp_path):
    login.make(database, config)
    before = verifier(database)
    other = settings(config.database_uri, tmp_path / "other")
    assert not login.make(database, other)
    assert verifier(database) == before
    assert not other.data_dir.exists()
    assert reader(other) == BY_FUNCTION
    said = (
        "Copy that file from the TSSTATS_DATA of the machine that made the login, or set DATABASE_READ_URI."
    )
    assert said in login.elsewhere(database, other)
    assert said in route(other)
    other.data_dir.mkdir()
    (other.data_dir / kept(config).name).write_bytes(kept(config).read_bytes())
    assert reader(other) == BY_LOGIN


@pytest.mark.parametrize("text", ["", "another password\n", "\xff\x00\n"])
def test_a_password_that_does_not_fit_is_left_and_the_function_reads(database, config, text):
    login.make(database, config)
    before = verifier(database)
    kept(config).write_text(text, encoding="latin-1")
    assert not login.make(database, config)
    assert (verifier(database), kept(config).read_text(encoding="latin-1")) == (before, text)
    assert reader(config) == BY_FUNCTION
    assert "by the function" in route(config)
    assert "another password" not in route(config)


def test_a_login_that_is_lost_gets_the_password_that_is_kept(database, config):
    login.make(database, config)
    before = kept(config).read_text()
    database.run("DROP ROLE tsstats_login")
    assert reader(config) == BY_FUNCTION
    assert login.make(database, config)
    assert kept(config).read_text() == before
    assert reader(config) == BY_LOGIN


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ("GRANT pg_write_all_data TO tsstats_login", "REVOKE pg_write_all_data FROM tsstats_login"),
        ("GRANT INSERT ON drift TO tsstats_login", "REVOKE INSERT ON drift FROM tsstats_login"),
        ("REVOKE tsstats_reader FROM tsstats_login", "GRANT tsstats_reader TO tsstats_login"),
        ("ALTER ROLE tsstats_login NOLOGIN", "ALTER ROLE tsstats_login LOGIN"),
        ("ALTER ROLE tsstats_login CONNECTION LIMIT 0", "ALTER ROLE tsstats_login CONNECTION LIMIT 20"),
    ],
)
def test_one_that_can_do_more_or_nothing_is_not_used(database, config, more, less):
    login.make(database, config)
    database.run(more)
    try:
        assert reader(config) == BY_FUNCTION
        with pytest.raises(ConfigError):
            login.connect(database, config.database_uri, config)
    finally:
        database.run(less)
    assert reader(config) == BY_LOGIN


def test_where_a_login_is_named_none_is_made(database, config, uri):
    named = settings(uri, config.data_dir, database_read_uri=make_dsn(uri, user="ana"))
    assert not login.make(database, named)
    assert not config.data_dir.exists()
    database.run("CREATE ROLE ana LOGIN IN ROLE tsstats_reader")
    try:
        done = tsstats(config, "doctor", DATABASE_READ_URI=named.database_read_uri)
        assert "reads as the login of DATABASE_READ_URI" in done.output
        done = tsstats(config, "doctor", DATABASE_READ_URI=uri)
        assert "DATABASE_READ_URI cannot be used: The login may do more than read." in done.output
    finally:
        database.run("DROP ROLE ana")


def test_a_directory_that_cannot_be_written_is_no_error(database, uri, tmp_path):
    (tmp_path / "file").touch()
    assert not login.make(database, settings(uri, tmp_path / "file" / "data"))
    assert verifier(database) == []


def test_the_rollback_takes_it_away_with_the_reader(database, config, uri):
    login.make(database, config)
    text = (Path(__file__).parents[2] / "migrations/0007-create-reader-role.rollback.sql").read_text()
    *_, last = text.rstrip().removesuffix(";").rpartition("DO $$")
    # While anything refers to the reader, both stay.
    database.run(f"DO $${last}")
    assert reader(config) == BY_LOGIN
    with psycopg2.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION tsstats_query; DROP OWNED BY tsstats_reader, tsstats_query")
        cursor.execute(f"DO $${last}")
        cursor.execute("SELECT count(*) FROM pg_roles WHERE rolname IN ('tsstats_login', 'tsstats_reader')")
        assert cursor.fetchall() == [(0,)]
        connection.rollback()


@pytest.mark.skipif(SERVER is not None, reason="for the embedded database")
def test_the_embedded_database_has_none(database_uri, tmp_path):
    config = settings(None, tmp_path / "data")
    with Database(database_uri) as embedded:
        assert schema.is_embedded(embedded)
        assert not login.make(embedded, config)
        assert login.elsewhere(embedded, config) is None
        with pytest.raises(ConfigError, match="embedded database has no logins"):
            login.connect(embedded, database_uri, config)
        assert embedded.run("SELECT count(*) FROM pg_roles WHERE rolname = 'tsstats_login'") == [(0,)]
    assert not os.path.lexists(config.data_dir)

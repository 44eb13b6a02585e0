"""A person's SQL reads as tsstats_reader, whatever it says: it changes nothing and sees nothing else."""

import contextlib
import os
import secrets
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn

from ringstats_ts.cli import main
from ringstats_ts.errors import ConfigError, QueryError
from ringstats_ts.storage import reading
from ringstats_ts.storage.database import Database
from tests.conftest import SERVER

KINDS = """
SELECT
    1::smallint AS a, 9223372036854775807 AS b, 1.10 AS c, 0.1::real AS d, 1e20::double precision AS e,
    'NaN'::double precision AS f, '-Infinity'::double precision AS g, 'NaN'::numeric AS h, true AS i,
    NULL::text AS j, '' AS k, E'a"b\\\\c,(d)\\n\\te' AS l, '{1,NULL,3}'::bigint[] AS m,
    ARRAY['x,"y', NULL, 'z\\'] AS n, '2026-01-02 03:04:05.678901+05'::timestamptz AS o,
    '2026-01-02 03:04:05'::timestamp AS p, '2026-01-02'::date AS q, '12:13:14'::time AS r,
    INTERVAL '1 day 2 hours -3 seconds' AS s, '\\x00ff'::bytea AS t, '{"a": [1, null]}'::jsonb AS u,
    '10.0.0.1/8'::inet AS v, '00000000-0000-0000-0000-000000000001'::uuid AS w, ROW(1, 'x y') AS x,
    ARRAY['2026-01-02Z'::timestamptz] AS y, 'hosts'::regclass AS z, 1 AS a, '{}'::aclitem[] AS ab
"""

ATTEMPTS = [
    # Out of one statement, by whatever a lexer may take for another thing than the server does.
    r"SELECT '\'; COMMIT; RESET ROLE; CREATE TABLE pwned(a int); --'",
    "SELECT 1; CREATE TABLE pwned(a int)",
    "SELECT 1; COMMIT; CREATE TABLE pwned(a int)",
    "SELECT 1 /* /* */ ; */ ; CREATE TABLE pwned(a int) -- */",
    "SELECT $a$ $$ $a$; CREATE TABLE pwned(a int)",
    "SELECT U&'\\0027; --'; CREATE TABLE pwned(a int)",
    'SELECT 1 AS "a""; --"; CREATE TABLE pwned(a int)',
    "SELECT 1 \x00; CREATE TABLE pwned(a int)",
    # Out of the role.
    "SELECT set_config('role', 'none', false)",
    "SELECT set_config('role', 'none', false), query_to_xml('SELECT * FROM tokens', true, true, '')",
    "SELECT set_config('session_authorization', 'postgres', false)",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SET ROLE postgres",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION postgres",
    "RESET SESSION AUTHORIZATION",
    "SET LOCAL statement_timeout = 0",
    "UPDATE pg_settings SET setting = 'none' WHERE name = 'role' RETURNING 1",
    # Text within text.
    "SELECT query_to_xml('SELECT * FROM tokens', true, true, '')",
    "SELECT query_to_xml('DELETE FROM hosts RETURNING 1', true, true, '')",
    "SELECT table_to_xml('tokens', true, true, '')",
    "SELECT cursor_to_xml('rows', 1, true, true, '') FROM tokens",
    "SELECT * FROM ts_stat('SELECT digest::text::tsvector FROM tokens')",
    "SELECT ts_rewrite('a'::tsquery, 'SELECT key_id::tsquery, key_id::tsquery FROM tokens')",
    "DO $$ BEGIN PERFORM set_config('role', 'none', false); RAISE '%', pg_read_file('pg_hba.conf'); END $$",
    "EXECUTE x",
    "PREPARE x AS SELECT * FROM tokens",
    "DEALLOCATE ALL",
    "SELECT * FROM tsstats_query('SELECT * FROM tokens', 1, 1)",
    # Files and programs.
    "COPY (SELECT 1) TO '/tmp/pwned'",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY hosts TO STDOUT",
    "COPY hosts FROM '/etc/passwd'",
    "SELECT pg_read_file('pg_hba.conf')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/pwned')",
    "LOAD '/tmp/pwned'",
    # What writes.
    "INSERT INTO drift VALUES ('s', 'p', 1, now()) RETURNING 1",
    "WITH a AS (DELETE FROM hosts RETURNING 1) SELECT * FROM a",
    "WITH a AS (UPDATE hosts SET name = 'x' RETURNING 1) SELECT * FROM a",
    "MERGE INTO hosts USING (VALUES (1)) AS v (x) ON false WHEN NOT MATCHED THEN DO NOTHING",
    "SELECT 1 INTO pwned",
    "CREATE TEMPORARY TABLE pwned AS SELECT 1",
    "SELECT nextval('series_series_id_seq')",
    "TRUNCATE hosts",
    "VACUUM",
    "ALTER FUNCTION tsstats_query OWNER TO tsstats_reader",
    "DROP OWNED BY tsstats_query",
    "DROP OWNED BY CURRENT_USER",
    "ALTER ROLE CURRENT_USER LOGIN PASSWORD 'x'",
    "GRANT tsstats_query TO tsstats_reader",
    "REFRESH MATERIALIZED VIEW tailscale_peers_5m",
    "CALL refresh_continuous_aggregate('tailscale_peers_5m', NULL, NULL)",
    "CALL run_job(1000)",
    "SELECT drop_chunks('tailscale_peers', older_than => now())",
    "SELECT _timescaledb_functions.drop_chunk('x'::regclass)",
    "SELECT add_job('now', '1s')",
    # What waits, or makes others wait.
    "SELECT 1 FROM hosts FOR UPDATE",
    "SELECT 1 FROM hosts FOR KEY SHARE",
    "LOCK TABLE hosts IN ACCESS EXCLUSIVE MODE",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared(1, 2)",
    "SELECT pg_sleep(1000)",
    "SELECT pg_notify('a', 'b')",
    "LISTEN a",
    "NOTIFY a",
    "FETCH ALL FROM rows",
    "MOVE ALL FROM rows",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "SELECT * FROM tokens",
    "SELECT * FROM client_keys",
    "SELECT rolpassword FROM pg_authid",
    # What is not a statement.
    "",
    ";",
    "-- nothing",
    "SELECT $1",
    "SELECT 'unfinished",
    "SELECT /* unfinished",
    "SELECT \udcff",
    "SHOW data_directory",
    "EXPLAIN SELECT 1",
]


def state(database):
    return database.run(
        "SELECT (SELECT count(*) FROM hosts), (SELECT name FROM hosts), (SELECT count(*) FROM drift),"
        " to_regclass('public.pwned') IS NULL, (SELECT count(*) FROM pg_largeobject_metadata),"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
        " has_table_privilege('tsstats_reader', 'tailscale_peers', 'SELECT'), current_user,"
        " current_setting('statement_timeout'), (SELECT max(last_value) FROM pg_sequences"
        "  WHERE sequencename = 'series_series_id_seq'),"
        " (SELECT string_agg(r::text, ',' ORDER BY r::text) FROM pg_roles AS r"
        "  WHERE rolname IN ('tsstats_reader', 'tsstats_query'))"
    )


@pytest.fixture
def read(database):
    database.run(
        "INSERT INTO hosts (identity, name, first_seen, last_seen) VALUES ('a', 'gateway', now(), now())"
    )
    return database.read


@pytest.mark.parametrize("sql", ATTEMPTS)
def test_refuses_whatever_is_not_one_statement_that_reads_the_data(database, read, sql):
    before = state(database)
    with pytest.raises(QueryError) as caught:
        read(sql)
    assert "gateway" not in str(caught.value)
    assert state(database) == before
    assert read("SELECT name FROM hosts").rows == [("gateway",)]


def test_gives_what_the_driver_gives(database, read, connection):
    answer = read(KINDS)
    with connection.cursor() as cursor:
        cursor.execute(KINDS)
        (expected,) = cursor.fetchall()
        names = [column.name for column in cursor.description]
    assert answer.columns == names
    (found,) = answer.rows
    assert [(type(value), str(value)) for value in map(plain, found)] == [
        (type(value), str(value)) for value in map(plain, expected)
    ]


def plain(value):
    return bytes(value) if isinstance(value, memoryview) else value


@pytest.mark.parametrize(
    "sql",
    [
        "TABLE hosts",
        "VALUES (1, NULL), (2, 'x')",
        "WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a WHERE n < 5) SELECT * FROM a",
        "SELECT * FROM tailscale_traffic(now() - INTERVAL '1 day', now())",
        "SELECT time_bucket('1 hour', time) AS t, count(*) FROM tailscale_peers GROUP BY 1 ORDER BY 1; ",
        "SELECT 1 AS a, 2 AS a WHERE false -- none",
        "SELECT",
        "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1 DESC",
        "SELECT * FROM timescaledb_information.hypertables",
    ],
)
def test_reads_what_the_reader_may(database, read, connection, sql):
    answer = read(sql)
    with connection.cursor() as cursor:
        cursor.execute(sql)
        assert answer.columns == [column.name for column in cursor.description or ()]
        assert len(answer.rows) == (len(cursor.fetchall()) if cursor.description else 1)


def test_more_rows_or_bytes_than_are_allowed_are_an_error(read, monkeypatch):
    monkeypatch.setattr(reading, "MAX_ROWS", 1000)
    assert len(read("SELECT generate_series(1, 1000)").rows) == 1000
    for sql in ("SELECT generate_series(1, 1001)", "SELECT generate_series(1, 1e12)"):
        with pytest.raises(QueryError, match="more than 1000 rows.*LIMIT"):
            read(sql)
    monkeypatch.setattr(reading, "MAX_BYTES", 1_000_000)
    assert read("SELECT repeat('x', 400000) AS a").rows == [("x" * 400_000,)]
    with pytest.raises(QueryError, match="or 1000000 bytes"):
        read("SELECT repeat('x', 2000000), generate_series(1, 1e12)")


@pytest.mark.skipif(SERVER is None, reason="no statement of the embedded database can be interrupted")
def test_a_statement_that_takes_too_long_ends(read, monkeypatch):
    monkeypatch.setattr(reading, "MAX_SECONDS", 1)
    began = datetime.now(UTC)
    with pytest.raises(QueryError, match="statement timeout"):
        read("SELECT count(*) FROM generate_series(1, 1e12)")
    assert (datetime.now(UTC) - began).total_seconds() < 10


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1
    )
)
def test_every_text_comes_back(database_uri, values):
    with Database(database_uri) as database:
        columns = ", ".join(
            "NULL" if value is None else "'" + value.replace("'", "''") + "'" for value in values
        )
        assert database.read(f"SELECT {columns}").rows == [tuple(values)]


def test_the_function_is_for_the_service_alone(connection):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT has_function_privilege('tsstats_reader', p.oid, 'EXECUTE'), r.rolname, r.rolcanlogin,"
            " r.rolsuper, ARRAY(SELECT m.member::regrole::text FROM pg_auth_members AS m"
            "  WHERE m.roleid = r.oid AND m.member <> current_user::regrole)"
            " FROM pg_proc AS p INNER JOIN pg_roles AS r ON r.oid = p.proowner"
            " WHERE proname = 'tsstats_query'"
        )
        assert cursor.fetchall() == [(False, "tsstats_query", False, False, [])]


def test_as_json_for_who_asks_in_sql(connection):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT document, names FROM tsstats_query($$VALUES (1, 'x'), (2.5, NULL)$$, 10, 1000)"
        )
        assert cursor.fetchall() == [
            ({"column1": 1, "column2": "x"}, None),
            ({"column1": 2.5, "column2": None}, None),
            (None, ["column1", "column2"]),
        ]


@pytest.fixture
def login_uri(database_uri, database):
    """A login in tsstats_reader, as an administrator makes one."""
    name, password = f"tsstats_test_login_{os.getpid()}", secrets.token_hex(16)
    database.run(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE tsstats_reader")
    yield make_dsn(database_uri, user=name, password=password)
    database.run(f"DROP ROLE {name}")


@pytest.mark.skipif(SERVER is None, reason="the embedded database has no logins")
def test_a_login_that_only_reads_is_used_and_another_is_not(database_uri, login_uri, read, monkeypatch):
    runner = CliRunner(env={"DATABASE_READ_URI": login_uri, "DATABASE_URI": None})
    done = runner.invoke(main, ["query", "SELECT current_user, name FROM hosts", "--csv"])
    assert done.output.splitlines()[1].split(",") == [f"tsstats_test_login_{os.getpid()}", "gateway"]
    with Database(login_uri) as reader, Database(database_uri) as owner:
        before = state(owner)
        for sql in ATTEMPTS:
            # It may set what is its own: that ends with the transaction.
            with contextlib.suppress(QueryError):
                assert reader.read(sql, login=True).rows == [], sql
            assert state(owner) == before, sql
        monkeypatch.setattr(reading, "MAX_ROWS", 1000)
        with pytest.raises(QueryError, match="more than 1,000 rows"):
            reader.read("SELECT generate_series(1, 1e12)", login=True)
        with pytest.raises(ConfigError, match="may do more than read"):
            owner.read("SELECT 1", login=True)


@pytest.mark.skipif(SERVER is None, reason="the embedded database has no logins")
def test_a_login_gives_what_the_function_gives(read, login_uri):
    with Database(login_uri) as reader:
        mine, of_function = reader.read(KINDS, login=True), read(KINDS)
    assert mine.columns == of_function.columns
    assert list(map(plain, mine.rows[0])) != []
    assert [str(plain(value)) for value in mine.rows[0]] == [
        str(plain(value)) for value in of_function.rows[0]
    ]

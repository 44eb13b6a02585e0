"""A login in tsstats_reader can read and nothing else, whatever it calls: nothing changes, nothing waits."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import pytest

from ringstats_ts.storage import boundary
from ringstats_ts.storage.database import Database

NATIVE = "TSSTATS_TEST_DATABASE_URI" in os.environ
LOGIN = f"tsstats_test_reader_{os.getpid()}"

CALLABLE = """
SELECT
    p.oid::regproc::text,
    p.prokind::text,
    n.nspname,
    p.proname::text,
    ARRAY(SELECT t::regtype::text FROM unnest(p.proargtypes) AS t),
    p.provolatile::text
FROM pg_proc AS p
INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE
    has_schema_privilege(%(login)s, n.oid, 'USAGE') AND has_function_privilege(%(login)s, p.oid, 'EXECUTE')
    AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
    AND NOT ('internal'::regtype = ANY (p.proargtypes::oid[]))
    AND (p.provolatile = 'v' OR p.prosecdef)
ORDER BY 1, 5
"""

VALUES = {
    "bigint": "1",
    "boolean": "true",
    "bytea": r"'\x01'",
    "cstring": "'x'",
    "date": "'2026-01-01'",
    "integer": "1",
    "interval": "'1 hour'",
    "jsonb": "'{}'",
    "name": "'tailscale_peers'",
    "numeric": "1",
    "oid": "'public.tailscale_peers'::regclass::oid",
    "refcursor": "'c'",
    "regclass": "'public.tailscale_peers'",
    "text": "'SELECT 1'",
    "timestamp with time zone": "'2026-01-02Z'",
    "timestamp without time zone": "'2026-01-02'",
    "any": "1",
    "anyelement": "1",
    "anyarray": "ARRAY[1]",
    "record": "ROW(1, 2)",
}

STATE = """
SELECT n.nspname::text, c.relname::text
FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE
    c.relkind = 'r' AND n.nspname IN ('public', '_timescaledb_catalog', '_timescaledb_config')
    AND c.relname NOT IN ('metadata', 'bgw_job_stat', 'bgw_job_stat_history')
ORDER BY 1, 2
"""

ACTS = [
    # Chunks.
    "SELECT _timescaledb_functions.drop_chunk(show_chunks('tailscale_peers'))",
    "SELECT _timescaledb_functions.freeze_chunk(show_chunks('tailscale_peers'))",
    "SELECT _timescaledb_internal.drop_chunk(show_chunks('tailscale_peers'))",
    "SELECT compress_chunk(show_chunks('tailscale_peers'))",
    # Jobs.
    "SELECT add_job('_timescaledb_functions.policy_job_stat_history_retention', '1s')",
    "SELECT delete_job(1000)",
    "SELECT _timescaledb_functions.stop_background_workers()",
    # Locks of every form, and waiting.
    *(
        f"SELECT pg_{how}advisory_{scope}lock{shared}({key})"
        for how in ("", "try_")
        for scope in ("", "xact_")
        for shared in ("", "_shared")
        for key in ("7315022", "1, 2")
    ),
    "SELECT pg_sleep(0)",
    "SELECT pg_sleep_for('0 s')",
    "SELECT pg_sleep_until(now())",
    "BEGIN; LOCK TABLE budgets IN ACCESS SHARE MODE",
    "BEGIN; LOCK TABLE hosts IN ROW EXCLUSIVE MODE",
    "SELECT 1 FROM hosts FOR UPDATE",
    "SELECT 1 FROM hosts FOR KEY SHARE",
    # Large objects and temporary tables.
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    r"SELECT lo_from_bytea(0, '\x00')",
    "CREATE TEMPORARY TABLE x (y integer)",
    "SELECT 1 AS y INTO TEMPORARY x",
    # Settings, other sessions, the log, the queue, the transaction counter.
    "SELECT set_config('role', 'none', false)",
    "UPDATE pg_settings SET setting = '1' WHERE name = 'work_mem'",
    "SELECT pg_cancel_backend(pg_backend_pid())",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT pg_notify('a', 'b')",
    "SELECT pg_logical_emit_message(true, 'a', 'b')",
    "SELECT pg_export_snapshot()",
    "SELECT pg_current_xact_id()",
    "SELECT txid_current()",
    "SELECT nextval('series_series_id_seq')",
    "SELECT setval('series_series_id_seq', 1)",
]


@pytest.fixture
def login(tailnet: Any, make_sample: type, database_uri: str) -> Iterator[Any]:
    """Runs SQL as a login that is a member of tsstats_reader; the database has data, chunks and jobs."""
    host_id, node_id = tailnet.add_host("alpha"), tailnet.add_node("one")
    tailnet.add_samples(
        [make_sample(host_id, node_id, datetime(2026, 1, day, tzinfo=UTC), day, 1) for day in (1, 9)]
    )
    tailnet.refresh()
    with logged_in(database_uri, tailnet) as query:
        yield query


@contextlib.contextmanager
def logged_in(database_uri: str, tailnet: Any) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    password = secrets.token_hex(16)
    tailnet.query(f"CREATE ROLE {LOGIN} LOGIN PASSWORD '{password}' IN ROLE tsstats_reader")
    login = {"user": LOGIN, "password": password} if NATIVE else {}
    bounds = "-c statement_timeout=5s -c lock_timeout=3s -c TimeZone=UTC"
    connection = psycopg2.connect(database_uri, options=bounds, **login)
    connection.autocommit = True

    def query(sql: str, *params: object) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else []

    try:
        if not NATIVE:
            # The embedded database has one backend, whose session is the superuser's.
            query(f"SET SESSION AUTHORIZATION {LOGIN}")
        assert query("SELECT current_user::text") == [(LOGIN,)]
        yield query
    finally:
        connection.close()
        tailnet.query(f"DROP OWNED BY {LOGIN}")
        tailnet.query(f"DROP ROLE {LOGIN}")


def refused(query: Callable[..., Any], sql: str) -> bool:
    try:
        query(sql)
    except psycopg2.errors.InsufficientPrivilege:
        return True
    except psycopg2.errors.UndefinedFunction:
        # Of another version of PostgreSQL or TimescaleDB.
        return True
    finally:
        query("ROLLBACK")
    return False


def state(tailnet: Any) -> dict[str, Any]:
    """All that a login could have changed."""
    tables = tailnet.query(STATE)
    found: dict[str, Any] = {
        f"{schema}.{table}": tailnet.query(
            f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM {schema}.{table} AS t"
        )
        for schema, table in tables
    }
    for what in (
        "SELECT count(*), md5(string_agg(c::text, '' ORDER BY c.oid)) FROM pg_class AS c"
        " WHERE relkind NOT IN ('i', 't')",
        "SELECT count(*), md5(string_agg(oid::text || proacl::text, '' ORDER BY oid)) FROM pg_proc",
        "SELECT count(*) FROM pg_largeobject_metadata",
        "SELECT count(*) FROM pg_replication_slots",
        "SELECT sum(n) FROM (SELECT count(*) AS n FROM tailscale_peers_5m) AS t",
    ):
        found[what] = tailnet.query(what)
    return found


def calls(name: str, kind: str, arguments: list[str]) -> Iterator[str]:
    """The statements that call it, with a value for each argument and with NULLs."""
    made_up = [VALUES.get(kind.strip('"'), f"NULL::{kind}") for kind in arguments]
    nulls = [
        f"NULL::{kind if not kind.strip(chr(34)).startswith('any') else 'integer'}" for kind in arguments
    ]
    for values in (made_up, nulls):
        yield f"CALL {name}({', '.join(values)})" if kind == "p" else f"SELECT {name}({', '.join(values)})"


def test_whatever_a_reader_may_call_changes_nothing_and_waits_for_nothing(login: Any, tailnet: Any) -> None:
    found = tailnet.query(CALLABLE.replace("%(login)s", f"'{LOGIN}'"))
    assert len(found) > 50
    before = state(tailnet)
    for name, kind, _schema, _proname, arguments, _ in found:
        for call in calls(name, kind, arguments):
            try:
                login(call)
            except (psycopg2.errors.QueryCanceled, psycopg2.errors.LockNotAvailable) as error:
                pytest.fail(f"{call} waits: {error}")
            except psycopg2.Error as error:
                if error.pgcode is None:
                    pytest.fail(f"{call} ends the connection: {error}")
    assert state(tailnet) == before
    assert login("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_every_act_is_refused(login: Any) -> None:
    assert [sql for sql in ACTS if not refused(login, sql)] == []


def test_nothing_but_reading_is_given_to_a_reader(login: Any, tailnet: Any) -> None:
    written = tailnet.query(
        f"""
        SELECT c.oid::regclass::text FROM pg_class AS c
        WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND has_table_privilege(
            '{LOGIN}', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'
        )
        UNION ALL
        SELECT c.oid::regclass::text FROM pg_class AS c
        WHERE CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('{LOGIN}', c.oid, 'USAGE, UPDATE') END
        UNION ALL
        SELECT n.nspname::text FROM pg_namespace AS n WHERE has_schema_privilege('{LOGIN}', n.oid, 'CREATE')
        UNION ALL
        SELECT d.datname::text FROM pg_database AS d
        WHERE d.datname = current_database() AND has_database_privilege('{LOGIN}', d.oid, 'CREATE, TEMPORARY')
        """
    )
    assert written == []


def test_a_reader_cannot_take_the_privileges_of_others_away(login: Any, tailnet: Any) -> None:
    with contextlib.suppress(psycopg2.Error):
        login("DROP OWNED BY tsstats_reader")
    assert tailnet.query("SELECT has_table_privilege('tsstats_reader', 'tailscale_peers', 'SELECT')") == [
        (True,)
    ]


def test_reading_needs_none_of_what_was_taken(login: Any, tailnet: Any) -> None:
    tailnet.query("SELECT compress_chunk(c, true) FROM show_chunks('tailscale_peers') AS c")
    granted = tailnet.query(
        "SELECT c.oid::regclass::text FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = relnamespace"
        " WHERE n.nspname IN ('public', 'timescaledb_information') AND c.relkind IN ('r', 'v')"
        f" AND has_table_privilege('{LOGIN}', c.oid, 'SELECT')"
    )
    assert len(granted) > 40
    for (name,) in granted:
        login(f"SELECT * FROM {name}")
    for sql in (
        "SELECT time_bucket('1 hour', time), last(rx_bytes, time), first(rx_bytes, time) FROM tailscale_peers"
        " WHERE node_id = (SELECT min(node_id) FROM tailscale_nodes) GROUP BY 1",
        "SELECT time_bucket_gapfill('1 day', time, '2026-01-01Z'::timestamptz, '2026-02-01Z'::timestamptz),"
        " locf(max(rx_bytes)), interpolate(max(rx_bytes)) FROM tailscale_peers"
        " WHERE time BETWEEN '2026-01-01Z' AND '2026-02-01Z'"
        " GROUP BY 1",
        "SELECT histogram(rx_bytes, 0, 100, 5), count(DISTINCT node_id) FROM tailscale_peers",
        "SELECT * FROM tailscale_peers WHERE host_id IN (1, 2, 3) ORDER BY time DESC LIMIT 1",
        "SELECT hypertable_size('tailscale_peers'), approximate_row_count('tailscale_peers')",
        "SELECT * FROM chunks_detailed_size('tailscale_peers')",
        "SELECT * FROM hypertable_columnstore_stats('tailscale_peers')",
        "SELECT * FROM tailscale_traffic('2026-01-01Z', '2026-02-01Z')",
        "SELECT rolname, pg_size_pretty(pg_database_size(current_database())) FROM pg_roles",
        "SELECT random(), gen_random_uuid(), clock_timestamp()",
    ):
        assert login(sql), sql


def test_without_the_boundary_a_reader_drops_chunks(login: Any, tailnet: Any, database_uri: str) -> None:
    """The switch: where PUBLIC has its privilege again, the tests above have something to see."""
    tailnet.query("GRANT EXECUTE ON FUNCTION _timescaledb_functions.drop_chunk TO PUBLIC")
    try:
        assert not refused(login, ACTS[0])
        assert tailnet.query("SELECT count(*) FROM tailscale_peers") == [(0,)]
    finally:
        with Database(database_uri) as database:
            assert boundary.warning(database) is not None
            assert boundary.close(database, database_uri) == 1
            assert boundary.warning(database) is None

"""The role tsstats_reader may SELECT the data and nothing else."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg2.errors
import pytest

HIDDEN = {"budgets", "client_keys", "clocks", "job_runs", "late_windows", "rejects", "rejects_kept", "tokens"}
# An aggregate calls its transition function in its owner's name; the others serve the writer.
NOT_FOR_READING = {
    "traffic_counter_sample",
    "traffic_counter_state",
    "value_counter_sample",
    "value_counter_state",
    "tailscale_node_changes_next",
    "tailscale_status_changes_next",
    "tsstats_query",
}
CHANGES = [
    "INSERT INTO drift VALUES ('s', 'p', 1, now())",
    "INSERT INTO tailscale_peers (host_id, node_id, time, received_at, attribute_id)"
    " VALUES (1, 1, now(), now(), 1)",
    "UPDATE hosts SET name = 'x'",
    "DELETE FROM hosts",
    "DELETE FROM tailscale_peers",
    "TRUNCATE tailscale_peers",
    "DROP TABLE tailscale_peers",
    "DROP VIEW tailscale_reporters",
    "ALTER TABLE hosts ADD COLUMN x integer",
    "CREATE TABLE public.x (y integer)",
    "CALL refresh_continuous_aggregate('tailscale_peers_5m', NULL, NULL)",
    "SELECT drop_chunks('tailscale_peers', older_than => now())",
    "CREATE ROLE x",
    "COPY hosts TO PROGRAM 'true'",
]


@pytest.fixture
def reader(tailnet: Any, make_sample: type) -> Iterator[Any]:
    host_id, node_id = tailnet.add_host("alpha"), tailnet.add_node("one")
    tailnet.add_samples(
        [make_sample(host_id, node_id, datetime(2026, 1, day, tzinfo=UTC), day, 1) for day in (1, 9)]
    )
    tailnet.refresh()
    tailnet.query("SET ROLE tsstats_reader")
    yield tailnet
    tailnet.query("RESET ROLE")


def relations(tailnet: Any, prefix: str) -> list[str]:
    return [
        name
        for (name,) in tailnet.query(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'v') AND relname LIKE %s ORDER BY 1",
            f"{prefix}%",
        )
    ]


def test_reader_selects_every_table_and_view_of_the_data(reader: Any) -> None:
    names = [*relations(reader, "tailscale"), "hosts", "attributes", "drift", "policies"]
    assert len(names) > 15
    for name in names:
        reader.query(f"SELECT * FROM {name} LIMIT 1")
    ((in_chunks,),) = reader.query("SELECT count(*) FROM tailscale_peers")
    assert in_chunks == 2


def test_reader_reads_traffic(reader: Any) -> None:
    for kin in ("", "_by_reporter", "_by_user", "_by_tag", "_by_tailnet"):
        ((rx_bytes,),) = reader.query(
            "SELECT sum(rx_bytes)::bigint"
            f" FROM tailscale_traffic{kin}('2026-01-01Z', '2026-02-01Z', '90 minutes')"
        )
        assert rx_bytes == 8, kin


def refused(tailnet: Any, statement: str) -> bool:
    try:
        tailnet.query(statement)
    except psycopg2.errors.InsufficientPrivilege:
        return True
    return False


def test_reader_does_not_see_upkeep(reader: Any) -> None:
    assert [name for name in HIDDEN if not refused(reader, f"SELECT * FROM {name}")] == []


def test_reader_changes_nothing(reader: Any) -> None:
    assert [statement for statement in CHANGES if not refused(reader, statement)] == []


def test_every_relation_is_either_granted_or_known_to_be_hidden(tailnet: Any) -> None:
    unreadable = {
        name
        for name in relations(tailnet, "")
        if not tailnet.query("SELECT has_table_privilege('tsstats_reader', %s, 'SELECT')", name)[0][0]
    }
    ours = {name for name in unreadable if "yoyo" not in name}
    assert ours == HIDDEN


def test_reader_may_execute_every_function_even_where_public_may_not(tailnet: Any) -> None:
    not_granted = tailnet.query(
        """
        SELECT p.proname::text
        FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
            AND NOT EXISTS (
                SELECT FROM aclexplode(p.proacl) AS acl WHERE acl.grantee = 'tsstats_reader'::regrole
            )
        ORDER BY 1
        """
    )
    assert {name for (name,) in not_granted} == NOT_FOR_READING

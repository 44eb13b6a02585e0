"""What makes tsstats_reader a boundary: PUBLIC may do nothing in the database but read.

A login has what it was granted and what PUBLIC has. PostgreSQL and TimescaleDB give PUBLIC
functions that drop chunks, add jobs, hold locks and write large objects, so that a role
with SELECT alone could do all that too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database, quote
from ringstats_ts.words import counted

HARMLESS = "|".join(
    [
        # PostgreSQL: clocks, chance, sizes, states, the text of queries (run as the reader), and
        # sequences, whose own privileges guard them.
        r"pg_catalog\.(amvalidate|array_sample|array_shuffle|clock_timestamp|current_query|currval"
        r"|cursor_to_xml|cursor_to_xmlschema|gen_random_uuid|lastval|nextval|pg_(blocking_pids"
        r"|(database_)?collation_actual_version|control_\w+|current_wal_\w+|get_\w+|is_\w+|jit_available"
        r"|last_\w+|lock_status|notification_queue_usage|partition_ancestors|partition_tree"
        r"|prepared_xact|safe_snapshot_blocking_pids|sequence_last_value|stat_clear_snapshot"
        r"|stat_get_\w+|xact_\w+|(available_)?wal_summar(ies|y_contents)"
        r"|(database|indexes|relation|table|tablespace|total_relation)_size)"
        r"|query_to_xml\w*|random|random_normal|setseed|setval|timeofday|ts_rewrite|ts_stat"
        r"|txid_status|uuidv4|uuidv7)",
        # What aggregates and timescaledb_information are computed with, sizes, and gaps.
        r"timescaledb\.(approximate_row_count|by_hash|by_range|cagg_get_bucket_function_info"
        r"|cagg_watermark(_materialized)?|chunk_id_from_relid|chunk_status|chunks_detailed_size"
        r"|chunks_local_size|compressed_chunk_(local|remote)_stats|generate_uuid|generate_uuidv7"
        r"|get_approx_row_count|get_git_commit|get_orderby_defaults|get_os_info|get_partition_for_key"
        r"|get_partition_hash|get_segmentby_defaults|has_invalidation_trigger|hypertable_(approximate_)?(detailed_)?size"
        r"|hypertable_index_size|hypertable_local_size|interpolate|interval_to_usec"
        r"|jsonb_get_matching_index_entry|locf|partialize_agg|range_value_to_pretty"
        r"|relation_(approximate_)?size|show_chunk|show_policies|show_tablespaces"
        r"|subtract_integer_from_now|time_bucket_gapfill|time_to_internal|to_date|to_interval"
        r"|to_timestamp(_without_timezone)?|to_unix_microseconds|to_uuidv7|tsl_loaded)",
        r"pg_stat_statements\.pg_stat_statements(_info)?",
        r"plpgsql\.plpgsql_validator",
    ]
)
"""Volatile functions that PUBLIC keeps, each after its extension or schema; every other one is taken."""

ACTING = "|".join(
    [
        r"pg_catalog\.(txid_current|pg_current_xact_id)",
        # They read bytes that a caller made up.
        r"timescaledb\.compressed_data_(column_size|has_nulls|info|to_array)",
    ]
)
"""Functions that are not volatile and do more than reading all the same."""


@dataclass(frozen=True, slots=True)
class Privilege:
    """What PUBLIC may, such as `EXECUTE ON ROUTINE ...`, and whether our role may take it away."""

    name: str
    revocable: bool


def open_privileges(database: Database) -> list[Privilege]:
    """What PUBLIC may do besides reading; nothing where tsstats_reader is a boundary."""
    found = database.rows("open_privileges", {"harmless": f"^({HARMLESS})$", "acting": f"^({ACTING})$"})
    return [Privilege(*row) for row in found]


def is_shared(database: Database) -> bool:
    """Whether other programs have relations, or other roles anything, in the database."""
    relations, schemas = schema.shipped_names()
    ((shared,),) = database.rows("is_shared", {"relations": relations, "schemas": schemas})
    return bool(shared)


def close(database: Database, uri: str, *, asked: bool = False) -> int:
    """Take from PUBLIC what it may do besides reading, as far as our role may; how much was taken.

    In a database that others share it does nothing unless `asked`. What writes to our tables
    keeps by name what it had as a part of PUBLIC.
    """
    if not _revocable(database) or (not asked and is_shared(database)):
        return 0
    with schema.locked(database, uri):
        # Again: another process may have done it by now, and two cannot at once.
        if found := _revocable(database):
            database.run(";\n".join(statements(database, found)))
    return len(found)


def _revocable(database: Database) -> list[Privilege]:
    return [privilege for privilege in open_privileges(database) if privilege.revocable]


def statements(database: Database, privileges: Sequence[Privilege]) -> list[str]:
    """The statements that take these privileges from PUBLIC."""
    writers = ", ".join(quote(name) for (name,) in database.rows("writers"))
    granted = [f"GRANT {privilege.name} TO {writers}" for privilege in privileges] if writers else []
    return [*granted, *(f"REVOKE {privilege.name} FROM PUBLIC" for privilege in privileges)]


def warning(database: Database) -> str | None:
    """Why tsstats_reader is not a boundary, and what to do; None where it is one."""
    found = open_privileges(database)
    if not found:
        return None
    many = counted(len(found), "privilege")
    what = f"tsstats_reader may do more than read: PUBLIC has {many}, such as {found[0].name}."
    if all(privilege.revocable for privilege in found):
        return f"{what} `tsstats migrate --harden` takes them away."
    return f"{what} `tsstats migrate --harden --print` prints what a superuser has to run."

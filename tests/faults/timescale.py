"""Our schema on a PostgreSQL of the test's own: with TimescaleDB where it is installed, else without.

Debian ships PostgreSQL without TimescaleDB. What is tested here needs none of it: the tables, keys,
receipts and every statement that stores are the same. So on such a server the real migrations are
applied with TimescaleDB's own words taken out (hypertables stay plain tables, continuous aggregates
become views), and what the program asks TimescaleDB about is answered by empty views.
"""

import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ringstats_ts.storage import policies, schema
from ringstats_ts.storage.database import Database

PRELOADED = {"shared_preload_libraries": "timescaledb", "max_worker_processes": "24"}
PLAIN = os.environ.get("TSSTATS_TEST_PLAIN_POSTGRES") == "on"
"""Whether to do without TimescaleDB where it is installed, as elsewhere."""

DATABASE = "tsstats"

STAND_IN = """
CREATE FUNCTION by_range(name, interval) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1::text $$;
CREATE FUNCTION create_hypertable(text, text, create_default_indexes boolean) RETURNS void
LANGUAGE sql AS '';
CREATE FUNCTION time_bucket(interval, timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$ SELECT date_bin($1, $2, '2000-01-03Z') $$;
CREATE SCHEMA timescaledb_information;
CREATE VIEW timescaledb_information.jobs AS
SELECT
    NULL::integer AS job_id, NULL::name AS proc_name, NULL::name AS hypertable_schema,
    NULL::name AS hypertable_name, NULL::jsonb AS config, NULL::interval AS schedule_interval,
    NULL::boolean AS scheduled, NULL::timestamptz AS next_start
LIMIT 0;
CREATE VIEW timescaledb_information.job_stats AS
SELECT NULL::integer AS job_id, NULL::timestamptz AS last_successful_finish LIMIT 0;
CREATE VIEW timescaledb_information.continuous_aggregates AS
SELECT NULL::name AS view_name, NULL::name AS hypertable_schema, NULL::name AS hypertable_name LIMIT 0;
CREATE VIEW timescaledb_information.chunks AS
SELECT
    NULL::name AS hypertable_schema, NULL::name AS hypertable_name,
    NULL::timestamptz AS range_start, NULL::timestamptz AS range_end
LIMIT 0;
CREATE SCHEMA _timescaledb_catalog;
CREATE TABLE _timescaledb_catalog.hypertable (id integer, schema_name name, table_name name);
CREATE TABLE _timescaledb_catalog.dimension (id integer, hypertable_id integer);
CREATE TABLE _timescaledb_catalog.dimension_slice (
    dimension_id integer, range_start bigint, range_end bigint
);
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (99999, 'timescaledb', 10, 2200, false, '2.28.3');
ALTER DATABASE tsstats SET timescaledb.license = 'timescale'
"""

SETTINGS = re.compile(r"^ALTER (TABLE|MATERIALIZED VIEW) \w+ SET \(\s*timescaledb\.[^;]*;", re.MULTILINE)
AGGREGATE = re.compile(
    r"CREATE MATERIALIZED VIEW (\w+)\s+WITH \(\s*timescaledb\.continuous[^)]*\) AS(.*?)\s*WITH NO DATA;",
    re.DOTALL,
)

# Those of aggregates, which are named for their buckets.
INDEX = re.compile(r"^CREATE INDEX \w+ ON \w+ \(.*\bbucket\b.*\);", re.MULTILINE)


def prepare(cluster, options=""):
    """Make a migrated database in a running cluster, which is restarted for TimescaleDB; its URI."""
    if not PLAIN and cluster.has("timescaledb") and "shared_preload_libraries" not in cluster.conf:
        cluster.conf |= PRELOADED
        cluster.restart()
    cluster.run(f"CREATE DATABASE {DATABASE} {options}")
    uri = cluster.uri.removesuffix("/postgres") + f"/{DATABASE}"
    migrate(uri, full="shared_preload_libraries" in cluster.conf)
    return uri


def migrate(uri, *, full):
    with Database(uri) as database:
        if full:
            schema.migrate(database, uri)
            policies.apply(database, {})
            return
        database.run(STAND_IN)
        with _plain_migrations() as directory, schema._yoyo(uri) as (backend, _):
            for migration in backend.to_apply(schema.yoyo.read_migrations(str(directory))):
                backend.apply_one(migration)
        schema.accept(database, uri)


@contextmanager
def _plain_migrations():
    with tempfile.TemporaryDirectory() as temporary, schema._directory() as shipped:
        for path in shipped.glob("*.sql"):
            text = AGGREGATE.sub(r"CREATE VIEW \1 AS\2;", SETTINGS.sub("", path.read_text()))
            text = INDEX.sub("", text)
            (Path(temporary) / path.name).write_text(text)
        yield temporary

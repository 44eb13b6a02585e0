"""What `tsstats up` does by itself."""

import time

from ringstats_ts import embedded
from ringstats_ts.storage.database import Database


def test_makes_chunks_ahead_and_catches_up_on_a_long_stop(embedded_tsstats, make_status):
    with embedded_tsstats.up() as service, Database(_uri(embedded_tsstats)) as database:
        # Before any document: upkeep made them.
        assert _soon(lambda: len(_chunks(database)) >= 10)
        before = _chunks(database)
        assert service.post(make_status()).status == 200
        assert _chunks(database) == before
    with embedded.open_database(embedded_tsstats.data_dir) as uri, Database(uri) as database:
        _stop_long_ago(database)
    with embedded_tsstats.up(), Database(_uri(embedded_tsstats)) as database:
        noted = database.run("SELECT source FROM noted ORDER BY 1")
        assert noted == [("accesslog",), ("ringserver",), ("samples",), ("tailscale",)]


def _uri(tsstats):
    return embedded.running_uri(tsstats.data_dir)


def _chunks(database):
    return database.run(
        "SELECT hypertable_name, range_start FROM timescaledb_information.chunks"
        " WHERE hypertable_schema = 'public' ORDER BY 1, 2"
    )


def _stop_long_ago(database):
    """Make it look as if no job had run for ten days; note the windows, which upkeep soon works off."""
    database.run("UPDATE hosts SET first_seen = now() - INTERVAL '20 days'")
    database.run(
        "UPDATE job_runs SET started_at = started_at - INTERVAL '10 days',"
        " finished_at = finished_at - INTERVAL '10 days'"
    )
    database.run("CREATE TABLE noted AS SELECT source FROM late_windows WHERE false")
    database.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN INSERT INTO noted VALUES (new.source); RETURN NULL; END $$"
    )
    database.run("CREATE TRIGGER note AFTER INSERT ON late_windows FOR EACH ROW EXECUTE FUNCTION note()")


def _soon(look):
    deadline = time.monotonic() + 30
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found

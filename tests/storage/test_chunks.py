"""Chunks are there before the first row that needs them, and are like those that rows make."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.storage import upkeep
from ringstats_ts.storage.chunks import make_next_chunks
from ringstats_ts.storage.database import Database

DAY = timedelta(days=1)
TABLES = 10
"""Hypertables that documents are stored in."""


@pytest.fixture
def chunks(database):
    """The chunks of our hypertables: table and range."""
    hypertables = database.run(
        "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema = 'public'"
    )
    assert len(hypertables) == TABLES
    for (table,) in hypertables:
        database.run(f"SELECT drop_chunks('{table}', older_than => now() + INTERVAL '10 years')")

    def found():
        return database.run(
            "SELECT hypertable_name, range_start, range_end FROM timescaledb_information.chunks"
            " WHERE hypertable_schema = 'public' ORDER BY 1, 2"
        )

    return found


@pytest.fixture
def take(database, config, make_status):
    def take_at(time, rx_bytes=1):
        body = json.dumps(make_status(peers={"db": rx_bytes})).encode()
        ingest(Payload(body, time, time=time), database, config)

    return take_at


def test_the_first_document_of_a_fresh_install_makes_no_chunk(database, chunks, take):
    assert make_next_chunks(database, timedelta(0)) == TABLES
    before = chunks()
    assert len({table for table, _, _ in before}) == TABLES
    take(datetime.now(UTC))
    assert chunks() == before


def test_the_first_document_of_a_day_makes_no_chunk(database, chunks, take):
    now = datetime.now(UTC)
    take(now)
    make_next_chunks(database, DAY)
    before = chunks()
    midnight = (now + DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    for number, time in enumerate((midnight, now + DAY)):
        take(time, rx_bytes=number)
    assert chunks() == before
    take(now + 2 * DAY)
    assert len(chunks()) > len(before)


def test_what_is_there_is_left_as_it_is(database, chunks):
    assert make_next_chunks(database, DAY) >= TABLES
    before = chunks()
    assert make_next_chunks(database, DAY) == 0
    assert chunks() == before


def test_several_workers_make_each_chunk_once(database_uri, chunks):
    made, errors = [], []

    def run():
        try:
            with Database(database_uri) as own:
                made.extend(make_next_chunks(own, number * DAY) for number in range(8))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(made) == len(chunks())
    assert len({*chunks()}) == len(chunks()) >= 8


def test_a_chunk_made_ahead_is_like_one_that_a_row_made(database, chunks, take):
    now = datetime.now(UTC)
    take(now)
    make_next_chunks(database, DAY)
    chunk_of = (
        "SELECT format('%I.%I', chunk_schema, chunk_name)::regclass::oid"
        " FROM timescaledb_information.chunks"
        " WHERE hypertable_name = 'tailscale_peers' AND range_start {} now() ORDER BY range_start LIMIT 1"
    )
    described = [_description(database, database.run(chunk_of.format(side))[0][0]) for side in ("<=", ">")]
    assert described[0] == described[1]
    assert described[0]["pg_index"]
    assert described[0]["pg_constraint"]


def _description(database, oid):
    """All that matters of a table but its name and range."""
    asked = {
        "relowner, relacl::text, reloptions::text, relpersistence": "pg_class WHERE oid",
        "indkey::text, indisunique, indisvalid": "pg_index WHERE indrelid",
        "contype, conkey::text": "pg_constraint WHERE conrelid",
        "tgname, tgtype": "pg_trigger WHERE tgrelid",
        "attname, attnotnull, attstorage": "pg_attribute WHERE attrelid",
    }
    return {
        place.split()[0]: sorted(database.run(f"SELECT {columns} FROM {place} = {oid}"), key=repr)
        for columns, place in asked.items()
    }


def test_a_changed_interval_is_left_to_the_first_row(database, chunks, take):
    now = datetime.now(UTC)
    take(now)
    database.run("SELECT set_chunk_time_interval('tailscale_peers', INTERVAL '9 hours')")
    try:
        make_next_chunks(database, timedelta(0))
        take(now + timedelta(minutes=1), rx_bytes=2)
        make_next_chunks(database, 3 * DAY)
        take(now + 3 * DAY, rx_bytes=3)
    finally:
        database.run("SELECT set_chunk_time_interval('tailscale_peers', INTERVAL '1 day')")


def test_policies_run_over_empty_chunks(database, config, chunks):
    make_next_chunks(database, DAY)
    empty = [name for (name,) in database.run("SELECT show_chunks('tailscale_peers')::text")]
    for chunk in empty:
        database.run(f"CALL convert_to_columnstore('{chunk}')")
    database.run(
        "SELECT alter_job(job_id, next_start => now() - INTERVAL '1 minute')"
        " FROM timescaledb_information.jobs WHERE job_id >= 1000"
    )
    upkeep.run_due_jobs(database)
    assert database.run("SELECT job, error FROM job_runs WHERE error IS NOT NULL") == []
    database.run("SELECT drop_chunks('tailscale_peers', older_than => now() + INTERVAL '10 years')")
    left = {table for table, _, _ in chunks()}
    assert len(left) == TABLES - 1
    assert "tailscale_peers" not in left


def test_an_empty_chunk_that_was_compressed_still_takes_documents(database, chunks, take):
    make_next_chunks(database, timedelta(0))
    for (chunk,) in database.run("SELECT show_chunks('tailscale_peers')::text"):
        database.run(f"CALL convert_to_columnstore('{chunk}')")
    take(datetime.now(UTC))
    assert database.run("SELECT count(*) FROM tailscale_peers") == [(1,)]


def test_upkeep_makes_them(database, config, chunks):
    upkeep.run_upkeep(database, config)
    assert len(chunks()) >= TABLES

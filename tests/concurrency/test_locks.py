"""What a reader can hold stops nobody; what keeps two processes apart does."""

from contextlib import ExitStack, closing
from dataclasses import replace

import psycopg2

from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database
from tests.concurrency.test_budget import ALLOWED, buy_host


def test_two_processes_do_not_change_the_schema_at_once(database_uri, database, waits):
    def change():
        with Database(database_uri) as own, schema.locked(own, database_uri):
            return "changed"

    with ExitStack() as held:
        held.enter_context(schema.locked(database, database_uri))
        with waits(change) as ended:
            held.close()
    assert ended.result == "changed"


def test_locks_of_a_reader_stop_neither_new_hosts_nor_migrations(database_uri, database):
    with closing(psycopg2.connect(database_uri)) as reader, reader.cursor() as cursor:
        # In this transaction it holds whatever a reader could hold before advisory locks were taken from it.
        cursor.execute("SELECT pg_advisory_lock(n) FROM generate_series(7315000, 7315100) AS n")
        cursor.execute("SET LOCAL ROLE tsstats_reader")
        cursor.execute("SELECT count(*) FROM hosts")
        cursor.execute("SELECT count(*) FROM tailscale_peers")
        database.run("SET lock_timeout = '3s'")
        with database.transaction() as transaction:
            buy_host(transaction, replace(ALLOWED, new_hosts=100))
        with schema.locked(database, database_uri):
            assert schema.pending(database) == []

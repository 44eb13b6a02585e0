"""The two databases that are broken here, behind one face: a PostgreSQL of our own, the embedded one."""

import contextlib
import os
import random
import signal
import time

import psycopg2

from ringstats_ts.embedded import EmbeddedDatabase
from tests.faults import timescale
from tests.faults.load import FORGET_RECEIPTS, REMEMBER_RECEIPTS

CONF = {"max_connections": "60"}
"""The service as shipped opens up to 32 connections, and a test its own."""


class Target:
    """A migrated database at `uri`, and the ways to lose it; `strikes` gives each a name and a share."""

    uri = ""

    def run(self, sql, *parameters, seconds=60):
        """Run SQL outside a transaction, as soon as the database takes connections."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with contextlib.closing(psycopg2.connect(self.uri, connect_timeout=5)) as connection:
                    connection.autocommit = True
                    cursor = connection.cursor()
                    cursor.execute(sql, parameters or None)
                    return cursor.fetchall() if cursor.description else []
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def wait(self):
        """Wait until it takes connections."""
        self.run("SELECT 1")

    def empty(self):
        """Take all documents away; what a running service remembers of nodes and attributes stays."""
        self.run(REMEMBER_RECEIPTS)
        ((tables,),) = self.run(
            "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename NOT LIKE '%yoyo%'"
            " AND tablename NOT IN ('policies', 'tailscale_nodes', 'attributes')"
        )
        self.run(f"TRUNCATE {tables}")
        for (view,) in self.run("SELECT view_name FROM timescaledb_information.continuous_aggregates"):
            self.run(f"TRUNCATE {view}")

    def forget_receipts(self):
        """Take the protection of receipts away."""
        self.run(FORGET_RECEIPTS)

    @property
    def has_aggregates(self):
        return bool(self.run("SELECT 1 FROM timescaledb_information.continuous_aggregates"))

    def count(self, table):
        ((number,),) = self.run(f"SELECT count(*) FROM {table}")
        return number


class Native(Target):
    """A PostgreSQL of our own, with TimescaleDB where it is installed."""

    def __init__(self, cluster, options=""):
        self.cluster = cluster
        self.uri = timescale.prepare(cluster, options)
        self.strikes = {
            "backend": (5, self.kill_backend),
            "postmaster": (1, self.kill),
            "restart fast": (0.5, lambda: cluster.stop("fast")),
            "restart immediate": (0.5, lambda: cluster.stop("immediate")),
        }

    @property
    def name(self):
        ((version, extension),) = self.run(
            "SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension"
            " WHERE extname = 'timescaledb' AND oid <> 99999)"
        )
        return f"PostgreSQL {version.split()[0]}, " + (
            f"TimescaleDB {extension}" if extension else "without TimescaleDB"
        )

    def wait(self):
        self.cluster.wait()
        super().wait()

    def kill_backend(self):
        """kill -9 of one client's backend: the server ends all others and recovers."""
        with contextlib.suppress(psycopg2.OperationalError, ProcessLookupError):
            if backends := self.cluster.backends():
                os.kill(random.choice(backends), signal.SIGKILL)
                # Not before the server has noticed is it known to be away.
                time.sleep(0.05)

    def kill(self):
        self.cluster.kill()

    def stop(self):
        self.cluster.stop("immediate")


class Embedded(Target):
    """The embedded TimescaleDB, supervised by this process."""

    name = "embedded TimescaleDB"

    def __init__(self, directory):
        self.database = EmbeddedDatabase(directory)
        self.uri = self.database.start()
        timescale.migrate(self.uri, full=True)
        self.strikes = {"node": (5, self.kill)}

    def kill(self):
        restarts = self.database.restarts
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.database.node_pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while self.database.restarts == restarts:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self):
        self.database.stop()

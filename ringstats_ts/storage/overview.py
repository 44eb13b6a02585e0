"""What the first page shows, read in a few bounded queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ringstats_ts.storage.database import Database

SILENT_AFTER = timedelta(minutes=15)
SHOWN_REPORTERS = 100
"""Of the silent ones, and of the others."""

SHOWN_TRAFFIC = 10


@dataclass(frozen=True, slots=True)
class Reporter:
    """A host that reports tailscale status, as its latest sample shows it. Times in UTC.

    `stable_id` is its identity where it has no stable id.
    """

    name: str
    stable_id: str
    tailnet: str
    last_seen: datetime
    silent: bool
    state: str | None
    version: str | None
    peers: int | None
    peers_online: int | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one reporter or peer."""

    name: str
    stable_id: str
    rx_bytes: int
    tx_bytes: int


@dataclass(frozen=True, slots=True)
class DayTraffic:
    """The most traffic from `since` on, in the last day."""

    since: datetime
    by_reporter: list[Traffic]
    by_peer: list[Traffic]


@dataclass(frozen=True, slots=True)
class Overview:
    """The first page but for its traffic. `nodes_online` is None where no reporter was heard lately."""

    reporters: list[Reporter] = field(default_factory=list)
    hosts: int = 0
    silent_hosts: int = 0
    nodes_online: int | None = None
    nodes: int | None = None
    health: list[tuple[str, list[str]]] = field(default_factory=list)

    @property
    def hidden(self) -> int:
        """How many reporters are not shown."""
        return max(self.hosts - len(self.reporters), 0)

    @property
    def hidden_silent(self) -> int:
        """How many of these are silent."""
        return max(self.silent_hosts - sum(reporter.silent for reporter in self.reporters), 0)


def read(database: Database, *, now: datetime) -> Overview:
    """Read the overview.

    The silent reporters come first. Of many, silent or not, the ones heard last are shown.

    Raises
    ------
    StorageError
    """
    params = {"silent": now - SILENT_AFTER, "shown": SHOWN_REPORTERS}
    [(hosts, silent_hosts)] = database.rows("overview_hosts", params)
    if not hosts:
        return Overview()
    [(nodes_online, nodes)] = database.rows("overview_nodes", params)
    return Overview(
        reporters=[Reporter(*row) for row in database.rows("overview_reporters", params)],
        hosts=hosts,
        silent_hosts=silent_hosts,
        nodes_online=nodes_online,
        nodes=nodes,
        health=[(message, names) for message, names in database.rows("overview_health", params)],
    )


def read_traffic(database: Database, *, now: datetime) -> DayTraffic:
    """Add up the traffic of the last day, from a full hour on: seconds, with millions of samples.

    Raises
    ------
    StorageError
    """
    since = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=23)
    rows = database.rows("overview_traffic", {"since": since, "until": now, "shown": SHOWN_TRAFFIC})
    return DayTraffic(
        since=since,
        by_reporter=[Traffic(*row) for kind, *row in rows if kind == "reporter"],
        by_peer=[Traffic(*row) for kind, *row in rows if kind == "peer"],
    )


def check_writable(database: Database) -> None:
    """Take the way of a post: write and read what every document needs, and roll it back.

    Nothing is left behind but what reached the write-ahead log.

    Raises
    ------
    StorageError
        where the database is away, damaged, full or read-only, or the user may not write.
    """
    database.rows("check_writable")
    database.check_room()

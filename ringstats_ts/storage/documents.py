"""Documents given back as they were received."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ringstats_ts.errors import NotFound
from ringstats_ts.storage.database import Database


@dataclass(frozen=True, slots=True)
class KnownHost:
    """A host that has reported."""

    host_id: int
    identity: str
    name: str


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document and the time of its sample."""

    time: datetime
    document: Any


def hosts_named(database: Database, name: str) -> list[KnownHost]:
    """Hosts with this name or identity, the latest heard first."""
    return [KnownHost(*row) for row in database.rows("hosts_named", {"name": name})]


def find_document(database: Database, host: KnownHost, at: datetime | None = None) -> StoredDocument:
    """The host's last document up to `at`, or its newest.

    Raises
    ------
    NotFound
    """
    found = database.rows("find_document", {"host_id": host.host_id, "at": at})
    if not found:
        raise NotFound(f"No document of {host.name} is stored up to that time.")
    return StoredDocument(*found[0])

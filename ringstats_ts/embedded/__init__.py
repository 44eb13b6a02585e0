"""The embedded TimescaleDB: installed on first use, run as a child process, supervised.

It is TimescaleDB compiled to WebAssembly, behind a small server of ours (`bridge.mjs`), for
trying out, for a home lab and for tests; production has its own server. This package knows
processes, files and sockets, and no SQL: what has to be done with a driver (migrations, jobs,
vacuum) is done by its callers.
"""

from __future__ import annotations

from ringstats_ts.embedded.instance import (
    STOPPING,
    DataDirectoryInUse,
    Instance,
    exists,
    is_in_use,
    killed,
    owner,
    running,
    running_uri,
)
from ringstats_ts.embedded.supervisor import EmbeddedDatabase, open_database, waiting_for

__all__ = [
    "STOPPING",
    "DataDirectoryInUse",
    "EmbeddedDatabase",
    "Instance",
    "exists",
    "is_in_use",
    "killed",
    "open_database",
    "owner",
    "running",
    "running_uri",
    "waiting_for",
]

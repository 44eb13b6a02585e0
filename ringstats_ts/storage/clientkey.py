"""The key that ids of events are made with: a lost one is noticed before it counts logs twice."""

from __future__ import annotations

from ringstats_ts.errors import LostClientKey
from ringstats_ts.storage.database import Database


def check_client_key(database: Database, fingerprint: str) -> None:
    """Refuse logs where their events would get other ids than those that are stored.

    The first fingerprint that comes is kept in the database.

    Raises
    ------
    LostClientKey
    """
    memory = database.memory
    while memory.client_key is None:
        # None where another session has just kept the first one: the next look sees it.
        found = database.rows("client_keys", {"fingerprint": fingerprint})
        memory.client_key = next((known for (known,) in found), None)
    if memory.client_key != fingerprint:
        raise LostClientKey

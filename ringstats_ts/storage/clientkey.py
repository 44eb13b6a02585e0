"""The key that ids of events are made with: a lost one is noticed before it counts logs twice."""

from __future__ import annotations

from ringstats_ts.config import Config
from ringstats_ts.errors import LostClientKey
from ringstats_ts.references import fingerprint, has_key, references
from ringstats_ts.storage.database import Database


def check_client_key(database: Database, ours: str) -> None:
    """Refuse logs where their events would get other ids than those that are stored.

    The first fingerprint that comes is kept in the database.

    Raises
    ------
    LostClientKey
    """
    memory = database.memory
    while memory.client_key is None:
        # None where another session has just kept the first one: the next look sees it.
        found = database.rows("client_keys", {"fingerprint": ours})
        memory.client_key = next((known for (known,) in found), None)
    if memory.client_key != ours:
        raise LostClientKey


def check_kept_key(database: Database, config: Config) -> None:
    """Make sure that logs would be taken, where there are some. Makes no key, which a log does.

    Raises
    ------
    LostClientKey
    """
    kept = database.rows("kept_client_key")
    if kept and not has_key(config):
        raise LostClientKey
    if kept:
        check_client_key(database, fingerprint(references(config)))

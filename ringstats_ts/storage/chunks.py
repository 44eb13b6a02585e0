"""Chunks made before the first row that needs them.

Whoever makes a chunk keeps all who need it waiting until the transaction ends. Left to
documents, that would be the first one after midnight, with every host waiting for it.
"""

from __future__ import annotations

from datetime import timedelta

import orjson

from ringstats_ts.storage.database import Database

AHEAD = timedelta(hours=6)
"""How long before its first row a chunk is made: longer than a refresh or a stop keeps upkeep away."""


def make_next_chunks(database: Database, ahead: timedelta = AHEAD) -> int:
    """Make the chunks that rows of now, and of `ahead` from now, go to; how many were missing.

    Each is a transaction of its own. Safe to run several times at once: what another one
    just made is left as it is.
    """
    made = 0
    for hypertable, slices in database.rows("chunks_to_make", {"ahead": ahead}):
        params = {"hypertable": hypertable, "slices": orjson.dumps(slices).decode()}
        made += sum(created for (created,) in database.rows("make_chunk", params))
    return made

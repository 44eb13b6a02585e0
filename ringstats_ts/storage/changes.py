"""Change tables: a row where a sample differs from the sample before it, in any order of arrival.

A late sample changes two things: what differs at its own time, and what differs at the
sample after it. Both are settled in the transaction that stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from ringstats_ts.model import Changes, Entity
from ringstats_ts.storage.database import Transaction
from ringstats_ts.storage.ids import Ids

NO_ENTITY = 0
"""Stands for the host itself, where the facts are the host's own."""


def record_changes(
    transaction: Transaction, ids: Ids, changes: Changes, *, host_id: int, at: datetime, late: bool
) -> None:
    """Bring the change table up to date for one sample of the host.

    `late` says that there may be a later sample already; a sample in order needs only
    the comparison with the one before.
    """
    rows = {_entity_id(ids, row[0]): row for row in changes.rows}
    at_host = {"host_id": host_id, "time": at}
    if late:
        wanted = set(rows)
    else:
        digests = [row[1] for row in rows.values()]
        found = transaction.rows(
            f"differing_{changes.table}", at_host | {"entity_ids": list(rows), "digests": digests}
        )
        wanted = {entity_id for (entity_id,) in found}
    if not wanted:
        return
    records = [_record(ids, entity_id, *rows[entity_id][1:]) for entity_id in sorted(wanted)]
    params = at_host | {"rows": orjson.dumps(records).decode()}
    if late:
        transaction.rows(f"settle_{changes.table}", params)
    transaction.rows(f"record_{changes.table}", params)


def _entity_id(ids: Ids, entity: Entity | None) -> int:
    return NO_ENTITY if entity is None else ids.entity(entity)


def _record(ids: Ids, entity_id: int, digest: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: ids.cell(value) for name, value in facts.items()}
    return {"entity_id": entity_id, "digest": digest.hex(), **values}

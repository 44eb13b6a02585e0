"""Change tables: a row where a sample differs from the sample before it, in any order of arrival.

A late sample changes two things: what differs at its own time, and what differs at the
sample after it. A corrected one is forgotten first. All of it happens in the transaction
that stores the sample, while its host is locked.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from ringstats_ts.model import Changes, Entity
from ringstats_ts.sql import statements
from ringstats_ts.storage.database import Identifier, Transaction
from ringstats_ts.storage.ids import Ids

Row = tuple[Entity | None, bytes, Mapping[str, Any]]


def record_changes(
    transaction: Transaction, ids: Ids, changes: Changes, *, host_id: int, at: datetime, late: bool
) -> None:
    """Bring the change table up to date for one sample of the host.

    `late` says that there may be a later sample already; a sample in order needs only
    the comparison with the one before.
    """
    table = _table(changes)
    wanted = changes.rows
    if not late:
        keys = [_key(ids, changes, row, host_id, at) for row in changes.rows]
        found = transaction.rows("differing_changes", table | {"rows": _json(keys)})
        wanted = [changes.rows[number - 1] for (number,) in found]
    if not wanted:
        return
    records = [_record(ids, changes, row, host_id, at) for row in wanted]
    params = table | {"rows": _json(records)}
    if late:
        transaction.rows("settle_changes", params)
    transaction.rows("record_changes", params)
    apply = f"apply_{changes.table}"
    if apply in statements():
        transaction.rows(apply, params)


def forget_changes(transaction: Transaction, changes: Changes, *, host_id: int, at: datetime) -> None:
    """Make the change table as if the host's sample at this time had never been there."""
    transaction.rows("forget_changes", _table(changes) | {"host_id": host_id, "time": at})


def _table(changes: Changes) -> dict[str, Identifier]:
    source, _, _ = changes.table.partition("_")
    return {
        "table": Identifier(changes.table),
        "entity": Identifier(changes.entity),
        "next": Identifier(f"{source}_next_sample"),
    }


def _key(ids: Ids, changes: Changes, row: Row, host_id: int, at: datetime) -> dict[str, Any]:
    entity, digest, _ = row
    key = {"host_id": host_id, "time": at, "digest": f"\\x{digest.hex()}"}
    return key if entity is None else key | {changes.entity: ids.entity(entity)}


def _record(ids: Ids, changes: Changes, row: Row, host_id: int, at: datetime) -> dict[str, Any]:
    facts = {name: ids.cell(value) for name, value in row[2].items()}
    return _key(ids, changes, row, host_id, at) | facts


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()

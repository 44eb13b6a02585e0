"""Change tables: a row where a sample differs from the sample before it, in any order of arrival.

A late sample changes two things: what differs at its own time, and what differs at the
sample after it. A corrected one is forgotten first. All of it happens in the transaction
that stores the sample, while its host is locked.

Nearly every sample says the same as the one before. Its host remembers that one's digest,
so that these tables are not even read for it.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any

import orjson

from ringstats_ts.model import Batch, Changes, Entity
from ringstats_ts.sql import statements
from ringstats_ts.storage.database import Database, Identifier, Params, Transaction
from ringstats_ts.storage.ids import Ids

Row = tuple[Entity | None, bytes, Mapping[str, Any]]

Forgotten = dict[str, list[int]]
"""By change table: the entities that a sample which is gone had changed."""


def changes_digest(ids: Ids, batch: Batch) -> str:
    """Hash all that a sample tells the change tables, and of which entities."""
    digest = blake2b(digest_size=16)
    for changes in batch.changes:
        digests = [row[1] for row in changes.rows]
        told = b"".join(digests)
        digest.update(f"{changes.table} {len(digests)} {len(told)}:".encode())
        digest.update(array("q", _entity_ids(ids, changes.rows)))
        digest.update(told)
    return digest.hexdigest()


def record_changes(
    transaction: Transaction,
    ids: Ids,
    changes: Changes,
    batch: Batch,
    host_id: int,
    *,
    late: bool,
    forgotten: Forgotten,
) -> None:
    """Bring the change table up to date for one sample of the host.

    `late` says that there may be a later sample already; a sample in order needs only
    the comparison with the one before.
    """
    wanted = changes.rows
    if not late:
        keys = _keys(ids, changes, changes.rows, host_id, batch.time)
        found = transaction.rows("differing_changes", _table(changes) | {"rows": _json(keys)})
        wanted = [changes.rows[number - 1] for (number,) in found]
    ids.resolve_facts(batch, (fact for _, _, facts in wanted for fact in facts.values()))
    records = [
        key | {name: ids.cell(fact) for name, fact in facts.items()}
        for key, (_, _, facts) in zip(_keys(ids, changes, wanted, host_id, batch.time), wanted, strict=True)
    ]
    if records:
        params = _table(changes) | {"rows": _json(records)}
        if late:
            transaction.rows("settle_changes", params)
        transaction.rows("record_changes", params)
    touched = {*forgotten.get(changes.table, ()), *(record[changes.entity] for record in records)}
    if touched and f"apply_{changes.table}" in statements():
        word: Params = {
            "host_id": host_id,
            "time": batch.time,
            "tailnet": batch.host.tailnet,
            "current": changes.current,
            "own_id": ids.cell(changes.own),
            "entity_ids": sorted(touched),
        }
        _apply(transaction, changes.table, word)


def _apply(transaction: Transaction, table: str, word: Params) -> None:
    """Bring the dimension up to date with the host's changes of these entities, where its word counts."""
    transaction.later(f"lock_for_{table}", word)
    transaction.rows(f"apply_{table}", word)


def apply_listing(transaction: Transaction, ids: Ids, batch: Batch, host_id: int) -> None:
    """Bring the nodes up to date with a listing, where its word counts."""
    rows = [
        {**facts, "node_id": node_id}
        for entity, facts in batch.listed
        if (node_id := ids.cell(entity)) is not None
    ]
    transaction.later("lock_for_tailscale_node_changes", {"entity_ids": [row["node_id"] for row in rows]})
    word = {"host_id": host_id, "time": batch.time, "tailnet": batch.host.tailnet, "rows": _json(rows)}
    transaction.rows("apply_listing", word)


def settle_nodes(database: Database) -> int:
    """Let others speak for the nodes whose teller fell silent, or whose own host is heard again; how many."""
    heirs = database.rows("nodes_to_settle")
    by_host: defaultdict[tuple[int, str, bool, datetime], list[int]] = defaultdict(list)
    for node_id, *heir in heirs:
        by_host[tuple(heir)].append(node_id)
    for (host_id, tailnet, own, now), node_ids in by_host.items():
        word: Params = {
            "host_id": host_id,
            "time": now,
            "tailnet": tailnet,
            "current": True,
            "own_id": node_ids[0] if own else None,
            "entity_ids": node_ids,
        }
        with database.transaction() as transaction:
            _apply(transaction, "tailscale_node_changes", word)
    return len(heirs)


def forget_changes(transaction: Transaction, changes: Changes, *, host_id: int, at: datetime) -> list[int]:
    """Make the change table as if the host's sample at this time had never been there.

    Returns the entities that it had changed.
    """
    params = _table(changes) | {"host_id": host_id, "time": at}
    touched = [entity_id for (entity_id,) in transaction.rows("changed_entities", params)]
    transaction.rows("forget_changes", params)
    return touched


def _table(changes: Changes) -> dict[str, Identifier]:
    return {
        "table": Identifier(changes.table),
        "entity": Identifier(changes.entity),
        "next": Identifier(f"{changes.table}_next"),
    }


def _keys(
    ids: Ids, changes: Changes, rows: Sequence[Row], host_id: int, at: datetime
) -> list[dict[str, Any]]:
    entity_ids = _entity_ids(ids, rows) or [host_id] * len(rows)
    return [
        {"host_id": host_id, "time": at, "digest": f"\\x{row[1].hex()}", changes.entity: entity_id}
        for row, entity_id in zip(rows, entity_ids, strict=True)
    ]


def _entity_ids(ids: Ids, rows: Sequence[Row]) -> list[int]:
    """The ids of what the rows are about; none where that is the host itself."""
    return ids.entities([entity for entity, _, _ in rows if entity is not None])


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()

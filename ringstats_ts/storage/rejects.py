"""Refused payloads: kept with what a retry needs, bounded by age, count and size."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ringstats_ts.config import Config
from ringstats_ts.errors import NotFound
from ringstats_ts.model import BadLine, Batch, Payload, Receipt, Token
from ringstats_ts.storage.database import Database, Transaction
from ringstats_ts.storage.refresh import LATE
from ringstats_ts.words import counted

logger = logging.getLogger(__name__)

KEPT_BYTES = 1024 * 1024
"""Largest refused body that is kept; of a larger one only the reason is."""

BAD_LINE = "bad-line"
"""The reason of a line of a log whose others are stored."""

OVERFLOW = 2
"""So many times what is configured is taken between two rounds of upkeep; what comes then is not kept."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A refused payload: why, and with `payload` what came. Its body is read by `find_reject` only.

    `kept_bytes` is None where the body was not kept; `size_bytes` is its size all the same.
    """

    payload: Payload
    reject_id: int
    reason: str
    detail: str
    pointer: str | None
    line: int | None
    size_bytes: int
    kept_bytes: int | None
    retries: int
    retried_at: datetime | None


def add_reject(
    database: Database,
    payload: Payload,
    *,
    reason: dict[str, Any],
    body: bytes | None,
    size: int,
    config: Config,
) -> bool:
    """Keep a refused payload with `body` as it may be kept; False where there is no room."""
    kept = {
        "key": payload.key,
        "size_bytes": size,
        "payload": body,
        "kept_bytes": len(body or b""),
    }
    return bool(database.rows("add_reject", sent_with(payload, config) | kept | reason))


def sent_with(payload: Payload, config: Config) -> dict[str, Any]:
    """What is kept of how a payload came, and how much may be kept."""
    return {
        "received_at": payload.received_at,
        "source": payload.source,
        "host": payload.host,
        "time": payload.time,
        "replace": payload.replace,
        "partial": payload.partial,
        "sender": payload.sender,
        "origin": payload.origin,
        "token_id": payload.token and payload.token.token_id,
        "max_bytes": OVERFLOW * config.rejects_keep_bytes,
        "max_rejects": OVERFLOW * config.rejects_keep_count,
    }


def keep_bad_lines(transaction: Transaction, batch: Batch, sent: Mapping[str, Any]) -> bool:
    """Keep the lines of a log that could not be stored, each as a payload of its own.

    Those that are kept already, because the log came before and has grown since, are not again.
    False where there is no room for the others.
    """
    lines = batch.bad_lines
    texts = [line.text for line in lines]
    params = dict(sent) | {
        "source": batch.source,
        "lines": [line.number for line in lines],
        "details": [line.reason for line in lines],
        "sizes": list(map(len, texts)),
        "payloads": [text if len(text) <= KEPT_BYTES else None for text in texts],
        "equal_before": _equal_before(texts),
    }
    ((fresh, kept),) = transaction.rows("add_bad_lines", params)
    if kept < fresh:
        logger.warning("%s of a log were not kept: there are too many rejects.", counted(fresh, "bad line"))
    return bool(kept == fresh)


def _equal_before(texts: Sequence[bytes]) -> list[int]:
    seen = Counter[bytes]()
    counts = []
    for text in texts:
        counts.append(seen[text])
        seen[text] += 1
    return counts


def bad_lines_told(lines: Sequence[BadLine]) -> str:
    """How many lines could not be stored, and why the first of them."""
    first = lines[0]
    count = counted(len(lines), "line")
    return f"{count} could not be stored, the first of them line {first.number}: {first.reason}"


def list_rejects(
    database: Database,
    *,
    since: datetime | None = None,
    reason: str | None = None,
    host: str | None = None,
) -> list[Reject]:
    """The rejects without their bodies, the oldest first. `host` is a name or a sender's address."""
    found = database.rows("list_rejects", {"since": since, "reason": reason, "host": host})
    return [_reject(row) for row in found]


def find_reject(database: Database, reject_id: int) -> Reject:
    """The reject with its body.

    Raises
    ------
    NotFound
    """
    found = database.rows("find_reject", {"reject_id": reject_id})
    if not found:
        raise NotFound(f"There is no reject {reject_id}.", "`tsstats rejects list` shows them.")
    *row, body = found[0]
    return _reject(row, bytes(body or b""))


def drop_rejects(database: Database, reject_ids: Sequence[int]) -> list[int]:
    """Drop them; those that were there."""
    return [dropped for (dropped,) in database.rows("drop_rejects", {"reject_ids": list(reject_ids)})]


def settle(
    database: Database,
    reject_id: int,
    receipts: Sequence[Receipt],
    *,
    now: datetime,
    reason: dict[str, Any] | None = None,
) -> None:
    """Drop a reject that is stored, or keep it for the `reason` that it was refused for this time.

    What is stored is noted to be refreshed where the policies have passed it in the meantime;
    duplicates too, since the program may have ended behind an earlier retry.
    """
    with database.transaction() as transaction:
        for receipt in receipts:
            since, until = receipt.span or (receipt.time, receipt.time)
            if since < now - LATE:
                window = {"source": receipt.rollup or receipt.source, "since": since, "until": until}
                transaction.rows("add_late_window", window)
        if reason is None:
            transaction.rows("drop_rejects", {"reject_ids": [reject_id]})
        else:
            transaction.rows("note_retry", {"reject_id": reject_id} | reason)


def prune_rejects(database: Database, config: Config) -> bool:
    """Drop rejects that are too old, and the oldest where there are too many; whether there were.

    Nobody adds one while the oldest are dropped, so that the count is right afterwards.
    """
    database.rows("prune_rejects", {"keep": config.rejects_keep})
    limits = {"max_rejects": config.rejects_keep_count, "max_bytes": config.rejects_keep_bytes}
    if not database.rows("rejects_over", limits):
        return False
    with database.transaction() as transaction:
        transaction.rows("lock_rejects")
        dropped = transaction.rows("prune_oldest_rejects", limits)
        transaction.rows("count_rejects_anew")
    if dropped:
        logger.warning("Dropped the oldest %s rejects: there were too many.", f"{len(dropped):,}")
    return bool(dropped)


def _reject(row: Sequence[Any], body: bytes = b"") -> Reject:
    why, sent, (token_id, key_id, hosts, scopes) = row[:9], row[9:19], row[19:]
    token = None if token_id is None else Token(token_id, key_id or "", hosts or "", frozenset(scopes or ()))
    return Reject(_payload(body, token, *sent), *why)


def _payload(
    body: bytes,
    token: Token | None,
    received_at: datetime,
    source: str | None,
    host: str | None,
    time: datetime | None,
    key: str | None,
    replace: bool,
    partial: bool,
    sender: str,
    origin: str | None,
    equal_before: int | None,
) -> Payload:
    return Payload(
        body=body,
        received_at=received_at,
        source=source,
        host=host,
        time=time,
        key=key,
        replace=replace,
        sender=sender,
        origin=origin or sender,
        token=token,
        partial=partial,
        equal_before=equal_before or 0,
    )

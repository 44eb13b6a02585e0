"""Writes documents that are known to be new: rows, changes, receipts, and what their hosts show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import orjson

from ringstats_ts.errors import ConflictingPayload
from ringstats_ts.model import Receipt, Rows
from ringstats_ts.storage.changes import Forgotten, apply_listing, changes_digest, record_changes
from ringstats_ts.storage.copytext import copy_text, row_text
from ringstats_ts.storage.database import Transaction
from ringstats_ts.storage.ids import Ids
from ringstats_ts.storage.receipts import receipt
from ringstats_ts.storage.refresh import LATE
from ringstats_ts.storage.rejects import keep_bad_lines
from ringstats_ts.storage.reporters import Item

DRIFT_PATHS = 100
DRIFT_LENGTH = 200
"""What is noted of one document's unknown fields; all of them are kept in attributes."""

DRIFT_OF_HOST = 1_000
DRIFT_OF_SOURCE = 10_000
"""Unknown fields that are noted in all; what is new in every document is not worth a row."""

RECEIPT = (
    "receipt_id",
    "host_id",
    "source",
    "key",
    "digest",
    "time",
    "received_at",
    "row_count",
    "short_rows",
)

Table = tuple[str, tuple[str, ...]]


def write(
    transaction: Transaction, ids: Ids, items: Sequence[Item], forgotten: Forgotten | None = None
) -> list[Receipt]:
    """Write the items and their receipts: each table in one go.

    Those of one host are in the order of their times: what follows a late one is read from
    the tables, where those behind it are not yet.
    """
    for item, batch in zip(items, ids.resolve([item.task.batch for item in items]), strict=True):
        if batch is not item.task.batch:
            item.task = replace(item.task, batch=batch)
    for item in items:
        _write_changes(transaction, ids, item, forgotten or {})
    for item in items:
        _write_events(transaction, ids, item)
    # Late: the count of rejects, which every refusal needs, is locked until the end.
    for item in items:
        if item.task.batch.bad_lines:
            item.kept = keep_bad_lines(transaction, item.task.batch, item.task.sent)
    tables = _tables(ids, items)
    tables["receipts", RECEIPT] = [list(column) for column in zip(*map(_receipt_row, items), strict=True)]
    _write_tables(transaction, tables)
    for _, own in groupby(sorted(items, key=_host_id), key=_host_id):
        _touch(transaction, list(own))
    for item in items:
        _note(transaction, item)
    return [
        receipt(
            item.task, item.task.batch.time, _row_count(item), duplicate=_is_repeated(item), kept=item.kept
        )
        for item in items
    ]


def _write_events(transaction: Transaction, ids: Ids, item: Item) -> None:
    """Write the events that are new."""
    batch = item.task.batch
    for part in batch.events:
        count = len(part.rows)
        head = [[value] * count for value in (item.reporter.host_id, batch.received_at)]
        if count:
            text = copy_text([*head, *ids.columns(part)])
            columns = ("host_id", "received_at", *part.columns)
            added, differing = transaction.copy_new(part.table, columns, text, compare=not batch.is_log)
            item.added += added
            if differing:
                # The ids of a log's events are of all that tells them apart; these have names only.
                raise ConflictingPayload(
                    f"Other values are stored for host {batch.host.name} at {differing[0].isoformat()}.",
                    "Each value is stored once, and stays. Do two senders have one host's name?",
                )


def _is_repeated(item: Item) -> bool:
    """Whether it brought nothing new, though its receipt was not found."""
    batch = item.task.batch
    return bool(batch.events) and not item.added and not batch.rows and any(p.rows for p in batch.events)


def _write_changes(transaction: Transaction, ids: Ids, item: Item, forgotten: Forgotten) -> None:
    batch, known, late = item.task.batch, item.reporter.changes_digests, item.late
    if batch.listed:
        apply_listing(transaction, ids, batch, item.reporter.host_id)
    if not batch.changes:
        return
    digest = changes_digest(ids, batch)
    if not late and known.get(batch.source) == digest:
        return
    for changes in batch.changes:
        record_changes(
            transaction, ids, changes, batch, item.reporter.host_id, late=late, forgotten=forgotten
        )
    if late:
        known.pop(batch.source, None)
    else:
        known[batch.source] = digest


def _tables(ids: Ids, items: Iterable[Item]) -> dict[Table, list[list[Any]]]:
    """The columns of each table, those of all items together."""
    tables: dict[Table, list[list[Any]]] = {}
    for item in items:
        for part in item.task.batch.rows:
            columns = ("host_id", "time", "received_at", *part.columns)
            together = tables.setdefault((part.table, columns), [[] for _ in columns])
            for column, cells in zip(together, _columns(ids, item, part), strict=True):
                column.extend(cells)
    return tables


def _columns(ids: Ids, item: Item, part: Rows) -> list[Sequence[Any]]:
    batch, count = item.task.batch, len(part.rows)
    head = [[value] * count for value in (item.reporter.host_id, batch.time, batch.received_at)]
    return [*head, *ids.columns(part)] if count else [[] for _ in (*head, *part.columns)]


def _write_tables(transaction: Transaction, tables: Mapping[Table, Sequence[Sequence[Any]]]) -> None:
    """COPY what is many rows. One row goes with the next message, which costs less than a COPY."""
    for (table, columns), cells in tables.items():
        if len(cells[0]) > 1:
            transaction.copy(table, columns, copy_text(cells))
    for (table, columns), cells in tables.items():
        if len(cells[0]) == 1:
            transaction.insert_later(table, columns, row_text([column[0] for column in cells]))


def _receipt_row(item: Item) -> tuple[Any, ...]:
    task, batch = item.task, item.task.batch
    return (
        task.receipt_id,
        item.reporter.host_id,
        batch.source,
        task.unkept_key if item.kept is False or (batch.has_events and batch.shortages) else task.receipt_key,
        batch.digest,
        batch.time,
        batch.received_at,
        _row_count(item),
        batch.short_rows,
    )


def _row_count(item: Item) -> int:
    return item.added + sum(len(part.rows) for part in item.task.batch.rows)


def _host_id(item: Item) -> int:
    return item.reporter.host_id


def _touch(transaction: Transaction, own: Sequence[Item]) -> None:
    """Bring a host up to date with its items, the newest of which is the last."""
    reporter = own[0].reporter
    last = own[-1].task.batch
    hosts = [item.task.batch.host for item in reversed(own)]
    transaction.later(
        "touch_host",
        {
            "host_id": reporter.host_id,
            "first": min(item.task.batch.span[0] for item in own),
            "last": last.time,
            "name": last.host.name,
            "tailnet": next((host.tailnet for host in hosts if host.tailnet), ""),
            "stable_id": next((host.stable_id for host in hosts if host.stable_id is not None), None),
            "changes_digests": orjson.dumps(reporter.changes_digests).decode(),
        },
    )
    reporter.last_seen = max(last.time, reporter.last_seen or last.time)


def _note(transaction: Transaction, item: Item) -> None:
    """Note drift, and a sample that the refresh policies have passed."""
    batch = item.task.batch
    if batch.drift:
        paths = sorted({path[:DRIFT_LENGTH] for path in batch.drift[:DRIFT_PATHS]})
        drift = {"source": batch.source, "host_id": item.reporter.host_id, "time": batch.time, "paths": paths}
        bounds = {"most": DRIFT_OF_SOURCE, "most_of_host": DRIFT_OF_HOST}
        transaction.later("add_drift", drift | bounds)
    since, until = batch.span
    if since < batch.received_at - LATE:
        window = {"source": batch.rollup or batch.source, "since": since, "until": until}
        transaction.later("add_late_window", window)

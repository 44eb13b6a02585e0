"""The one way in: payload -> documents -> source -> batches -> one transaction -> receipts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from ringstats_ts import sources
from ringstats_ts.config import Config
from ringstats_ts.decode import Document, documents
from ringstats_ts.errors import PayloadError, RingstatsError
from ringstats_ts.model import Batch, Context, Payload, Receipt, Source
from ringstats_ts.sources.secrets import redact
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.store import check_time, store, tasks

logger = logging.getLogger(__name__)

REJECT_KEPT_BYTES = 1024 * 1024
"""Largest refused body that is kept; of a larger one only the reason is."""


def ingest(payload: Payload, database: Database, config: Config) -> list[Receipt]:
    """Store every document of the payload, or none.

    Returns one receipt a document, in order; when it returns, they are committed.

    Raises
    ------
    PayloadError
        the payload was refused, nothing of it is stored.
    StorageUnavailable
        the database did not take it now; trying again is safe.
    """
    batches = parse(payload, config)
    for batch in batches:
        check_time(database, batch, future=config.future)
    return store(database, tasks(batches, key=payload.key, replace_rows=payload.replace))


def parse(payload: Payload, config: Config) -> list[Batch]:
    """Decode the body and turn each of its documents into a batch. Touches no database."""
    source = sources.by_name(payload.source) if payload.source else None
    found = documents(payload.body, max_documents=config.max_lines, max_depth=config.max_depth)
    batches = [_parse_one(document, payload, source) for document in found]
    return _apart(batches)


def _parse_one(document: Document, payload: Payload, source: Source | None) -> Batch:
    context = Context(
        received_at=payload.received_at,
        host=payload.host,
        time=payload.time,
        file_time=payload.file_time,
        sender=payload.sender,
    )
    try:
        return (source or sources.detect(document.value)).parse(document.value, context)
    except PayloadError as error:
        error.line = error.line or document.line
        if document.index is not None:
            error.pointer = f"/{document.index}{error.pointer or ''}"
        raise


def _apart(batches: Sequence[Batch]) -> list[Batch]:
    """Give documents of one body that tell no time each a microsecond of their own, in order."""
    return [
        batch if batch.time_known else replace(batch, time=batch.time + timedelta(microseconds=number))
        for number, batch in enumerate(batches)
    ]


def reject(payload: Payload, error: PayloadError, database: Database) -> None:
    """Keep a refused payload with its reason. Where the database is away, only the log tells."""
    body = payload.body
    try:
        database.rows(
            "add_reject",
            {
                "received_at": payload.received_at,
                "source": payload.source,
                "host": payload.host,
                "sender": payload.sender,
                "reason": error.code,
                "detail": str(error).replace("\0", "\\u0000"),
                "pointer": error.pointer and error.pointer.replace("\0", "\\u0000"),
                "line": error.line,
                "size_bytes": len(body),
                "payload": redact(body) if len(body) <= REJECT_KEPT_BYTES else None,
            },
        )
    except RingstatsError as failure:
        logger.warning("A refused payload could not be kept: %s", failure.message)

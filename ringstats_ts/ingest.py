"""The one way in: payload -> documents -> source -> batches -> one transaction -> receipts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from urllib.parse import unquote

from ringstats_ts import sources
from ringstats_ts.config import Config
from ringstats_ts.decode import Document, documents, refuse_rounded
from ringstats_ts.errors import PayloadError, RingstatsError
from ringstats_ts.model import Batch, Context, Payload, Receipt, Source
from ringstats_ts.sources.secrets import keepable, redact_text
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.receipts import tasks
from ringstats_ts.storage.store import RefusedTask, store
from ringstats_ts.storage.window import check_time

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
    found = _documents(payload, config)
    batches = _parsed(found, payload)
    todo = tasks(batches, key=payload.key, replace_rows=payload.replace)
    for document, batch in zip(found, batches, strict=True):
        with _located(document):
            check_time(database, batch, future=config.future)
    try:
        return store(database, todo)
    except RefusedTask as refusal:
        with _located(found[refusal.number]):
            raise refusal.error from None


def parse(payload: Payload, config: Config) -> list[Batch]:
    """Decode the body and turn each of its documents into a batch. Touches no database."""
    return _parsed(_documents(payload, config), payload)


def _documents(payload: Payload, config: Config) -> list[Document]:
    return documents(
        payload.body,
        max_documents=config.max_lines,
        max_depth=config.max_depth,
        max_values=config.max_values,
    )


def _parsed(found: Sequence[Document], payload: Payload) -> list[Batch]:
    source = sources.by_name(payload.source) if payload.source else None
    batches = _apart([_parse_one(document, payload, source) for document in found])
    # Behind the sources, which name the field where it is one that they know.
    refuse_rounded(payload.body)
    return batches


def _parse_one(document: Document, payload: Payload, source: Source | None) -> Batch:
    context = Context(
        received_at=payload.received_at,
        host=payload.host,
        time=payload.time,
        file_time=payload.file_time,
        sender=payload.sender,
    )
    with _located(document):
        return (source or sources.detect(document.value)).parse(document.value, context)


@contextmanager
def _located(document: Document) -> Iterator[None]:
    """Say of an error where in the body the document stood."""
    try:
        yield
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
                "detail": _storable(str(error)),
                "pointer": error.pointer and _storable(error.pointer),
                "line": error.line,
                "size_bytes": len(body),
                "payload": keepable(body) if len(body) <= REJECT_KEPT_BYTES else None,
            },
        )
    except RingstatsError as failure:
        logger.warning("A refused payload could not be kept: %s", failure.message)


def _storable(text: str) -> str:
    """The message as it may be kept: it may quote the body, as sent or percent-encoded."""
    return redact_text(unquote(text)).replace("\0", "\\u0000")

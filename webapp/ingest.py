"""The routes that take documents. 200 means committed."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import Blueprint, Response, g, request

from ringstats_ts import sources
from ringstats_ts.errors import (
    BudgetSpent,
    KilledWorker,
    MalformedPayload,
    PartlyRefused,
    PayloadError,
    RingstatsError,
)
from ringstats_ts.identity import is_loopback
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload, Receipt, Token
from ringstats_ts.rejects import reject, reject_each
from webapp.auth import require
from webapp.body import Body
from webapp.errors import problem
from webapp.notes import Note
from webapp.parameters import parameters
from webapp.service import service

UNKNOWN = "unknown"
"""The source of what was not understood."""

routes = Blueprint("ingest", __name__)


@routes.post("/")
def ingest_any() -> Response:
    """Take a payload whose source its content tells."""
    return _take(None)


@routes.post("/v1/ingest/<source>")
def ingest_source(source: str) -> Response:
    """Take a payload of a named source."""
    names = [known.name for known in sources.SOURCES]
    if source not in names:
        detail = f"There is no source of that name. There are: {', '.join(names)}."
        return problem(404, title="Not Found", detail=detail)
    return _take(source)


def _take(source: str | None) -> Response:
    name = source or UNKNOWN
    # Counted so until more is known: whatever ends this, the request is accounted for.
    g.documents = Counter({(name, "failed", RingstatsError.code): 1})
    token = _admitted(name)
    try:
        receipts = _stored(source, token)
    except PartlyRefused as error:
        _count(error.receipts)
        _count_refused([refusal.error for refusal in error.refusals])
        g.documents.update((name, "rejected", refusal.error.code) for refusal in error.refusals)
        raise
    except RingstatsError as error:
        # Who is told to try again still has it; of all else we have taken charge.
        outcome = "rejected" if isinstance(error, PayloadError) and not error.retryable else "failed"
        g.documents = Counter({(name, outcome, error.code): error.documents})
        _count_refused([error])
        raise
    _count(receipts)
    return _receipt(receipts)


def _admitted(name: str) -> Token | None:
    """Who sends. Of a sender who may not, nothing is read and so nothing kept."""
    try:
        token = require("ingest")
        service().admission.check_rate(token)
    except RingstatsError as error:
        g.documents = Counter({(name, "failed", error.code): 1})
        raise
    return token


def _stored(source: str | None, token: Token | None) -> list[Receipt]:
    """Read the document, and store it; what is refused for good is kept with its reason."""
    with service().notes.note() as note:
        return _noted(source, token, note)


def _noted(source: str | None, token: Token | None, note: Note) -> list[Receipt]:
    here = service()
    body = Body(request, here.config)
    payload = Payload(
        body=b"",
        received_at=datetime.now(UTC),
        source=source,
        sender=request.remote_addr or "unknown",
        origin=_origin(request.remote_addr or "unknown"),
        token=token,
        clock=here.config.future,
    )
    try:
        body.receive()
        _note(note, payload, body.raw)
        with here.admission.turn():
            note.reads()
            payload = replace(payload, body=body.document())
            payload = replace(payload, **asdict(parameters(request)))
            return ingest(payload, here.database(), here.config, parsed=note.waits)
    except PartlyRefused as error:
        reject_each(payload, error.refusals, here.database(), here.config)
        raise
    except PayloadError as error:
        if error.retryable:
            raise
        refused = _explained(error)
        payload = replace(payload, body=payload.body or bytes(body.raw))
        reject(payload, refused, here.database(), here.config)
        raise refused from None


def _note(note: Note, payload: Payload, raw: bytearray) -> None:
    """Note the body before anything is done with it.

    Raises
    ------
    KilledWorker
        it killed a worker lately.
    """
    if service().notes.refused(raw):
        raise KilledWorker
    note.begin(payload, raw)


def _origin(sender: str) -> str:
    """The machine that sends: by loopback it is this one, which has a name."""
    return socket.gethostname() if is_loopback(sender) else sender


def _count(receipts: Sequence[Receipt]) -> None:
    """Note what became of documents and rows, for the metrics and the headers."""
    g.documents = Counter(
        (receipt.source, "duplicate" if receipt.duplicate else "stored", "") for receipt in receipts
    )
    g.stored_rows = Counter()
    g.bad_lines = Counter()
    g.shortages = Counter()
    for receipt in receipts:
        g.bad_lines[receipt.source] += receipt.bad_lines
        for shortage in receipt.shortages:
            g.shortages[shortage.level, shortage.what] += shortage.rows
        if not receipt.duplicate:
            g.stored_rows[receipt.source] += receipt.rows
    g.rows = sum(receipt.rows for receipt in receipts)


def _count_refused(errors: Sequence[RingstatsError]) -> None:
    """Note whose budget refused documents, for the metrics."""
    spent = [(error.level, error.what) for error in errors if isinstance(error, BudgetSpent)]
    g.shortages = g.get("shortages", Counter()) + Counter(spent)


def _explained(error: PayloadError) -> PayloadError:
    """Say what is wrong with a form, which is what `curl -F` sends."""
    if request.mimetype == "multipart/form-data" and isinstance(error, MalformedPayload):
        return MalformedPayload(
            "The body is a form (multipart/form-data), not a document.",
            "With curl, use `--data-binary @FILE` instead of `-F`.",
        )
    return error


def _receipt(receipts: list[Receipt]) -> Response:
    duplicate = all(receipt.duplicate for receipt in receipts)
    response = Response(orjson.dumps(_document(receipts)) + b"\n", mimetype="application/json")
    if duplicate:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _document(receipts: list[Receipt]) -> dict[str, Any]:
    """The receipt, or for several documents their sum with the receipts beneath."""
    first = receipts[0].as_dict()
    if len(receipts) == 1:
        return first
    return first | {
        "rows": sum(receipt.rows for receipt in receipts),
        "duplicate": all(receipt.duplicate for receipt in receipts),
        "warnings": list(dict.fromkeys(text for receipt in receipts for text in receipt.warnings)),
        "documents": [receipt.as_dict() for receipt in receipts],
    }

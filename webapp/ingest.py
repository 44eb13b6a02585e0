"""The routes that take documents. 200 means committed."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import Blueprint, Response, g, request

from ringstats_ts import sources
from ringstats_ts.errors import MalformedPayload, PayloadError
from ringstats_ts.ingest import ingest, reject
from ringstats_ts.model import Payload, Receipt
from webapp.body import Body
from webapp.errors import problem
from webapp.parameters import parameters
from webapp.service import service

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
    here = service()
    body = Body(request, here.config)
    payload = Payload(
        body=b"",
        received_at=datetime.now(UTC),
        source=source,
        sender=request.remote_addr or "unknown",
    )
    try:
        payload = replace(payload, body=body.read())
        payload = replace(payload, **asdict(parameters(request)))
        receipts = ingest(payload, here.database(), here.config)
    except PayloadError as error:
        refused = _explained(error)
        reject(replace(payload, body=payload.body or bytes(body.raw)), refused, here.database())
        raise refused from None
    return _receipt(receipts)


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
    rows = sum(receipt.rows for receipt in receipts)
    g.rows = rows
    response = Response(orjson.dumps(_document(receipts)) + b"\n", mimetype="application/json")
    response.headers["Ingest-Rows"] = str(rows)
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

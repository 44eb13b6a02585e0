"""Errors as answers: problem+json (RFC 9457) with one readable line, and what a client can do.

This is the one place that knows which error has which HTTP status. An answer never
holds a payload, SQL, a stack or an address.
"""

from __future__ import annotations

import logging
import math
import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import orjson
from flask import Blueprint, Flask, Response, abort, g, request
from gunicorn import util
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from ringstats_ts.errors import (
    BadParameter,
    BodyTimeout,
    BudgetSpent,
    Busy,
    EmptyPayload,
    Forbidden,
    MalformedPayload,
    Misdirected,
    OutdatedSchema,
    PartlyRefused,
    PayloadError,
    PayloadTooLarge,
    RingstatsError,
    StorageError,
    StorageUnavailable,
    TooManyRequests,
    Unauthorized,
    UnsuitableDatabase,
    UnsupportedEncoding,
)
from webapp import log
from webapp.metrics import OTHER, metrics
from webapp.trace import request_id

STATUS: dict[type[RingstatsError], int] = {
    BadParameter: 400,
    EmptyPayload: 400,
    MalformedPayload: 400,
    PayloadTooLarge: 413,
    UnsupportedEncoding: 415,
    Unauthorized: 401,
    Forbidden: 403,
    Misdirected: 421,
    Busy: 503,
    TooManyRequests: 429,
    BudgetSpent: 429,
    BodyTimeout: 408,
    PayloadError: 422,
    StorageError: 503,
    RingstatsError: 500,
}
"""The status of an error is that of its nearest ancestor here."""

CHALLENGES = ('Bearer realm="tsstats"', 'Basic realm="tsstats", charset="UTF-8"')
"""For WWW-Authenticate: the second makes a browser ask."""

PROBLEM = "application/problem+json"

MOST_ERRORS = 100
"""Of one body that are named in the answer."""

LONGEST_WAIT = 3600
"""For Retry-After [seconds]."""

HINTS = {
    400: "It is not HTTP as this service understands it: look at the address and the headers.",
    404: "Post documents to / or to /v1/ingest/<source>; GET / says more.",
    405: "Use one of the methods that the Allow header names.",
    417: "Send it without the header Expect.",
    414: "The request line is too long: send documents in the body of a POST.",
    431: "The headers are too many or too long.",
    501: "Send the body with its Content-Length, or with `Transfer-Encoding: chunked` alone.",
}

routes = Blueprint("errors", __name__)


def register(app: Flask) -> None:
    """Answer every error of the application in this way."""
    app.register_error_handler(RingstatsError, answer)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_unexpected)


def status_of(error: RingstatsError) -> int:
    """The HTTP status that answers an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def answer(error: RingstatsError) -> Response:
    """Answer one of our own errors."""
    status = status_of(error)
    if status == 500:
        return _answer_unexpected(error)
    report(error)
    public = public_error(error)
    return problem(
        status,
        title=_title(type(public)),
        detail=str(public),
        code=public.code,
        retryable=error.retryable or status == 503,
        errors=_places(error),
        more=_partly(error) if isinstance(error, PartlyRefused) else {},
        wait=_until_tomorrow() if isinstance(error, BudgetSpent) else error.retry_after,
    )


def report(error: RingstatsError) -> None:
    """Name the error in the log; more is said of those that are not the client's doing."""
    g.error = error.code
    if isinstance(error, StorageError):
        detail = _for_the_log(error)
        log.write(logging.WARNING, "storage", error=error.code, detail=detail, request_id=request_id())


def public_error(error: RingstatsError) -> RingstatsError:
    """The error as a client may know it: what a driver said stays in the log."""
    if not isinstance(error, StorageError) or isinstance(error, UnsuitableDatabase | OutdatedSchema):
        return error
    return type(error)() if isinstance(error, StorageUnavailable) else StorageError()


def problem(
    status: int,
    *,
    title: str,
    detail: str,
    code: str | None = None,
    retryable: bool = False,
    errors: Sequence[dict[str, Any]] = (),
    more: Mapping[str, Any] | None = None,
    wait: float | None = None,
) -> Response:
    """Make the answer; one that is to be tried again says when, after `wait` seconds if that is known."""
    kind = f"{request.script_root}/problems/{code}" if code else "about:blank"
    body = _document(status, kind, title=title, detail=detail, identity=request_id(), retryable=retryable)
    if errors:
        body["errors"] = list(errors)
    body |= more or {}
    response = Response(orjson.dumps(body) + b"\n", status, mimetype=PROBLEM)
    if status == 401:
        for challenge in CHALLENGES:
            response.headers.add("WWW-Authenticate", challenge)
    if status in (429, 503):
        response.headers["Retry-After"] = retry_after(wait)
    return response


def _document(
    status: int,
    kind: str = "about:blank",
    *,
    title: str,
    detail: str,
    identity: str,
    retryable: bool = False,
) -> dict[str, Any]:
    return {
        "type": kind,
        "title": title,
        "status": status,
        "detail": detail,
        "instance": _instance(identity),
        "retryable": retryable,
    }


def retry_after(wait: float | None = None) -> str:
    """Seconds, spread so that a fleet that was refused together does not come back together.

    Never less than `wait`, up to an hour: what it is told then is the same again.
    """
    seconds = math.ceil(wait or 0)
    return str(min(seconds + random.randint(0, seconds // 4), LONGEST_WAIT) if wait else random.randint(1, 5))


@routes.get("/problems/<code>")
def explain(code: str) -> Response:
    """What the `type` of an answer leads to: the error in plain words."""
    kind = next((kind for kind in _kinds(RingstatsError) if kind.code == code), None)
    if kind is None:
        abort(404)
    lines = [_title(kind), kind.hint or "", f"HTTP status {status_of(kind())}."]
    lines.append("Trying again can help." if kind.retryable else "Sending the same again will not help.")
    return Response("\n".join(line for line in lines if line) + "\n", mimetype="text/plain")


def write_problem(sock: socket.socket, status: int, _reason: str, _message: str) -> None:
    """Answer what is not HTTP as gunicorn understands it; the connection is closed behind it.

    In the place of `gunicorn.util.write_error`, whose HTML quotes what was sent.
    """
    identity = str(uuid4())
    hint = HINTS.get(status, "")
    # gunicorn calls 501 a Bad Request.
    reason = HTTPStatus(status).phrase
    body = _document(status, title=reason, detail=f"{reason}. {hint}".strip(), identity=identity)
    log.write(logging.INFO, "request", status=status, error="http", request_id=identity)
    metrics().requests.labels(OTHER, str(status)).observe(0)
    util.write_nonblock(sock, _on_the_wire(status, reason, body, identity))


def turn_away(waited: float, *, document: bool) -> bytes:
    """Count a request that nobody has read, after `waited` seconds; the answer that it is busy.

    All of it is made here, since the application costs ten times as much, which those would
    miss who are not turned away.
    """
    error, status, identity = Busy(), HTTPStatus.SERVICE_UNAVAILABLE, str(uuid4())
    body = _document(
        status,
        f"/problems/{error.code}",
        title=_title(Busy),
        detail=str(error),
        identity=identity,
        retryable=True,
    )
    fields = {"status": int(status), "error": error.code, "ms": round(waited * 1000, 1)}
    log.write(logging.INFO, "request", **fields, request_id=identity)
    metrics().requests.labels(OTHER, str(int(status))).observe(waited)
    if document:
        metrics().documents.labels("unknown", "failed", error.code).inc()
    counts = "Ingest-Rows: 0\r\nIngest-Rejected: 0\r\n" if document else ""
    more = f"Retry-After: {retry_after()}\r\n{counts}"
    return _on_the_wire(status, status.phrase, body, identity, more)


def _on_the_wire(status: int, reason: str, body: Mapping[str, Any], identity: str, more: str = "") -> bytes:
    text = orjson.dumps(body) + b"\n"
    head = (
        f"HTTP/1.1 {status:d} {reason}\r\nConnection: close\r\nContent-Type: {PROBLEM}\r\n"
        f"Content-Length: {len(text)}\r\nRequest-Id: {identity}\r\n{more}"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode() + text


def _answer_http(error: HTTPException) -> BaseResponse:
    status = error.code or 500
    if status < 400 or error.response is not None:
        return error.get_response()
    phrase = HTTPStatus(status).phrase
    hint = error.description if getattr(error, "ours", False) else HINTS.get(status, "")
    response = problem(status, title=phrase, detail=f"{phrase}. {hint}".strip(), retryable=status >= 500)
    if allow := dict(error.get_headers()).get("Allow"):
        response.headers["Allow"] = ", ".join(sorted(allow.split(", ")))
    return response


def _answer_unexpected(error: Exception) -> Response:
    g.error = "internal"
    log.write(
        logging.ERROR, "bug", error=type(error).__name__, where=log.where(error), request_id=request_id()
    )
    return problem(
        500,
        title="Internal Server Error",
        detail=f"The service failed. Please report it, with the request id {request_id()}.",
        retryable=True,
    )


def _for_the_log(error: StorageError) -> str:
    # The base class is what an unusable DATABASE_URI raises, and libpq quotes that.
    return error.message if type(error) is not StorageError else _title(type(error))


def _place(error: PayloadError) -> dict[str, Any]:
    place = {"pointer": error.pointer, "line": error.line, "code": error.code, "detail": error.message}
    return {name: value for name, value in place.items() if value is not None}


def _places(error: RingstatsError) -> list[dict[str, Any]]:
    refused = [refusal.error for refusal in error.refusals] if isinstance(error, PartlyRefused) else [error]
    return [_place(one) for one in refused[:MOST_ERRORS] if isinstance(one, PayloadError)]


def _partly(error: PartlyRefused) -> dict[str, Any]:
    """What became of the documents, one by one of those that are stored."""
    duplicates = sum(receipt.duplicate for receipt in error.receipts)
    return {
        "rows": sum(receipt.rows for receipt in error.receipts),
        "stored": len(error.receipts) - duplicates,
        "duplicate": duplicates,
        "rejected": len(error.refusals),
        "documents": [receipt.as_dict() for receipt in error.receipts],
    }


def _until_tomorrow() -> float:
    """Seconds to the end of the day (UTC), when budgets begin anew."""
    now = datetime.now(UTC)
    return 86400.0 - (now - now.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()


def _title(kind: type[RingstatsError]) -> str:
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0]


def _instance(text: str) -> str:
    try:
        return f"urn:uuid:{UUID(text)}"
    except ValueError:
        return f"#{quote(text, safe='')}"


def _kinds(kind: type[RingstatsError]) -> Iterator[type[RingstatsError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)

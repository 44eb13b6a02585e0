"""Errors as answers: problem+json (RFC 9457) with one readable line, and what a client can do.

This is the one place that knows which error has which HTTP status. An answer never
holds a payload, SQL, a stack or an address.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
from flask import Blueprint, Flask, Response, abort, g, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from ringstats_ts.errors import (
    BadParameter,
    EmptyPayload,
    MalformedPayload,
    OutdatedSchema,
    PayloadError,
    PayloadTooLarge,
    RingstatsError,
    StorageError,
    StorageUnavailable,
    UnsuitableDatabase,
    UnsupportedEncoding,
)
from webapp import log
from webapp.trace import request_id

STATUS: dict[type[RingstatsError], int] = {
    BadParameter: 400,
    EmptyPayload: 400,
    MalformedPayload: 400,
    PayloadTooLarge: 413,
    UnsupportedEncoding: 415,
    PayloadError: 422,
    StorageError: 503,
    RingstatsError: 500,
}
"""The status of an error is that of its nearest ancestor here."""

HINTS = {
    404: "Post documents to / or to /v1/ingest/<source>; GET / says more.",
    405: "Use one of the methods that the Allow header names.",
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
        errors=[_place(error)] if isinstance(error, PayloadError) else [],
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
    errors: list[dict[str, Any]] | None = None,
) -> Response:
    """Make the answer; a retryable one says when."""
    body: dict[str, Any] = {
        "type": url_for("errors.explain", code=code) if code else "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": _instance(request_id()),
        "retryable": retryable,
    }
    if errors:
        body["errors"] = errors
    response = Response(orjson.dumps(body) + b"\n", status, mimetype="application/problem+json")
    if status in (429, 503):
        response.headers["Retry-After"] = retry_after()
    return response


def retry_after() -> str:
    """Seconds, spread so that a fleet that was refused together does not come back together."""
    return str(random.randint(1, 5))


@routes.get("/problems/<code>")
def explain(code: str) -> Response:
    """What the `type` of an answer leads to: the error in plain words."""
    kind = next((kind for kind in _kinds(RingstatsError) if kind.code == code), None)
    if kind is None:
        abort(404)
    lines = [_title(kind), kind.hint or "", f"HTTP status {status_of(kind())}."]
    lines.append("Trying again can help." if kind.retryable else "Sending the same again will not help.")
    return Response("\n".join(line for line in lines if line) + "\n", mimetype="text/plain")


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

"""What every request gets: an id, its headers, one log line."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from time import monotonic
from uuid import uuid4

from flask import Flask, Request, Response, g, request

from ringstats_ts.shapes import REDACTED, redact_text, redact_url
from webapp import log

_VISIBLE = re.compile(r"[\x21-\x7e]{1,64}")
_LONG_PART = re.compile(r"[^/<>]{16,}")
_READ = 2000
_SHOWN = 200
_QUIET = ("/healthz", "/readyz", "/metrics")


def register(app: Flask) -> None:
    """Put an id on every request, and headers and a log line on every answer."""
    app.before_request(_begin)
    app.after_request(_finish)


def request_id() -> str:
    """The id of this request: the client's own if it can be used, else a new UUID."""
    if "request_id" not in g:
        g.request_id = _given(request) or str(uuid4())
    return str(g.request_id)


def _given(request: Request) -> str | None:
    text = request.headers.get("Request-Id", "")
    return text if _VISIBLE.fullmatch(text) and redact_text(text) == text else None


def _begin() -> None:
    g.started = monotonic()


def _finish(response: Response) -> Response:
    response.headers["Request-Id"] = request_id()
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if "documents" in g:
        response.headers["Ingest-Rows"] = str(g.get("rows", 0))
        response.headers["Ingest-Rejected"] = str(_rejected())
    level = logging.DEBUG if request.path in _QUIET and response.status_code < 400 else logging.INFO
    log.write(
        level,
        "request",
        method=request.method,
        path=_shown(
            request.path, known=request.url_rule is not None and response.status_code != HTTPStatus.NOT_FOUND
        ),
        status=response.status_code,
        bytes=g.get("received_bytes", 0),
        rows=g.get("rows"),
        error=g.get("error"),
        token=g.token.key_id if g.get("token") else None,
        ms=round((monotonic() - g.started) * 1000, 1),
        request_id=request_id(),
    )
    return response


def _shown(path: str, *, known: bool) -> str:
    """The path as it may be logged: of an unknown one no part that may be a token in a wrong place."""
    shown = redact_url(path[:_READ])
    return (shown if known else _LONG_PART.sub(REDACTED, shown))[:_SHOWN]


def _rejected() -> int:
    return sum(count for (_, outcome, _), count in g.documents.items() if outcome == "rejected")

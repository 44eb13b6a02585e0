"""The first page and the contract: a browser gets an overview, curl gets a few lines of text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files

from flask import Blueprint, Response, render_template, request

from ringstats_ts import __version__
from ringstats_ts.errors import StatementTimeout, StorageError, StorageUnavailable
from ringstats_ts.storage import overview
from ringstats_ts.storage.overview import DayTraffic, Overview, Reporter, Traffic
from webapp.auth import require, verify
from webapp.errors import public_error, report, retry_after
from webapp.service import service

_SAFE_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
_CSP = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

routes = Blueprint("pages", __name__)


@routes.get("/")
def front() -> Response:
    """The overview for a browser, else version and how to post."""
    wants_html = any(kind == "text/html" for kind, _ in request.accept_mimetypes)
    if wants_html:
        require("read")
    else:
        verify()
    response = _page() if wants_html else _text()
    response.headers["Vary"] = "Accept"
    return response


@routes.get("/openapi.yaml")
def contract() -> Response:
    """All of this in OpenAPI, for programs."""
    return Response(files("webapp").joinpath("openapi.yaml").read_bytes(), mimetype="application/yaml")


def _text() -> Response:
    return Response(
        render_template("front.txt", version=__version__, url=_url(), auth=service().config.auth),
        mimetype="text/plain",
    )


def _page() -> Response:
    try:
        look = service().overview.get(_look)
        response = _html(look=look, traffic=_traffic() if look.hosts else None)
    except StorageError as error:
        report(error)
        response = _html(error=error)
        response.status_code = 503
        response.headers["Retry-After"] = retry_after()
    response.headers["Content-Security-Policy"] = _CSP
    return response


def _html(
    look: Overview | None = None, traffic: DayTraffic | None = None, error: StorageError | None = None
) -> Response:
    page = render_template(
        "front.html",
        version=__version__,
        url=_url(),
        now=datetime.now(UTC),
        look=look,
        traffic=traffic,
        problem=str(public_error(error)) if error else None,
        away=isinstance(error, StorageUnavailable) and not isinstance(error, StatementTimeout),
        repeated=_repeated,
        ago=_ago,
        size=_size,
    )
    return Response(page, mimetype="text/html")


def _look() -> Overview:
    return overview.read(service().database(), now=datetime.now(UTC))


def _traffic() -> DayTraffic | None:
    """The traffic; none where it cannot be added up, such as in time."""
    try:
        return service().traffic.get(
            lambda: overview.read_traffic(service().database(), now=datetime.now(UTC))
        )
    except StorageError as error:
        report(error)
        return None


def _url() -> str:
    """The service's address as the client knows it; odd headers are not repeated into a shell line."""
    scheme = "https" if request.is_secure else "http"
    host = request.host if _SAFE_HOST.fullmatch(request.host) else "localhost:8000"
    return f"{scheme}://{host}{request.script_root}/"


def _repeated(rows: Sequence[Reporter | Traffic], *fields: str) -> set[tuple[str, ...]]:
    """What several rows have in these fields: they need more to be told apart."""
    counts = Counter(tuple(getattr(row, field) for field in fields) for row in rows)
    return {values for values, count in counts.items() if count > 1}


def _ago(now: datetime, time: datetime) -> str:
    """A duration as people say it."""
    seconds = max((now - time) // timedelta(seconds=1), 0)
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name} ago"
    return f"{seconds} s ago"


def _size(count: int) -> str:
    """Bytes in binary units, three digits."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < 6:
        value, unit = value / 1024, unit + 1
    digits = 0 if unit == 0 or value >= 100 else 1
    return f"{value:.{digits}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[unit]}"

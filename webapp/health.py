"""Whether the process lives, whether it can take documents now, and what it has counted."""

from __future__ import annotations

from flask import Blueprint, Response

from ringstats_ts.storage import clientkey, overview, schema
from ringstats_ts.storage.clock import check_clock
from webapp.auth import require
from webapp.metrics import metrics
from webapp.service import service

routes = Blueprint("health", __name__)


@routes.get("/healthz")
def alive() -> Response:
    """The process answers. Says nothing about the database."""
    return Response('{"status": "alive"}\n', mimetype="application/json")


@routes.get("/readyz")
def ready() -> Response:
    """The database takes documents, as tried at most two seconds ago; else 503 with the reason."""
    service().readiness.get(_look)
    return Response('{"status": "ready"}\n', mimetype="application/json")


@routes.get("/metrics")
def counted() -> Response:
    """The metrics in Prometheus' text format; for a token of scope `read` where one is needed."""
    require("read")
    from prometheus_client import CONTENT_TYPE_LATEST

    return Response(metrics().text(), content_type=CONTENT_TYPE_LATEST)


def _look() -> None:
    here = service()
    database = here.database()
    schema.check(database)
    with database.deadline():
        overview.check_writable(database)
        clientkey.check_kept_key(database, here.config)
        check_clock(database, here.config.future)

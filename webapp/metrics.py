"""What the service counts, for Prometheus (`GET /metrics`).

Every label takes its values from a closed set, so that no client can make series: sources,
routes as they are declared, the codes of our errors. A document is counted by what became of it,
so that received = stored + duplicate + rejected + failed.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from functools import cache
from itertools import product

from flask import Flask, Response, g, request

from ringstats_ts import __version__, sources
from ringstats_ts.errors import KilledWorker, RingstatsError, StorageError
from ringstats_ts.storage.budget import VARIABLES
from webapp import multiprocess

OUTCOMES = ("stored", "duplicate", "rejected", "failed")
OTHER = "other"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of this process. Made in a worker, after `webapp.multiprocess.begin` in its master."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        from webapp import reserved

        reserved.install()
        self.registry = registry = CollectorRegistry()
        self.documents = Counter(
            "tsstats_documents",
            "Documents received, by what became of them: stored, duplicate, rejected or failed.",
            ["source", "outcome", "reason"],
            registry=registry,
        )
        self.rows = Counter("tsstats_rows", "Rows stored in hypertables.", ["source"], registry=registry)
        self.bad_lines = Counter(
            "tsstats_bad_lines",
            "Lines of logs that could not be stored; each is kept as a reject, once, while there is room.",
            ["source"],
            registry=registry,
        )
        self.shortages = Counter(
            "tsstats_budget_spent_rows",
            "Rows that went without what was new in them, and hosts that were refused, by whose budget was "
            "spent (a host's, a sender's, that of all) and on what.",
            ["level", "what"],
            registry=registry,
        )
        self.received = Counter(
            "tsstats_received_bytes", "Bytes of bodies received, as sent.", registry=registry
        )
        self.requests = Histogram(
            "tsstats_request_seconds",
            "Time from the end of a request's headers to its answer.",
            ["route", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "tsstats_requests_in_flight",
            "Requests that have a thread now.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.storing = Gauge(
            "tsstats_writers_busy",
            "Requests that are among the writers now (TSSTATS_WRITERS of each worker).",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.waiting = Gauge(
            "tsstats_writers_waiting",
            "Requests that wait to be among the writers now.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.database_errors = Counter(
            "tsstats_database_errors",
            "Requests and rounds of upkeep that the database failed.",
            ["code"],
            registry=registry,
        )
        self.upkeep = Counter(
            "tsstats_upkeep_rounds", "Rounds of upkeep, by how they ended.", ["outcome"], registry=registry
        )
        self.last_stored = Gauge(
            "tsstats_last_stored_timestamp_seconds",
            "When the last document was committed; 0 before the first.",
            multiprocess_mode="max",
            registry=registry,
        )
        self.workers = Gauge(
            "tsstats_workers", "Worker processes that live.", multiprocess_mode="livesum", registry=registry
        )
        build = Gauge(
            "tsstats_build_info",
            "Always 1; the labels say what runs.",
            ["version", "python"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.workers.set(1)
        build.labels(__version__, platform.python_version()).set(1)
        # From the start, so that the first error is a step up that an alert can see.
        for code in sorted(_codes(StorageError)):
            self.database_errors.labels(code)
        for level, what in product(("all", "sender", "host"), VARIABLES):
            self.shortages.labels(level, what)
        for outcome in ("done", "failed"):
            self.upkeep.labels(outcome)

    def text(self) -> bytes:
        """All metrics, those of the other worker processes included."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        with multiprocess.reading() as directory:
            if directory is None:
                return generate_latest(self.registry)
            registry = CollectorRegistry()
            MultiProcessCollector(registry, directory)
            return generate_latest(registry)


@cache
def metrics() -> Metrics:
    """The metrics of this process; made by the first call."""
    return Metrics()


def register(app: Flask) -> None:
    """Count every request of the application."""
    metrics()
    app.before_request(_begin)
    app.after_request(_count)
    app.teardown_request(_end)


def count_upkeep(error: RingstatsError | None = None) -> None:
    """Count a round of upkeep, and what ended it."""
    ours = metrics()
    ours.upkeep.labels("failed" if error else "done").inc()
    if isinstance(error, StorageError):
        ours.database_errors.labels(error.code).inc()


def count_killed(source: str | None, outcome: str, size: int) -> None:
    """Count a document that a killed worker was at: rejected, or failed where it was there by chance."""
    metrics().documents.labels(_known_source(source), outcome, KilledWorker.code).inc()
    metrics().received.inc(size)


def _begin() -> None:
    g.in_flight = True
    g.began = time.monotonic()
    metrics().in_flight.inc()


def _end(_error: BaseException | None) -> None:
    if g.pop("in_flight", False):
        metrics().in_flight.dec()


def _count(response: Response) -> Response:
    """Count before the answer leaves: whoever has it, and asks, finds it counted."""
    ours = metrics()
    route = request.url_rule.rule if request.url_rule else OTHER
    ours.requests.labels(route, str(response.status_code)).observe(time.monotonic() - g.began)
    ours.received.inc(g.get("received_bytes", 0))
    for (source, outcome, reason), number in g.get("documents", {}).items():
        ours.documents.labels(_known_source(source), outcome, _known_reason(reason)).inc(number)
        if outcome == "stored":
            ours.last_stored.set(time.time())
    for source, rows in g.get("stored_rows", {}).items():
        ours.rows.labels(_known_source(source)).inc(rows)
    for source, lines in g.get("bad_lines", {}).items():
        ours.bad_lines.labels(_known_source(source)).inc(lines)
    for (level, what), number in g.get("shortages", {}).items():
        ours.shortages.labels(level, what).inc(number)
    if g.get("error") in _codes(StorageError):
        ours.database_errors.labels(g.error).inc()
    return response


def _known_source(name: str | None) -> str:
    return name if name in {source.name for source in sources.SOURCES} else "unknown"


def _known_reason(code: str | None) -> str:
    return (code if code in _codes(RingstatsError) else OTHER) if code else ""


@cache
def _codes(kind: type[RingstatsError]) -> frozenset[str]:
    return frozenset(found.code for found in _kinds(kind))


def _kinds(kind: type[RingstatsError]) -> Iterator[type[RingstatsError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)

"""`tsstats canary`: whether what is posted is stored, once, and can be read."""

from __future__ import annotations

import re
import signal
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from ringstats_ts.canary import HOST, OUTCOMES, Canary, Round
from ringstats_ts.cli.errors import FAILED, REFUSED, TRY_LATER
from ringstats_ts.cli.options import Address, configured, database_options, json_option, open_uri
from ringstats_ts.config import parse_interval
from ringstats_ts.errors import ConfigError, StorageUnavailable, Unauthorized
from ringstats_ts.identity import read_token
from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database

EXIT_CODES = {
    "ok": 0,
    "missing": FAILED,
    "duplicate": FAILED,
    "refused": REFUSED,
    "unreachable": TRY_LATER,
}

_SHORT = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)")


class Seconds(click.ParamType[float]):
    """A length of time: `30s`, `5m`, or in words."""

    name = "interval"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if match := _SHORT.fullmatch(value.strip()):
            return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
        try:
            return parse_interval(value).total_seconds()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} cannot be used: write it like `30s`, `5m` or `30 seconds`.", param, ctx)


@click.command()
@click.argument("url")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="TSSTATS_TOKEN_FILE",
    show_envvar=True,
    help="File with the token to post with.",
)
@click.option(
    "--host",
    default=HOST,
    show_default=True,
    envvar="TSSTATS_CANARY_HOST",
    show_envvar=True,
    help="Name to report as; each canary needs its own.",
)
@click.option(
    "--every",
    type=Seconds(),
    default="30s",
    show_default=True,
    envvar="TSSTATS_CANARY_EVERY",
    show_envvar=True,
    help="From one round to the next.",
)
@click.option(
    "--wait",
    type=Seconds(),
    default="10s",
    show_default=True,
    envvar="TSSTATS_CANARY_WAIT",
    show_envvar=True,
    help="Longest until a marker can be read, such as from a replica.",
)
@click.option("--once", is_flag=True, envvar="TSSTATS_CANARY_ONCE", show_envvar=True, help="One round only.")
@click.option(
    "--listen",
    type=Address(),
    metavar="HOST:PORT",
    envvar="TSSTATS_CANARY_LISTEN",
    show_envvar=True,
    help="Address for Prometheus to read its metrics from.",
)
@json_option
@database_options
@click.pass_context
def canary(
    ctx: click.Context,
    url: str,
    token_file: Path | None,
    host: str,
    every: float,
    wait: float,
    once: bool,
    listen: str | None,
    as_json: bool,
    database_uri: str | None,
    data_dir: Path | None,
) -> None:
    """Post a marker to URL and see that it is stored, once.

    It goes on until it is stopped. Each round posts a small status document twice with
    one Idempotency-Key, and reads it back from the database as the role tsstats_reader.
    It leaves one row a round.

    With --once the exit code tells: 0 all is well, 1 a marker is missing or stored
    twice, 65 it was refused, 75 the service or the database does not answer.

    \b
    tsstats canary http://127.0.0.1:8000 --once
    tsstats canary https://stats.example.com --token-file canary.token --every 30s --listen 127.0.0.1:9099
    """
    try:
        bird = Canary(url, host, _token(token_file), wait)
    except ConfigError as error:
        # Not 1, which says that something was lost.
        raise click.UsageError(str(error)) from None
    with open_uri(configured(database_uri, data_dir)) as uri, Database(uri) as database:
        with suppress(StorageUnavailable):
            # One that is away is what a round finds.
            schema.check_texts(database)
        if once:
            found = bird.round(database)
            _show(found, as_json)
            ctx.exit(EXIT_CODES[found.outcome])
        _go_on(bird, database, every, listen, as_json)


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    text = file.read_text(encoding="utf-8", errors="replace").strip()
    try:
        read_token(text)
    except Unauthorized:
        raise ConfigError(
            f"{file} holds no token.", "Write into it what `tsstats token create` printed, and nothing else."
        ) from None
    return text


def _go_on(bird: Canary, database: Database, every: float, listen: str | None, as_json: bool) -> None:
    """Round after round until SIGINT or SIGTERM."""
    metrics = _Metrics(listen) if listen else None
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        until = time.monotonic() + every
        found = bird.round(database)
        _show(found, as_json)
        if metrics is not None:
            metrics.count(found)
        stop.wait(max(until - time.monotonic(), 0))


def _show(found: Round, as_json: bool) -> None:
    if as_json:
        click.echo(
            orjson.dumps({"checked_at": datetime.now(UTC), **found.as_dict()}, option=orjson.OPT_UTC_Z)
        )
        return
    line = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {found.outcome}"
    if found.outcome == "ok":
        line += f" posted in {found.post_seconds:.3f} s, read after {found.read_seconds:.3f} s"
    click.echo(f"{line}: {found.detail}" if found.detail else line)


class _Metrics:
    """What Prometheus may read of the rounds."""

    def __init__(self, listen: str) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

        registry = CollectorRegistry()
        self._rounds = Counter(
            "tsstats_canary_rounds", "Rounds, by what they found.", ["outcome"], registry=registry
        )
        self._seconds = Histogram(
            "tsstats_canary_seconds",
            "Time from the post to its answer, and until the marker could be read.",
            ["step"],
            registry=registry,
        )
        self._last = Gauge(
            "tsstats_canary_last_ok_timestamp_seconds",
            "When a round last found all well; 0 before the first.",
            registry=registry,
        )
        for outcome in OUTCOMES:
            self._rounds.labels(outcome)
        host, _, port = listen.rpartition(":")
        try:
            start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise ConfigError(
                f"Nothing can listen on {listen}: {error.strerror}.", "Name another address with --listen."
            ) from None

    def count(self, found: Round) -> None:
        self._rounds.labels(found.outcome).inc()
        if found.outcome == "ok":
            self._seconds.labels("post").observe(found.post_seconds or 0)
            self._seconds.labels("read").observe(found.read_seconds or 0)
            self._last.set_to_current_time()

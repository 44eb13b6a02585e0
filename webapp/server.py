"""What gunicorn calls: before the first fork, when a worker begins, when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gunicorn.http import wsgi

from ringstats_ts.config import Config
from webapp import log
from webapp.late import LateRefresher

CONFIG_FILE = Path(__file__).with_name("gunicorn.conf.py")
"""For `gunicorn --config`."""

_refreshers: list[LateRefresher] = []


def on_starting(_arbiter: Any) -> None:
    """Leave the Server header out: it tells strangers the version and nobody else anything."""
    default_headers = wsgi.Response.default_headers

    def without_server(response: Any) -> list[str]:
        return [line for line in default_headers(response) if not line.startswith("Server:")]

    wsgi.Response.default_headers = without_server


def post_worker_init(_worker: Any) -> None:
    """Begin what belongs to one worker process: its log and its refresher."""
    log.start()
    config = Config.from_env()
    if config.late_refresh and config.database_uri is not None:
        refresher = LateRefresher(config)
        refresher.start()
        _refreshers.append(refresher)


def worker_exit(_arbiter: Any, _worker: Any) -> None:
    """End it."""
    while _refreshers:
        _refreshers.pop().stop()

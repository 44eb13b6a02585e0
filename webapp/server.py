"""What gunicorn calls: before the first fork, when a worker begins, when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gunicorn.http import wsgi

from ringstats_ts.config import Config
from webapp import log
from webapp.upkeep import Upkeep, end_with_owner

CONFIG_FILE = Path(__file__).with_name("gunicorn.conf.py")
"""For `gunicorn --config`."""

_upkeeps: list[Upkeep] = []


def on_starting(_arbiter: Any) -> None:
    """Leave the Server header out: it tells strangers the version and nobody else anything."""
    default_headers = wsgi.Response.default_headers

    def without_server(response: Any) -> list[str]:
        return [line for line in default_headers(response) if not line.startswith("Server:")]

    wsgi.Response.default_headers = without_server


def post_worker_init(_worker: Any) -> None:
    """Begin what belongs to one worker process: its log and its upkeep."""
    log.start()
    end_with_owner()
    config = Config.from_env()
    if config.upkeep and config.database_uri is not None:
        upkeep = Upkeep(config)
        upkeep.start()
        _upkeeps.append(upkeep)


def worker_exit(_arbiter: Any, _worker: Any) -> None:
    """End it."""
    while _upkeeps:
        _upkeeps.pop().stop()

"""What gunicorn calls: before the first fork, when a worker begins, when it ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gunicorn.http import wsgi

from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError
from ringstats_ts.identity import check_open
from webapp import log, multiprocess, notes
from webapp.killed import Judge, start_recording
from webapp.upkeep import Upkeep, end_with_owner

CONFIG_FILE = Path(__file__).with_name("gunicorn.conf.py")
"""For `gunicorn --config`."""

_upkeeps: list[Upkeep] = []
_judge = Judge()


def on_starting(arbiter: Any) -> None:
    """Prepare what the workers share.

    The Server header is left out: it tells strangers the version and nobody else anything.
    """
    multiprocess.begin()
    if multiprocess.parent_directory() != multiprocess.MEMORY:
        arbiter.log.warning(
            "%s has no room: metrics are kept among temporary files, which may be slow.", multiprocess.MEMORY
        )
    notes.begin()
    _judge.watch(arbiter)
    default_headers = wsgi.Response.default_headers

    def without_server(response: Any) -> list[str]:
        return [line for line in default_headers(response) if not line.startswith("Server:")]

    wsgi.Response.default_headers = without_server


def when_ready(arbiter: Any) -> None:
    """Ask nobody in by oversight. Only here all sockets are known, those that were inherited too."""
    config = Config.from_env()
    for listener in arbiter.LISTENERS:
        try:
            check_open(config.auth, listener.sock.getsockname(), config.proxy_hops)
        except ConfigError as error:
            sys.exit(f"Error: {error}")


def post_worker_init(_worker: Any) -> None:
    """Begin what belongs to one worker process: its log and its upkeep."""
    log.start()
    end_with_owner()
    config = Config.from_env()
    start_recording(config)
    if config.upkeep and config.database_uri is not None:
        upkeep = Upkeep(config)
        upkeep.start()
        _upkeeps.append(upkeep)


def worker_exit(_arbiter: Any, _worker: Any) -> None:
    """End it."""
    while _upkeeps:
        _upkeeps.pop().stop()
    log.flush()


def child_exit(arbiter: Any, worker: Any) -> None:
    """In the master: keep what a worker that has ended counted, unless all end, and nobody will ask.

    An error here would end the master.
    """
    if not arbiter.LISTENERS:
        return
    try:
        multiprocess.forget(worker.pid)
        for one in _judge.bury(worker.pid):
            arbiter.log.error("Worker (pid:%s) died of a body, which is refused: %s", worker.pid, one.digest)
    except (OSError, ValueError) as error:
        arbiter.log.error("What worker (pid:%s) left cannot be kept: %s", worker.pid, type(error).__name__)


def on_exit(_arbiter: Any) -> None:
    """In the master: leave nothing behind."""
    multiprocess.end()

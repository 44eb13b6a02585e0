"""`tsstats up`: everything on this machine, in the foreground."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import click

from ringstats_ts import embedded
from ringstats_ts.cli.options import configured, database_options, prepare
from ringstats_ts.cli.serve import gunicorn_command, gunicorn_environment, listen_option
from ringstats_ts.config import OWNER_VARIABLE, Config
from ringstats_ts.errors import RingstatsError, StorageUnavailable
from ringstats_ts.storage import schema, upkeep
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import catch_up

EMBEDDED_LIMITS = (
    "The embedded database is for trying this out, a home lab, development and tests: one machine, "
    "one statement at a time, no background workers. Set DATABASE_URI for a server of your own."
)
STOP_SECONDS = 30
VACUUM_SECONDS = 3600


@click.command()
@listen_option
@database_options
def up(listen: str | None, database_uri: str | None, data_dir: Path | None) -> None:
    """Run the database, apply migrations and serve, in the foreground.

    Without DATABASE_URI it runs the embedded TimescaleDB on --data: it is installed at
    the first start, restarted when it is lost, and stopped cleanly on SIGINT and SIGTERM.

    \b
    tsstats up
    tsstats up --listen 127.0.0.1:9000 --data ~/ringstats
    """
    config = configured(database_uri, data_dir, listen=listen)
    stop = threading.Event()
    with _stopping(stop):
        external = config.database_uri or embedded.running_uri(config.data_dir)
        if external is not None:
            _serve(config, external, stop, own=False)
            return
        database = embedded.EmbeddedDatabase(
            config.data_dir, sync=config.embedded_sync, on_progress=lambda line: click.echo(line, err=True)
        )
        with database:
            _serve(config, database.uri, stop, own=True)


def _serve(config: Config, uri: str, stop: threading.Event, *, own: bool) -> None:
    """Migrate, then run the web service until it is told to stop."""
    with Database(uri) as database:
        for name in prepare(database, uri, config):
            click.echo(f"Applied migration {name}", err=True)
        server = schema.check(database)
        catch_up(database)
    environment = gunicorn_environment(config, uri)
    if own:
        environment["TSSTATS_UPKEEP"] = "off"
    if stop.is_set():
        return
    # The web service ends when this pipe does: also where we are killed.
    held, watched = os.pipe()[::-1]
    environment[OWNER_VARIABLE] = str(watched)
    web = subprocess.Popen(gunicorn_command(), env=environment, pass_fds=(watched,), start_new_session=True)
    try:
        _greet(config, server, own=own)
        _watch(config, uri, web, stop, own=own)
    finally:
        _end(web)
        os.close(held)
        os.close(watched)
    if not stop.is_set():
        raise RingstatsError("The web service ended by itself.", "Its messages above say why.")


def _watch(
    config: Config, uri: str, web: subprocess.Popen[bytes], stop: threading.Event, *, own: bool
) -> None:
    """Wait for the end; meanwhile do for the embedded database what a server does by itself."""
    vacuumed = time.monotonic()
    with Database(uri) as database:
        while not stop.is_set() and web.poll() is None:
            if own:
                with suppress(StorageUnavailable):
                    # Late windows first: retention may drop the rows that they need.
                    upkeep.run_upkeep(database, config)
                    upkeep.run_due_jobs(database)
                    if time.monotonic() - vacuumed > VACUUM_SECONDS:
                        upkeep.vacuum(database)
                        vacuumed = time.monotonic()
            _pause(web, stop)


def _pause(web: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Until the next round of upkeep, or the end of either."""
    until = time.monotonic() + upkeep.IDLE.total_seconds()
    while time.monotonic() < until and web.poll() is None:
        if stop.wait(0.2):
            return


def _end(web: subprocess.Popen[bytes]) -> None:
    """Stop the web service after its requests in flight."""
    if web.poll() is None:
        web.terminate()
        with suppress(subprocess.TimeoutExpired):
            web.wait(STOP_SECONDS)
    if web.poll() is None:
        web.kill()
        web.wait()


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event instead of ending the process.

    The web service runs in a session of its own, so that Ctrl-C reaches it only through
    us: after a second Ctrl-C too, the database is stopped last and cleanly.
    """

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _greet(config: Config, server: schema.Server, *, own: bool) -> None:
    where = f"the embedded database in {config.data_dir}" if own else "the database given"
    click.echo(
        f"""
ringstats-ts listens on http://{config.listen}
Data lies in {where} (TimescaleDB {server.timescaledb}, PostgreSQL {server.postgresql}).
{EMBEDDED_LIMITS + chr(10) if own else ""}
Try, in another terminal:
  tailscale status --json | curl --data-binary @- {config.listen}
  wget -qO- --post-file samples/status.json {config.listen}
  {_own_command()} query "SELECT * FROM tailscale_peers_hourly"
"""
    )


def _own_command() -> str:
    """What to type for `tsstats`: its path where a shell would not find it by name."""
    found = shutil.which("tsstats")
    called = Path(sys.argv[0])
    return "tsstats" if found and called.exists() and called.samefile(found) else sys.argv[0]

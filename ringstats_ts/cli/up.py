"""`tsstats up`: everything on this machine, in the foreground."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

from ringstats_ts import embedded
from ringstats_ts.cli.options import (
    configured,
    database_options,
    listen_option,
    prepare,
    warn_of_open_reader,
)
from ringstats_ts.cli.serve import (
    check_address,
    gunicorn_command,
    gunicorn_environment,
    warn_of_no_tokens,
)
from ringstats_ts.config import OWNER_VARIABLE, Config
from ringstats_ts.errors import EmbeddedDatabaseError, RingstatsError, StorageUnavailable
from ringstats_ts.storage import schema, upkeep
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import catch_up

EMBEDDED_LIMITS = (
    "The embedded database is for trying this out, a home lab, development and tests: one machine, "
    "one statement at a time, no background workers. Set DATABASE_URI for a server of your own."
)
TOKENS_NEEDED = "Posts need a token (`tsstats token create HOST`): curl -H 'Authorization: Bearer TOKEN' ..."
ANSWER_SECONDS = 60
STOP_SECONDS = 30
VACUUM_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Place:
    """The database that is served, and what of it is ours to do.

    `own`: it is the embedded one of this process. `runner`: it is that of another process,
    which has migrated it by its own settings.
    """

    uri: str
    name: str
    own: bool = False
    runner: int | None = None


@click.command()
@listen_option
@database_options
def up(listen: str | None, database_uri: str | None, data_dir: Path | None) -> None:
    """Run the database, migrate it and serve, in the foreground.

    Without DATABASE_URI it runs the embedded TimescaleDB on --data: it is installed at
    the first start, restarted when it is lost, and stopped cleanly on SIGINT and SIGTERM.
    Where another process runs it already, that one is served too, and left as it is.

    \b
    tsstats up
    tsstats up --listen 127.0.0.1:9000 --data ~/ringstats
    """
    config = configured(database_uri, data_dir, listen=listen)
    check_address(config)
    stop = threading.Event()
    with _stopping(stop):
        place = _found(config)
        if place is not None:
            _serve(config, place, stop)
            return
        database = embedded.EmbeddedDatabase(
            config.data_dir, sync=config.embedded_sync, on_progress=lambda line: click.echo(line, err=True)
        )
        name = f"the embedded database in {config.data_dir}"
        try:
            with database:
                _serve(config, Place(database.uri, name, own=True), stop)
        except EmbeddedDatabaseError:
            # Ctrl-C reaches the installation too, and ends it.
            if not stop.is_set():
                raise


def _found(config: Config) -> Place | None:
    """The database that runs already: the one given, or the embedded one of another process."""
    if config.database_uri:
        return Place(config.database_uri, "the database given")
    uri, runner = embedded.running_uri(config.data_dir), embedded.running_pid(config.data_dir)
    if uri is None or runner is None:
        return None
    name = f"the embedded database in {config.data_dir}, run by process {runner}"
    return Place(uri, name, runner=runner)


def _serve(config: Config, place: Place, stop: threading.Event) -> None:
    """Migrate, then run the web service until it is told to stop."""
    with Database(place.uri) as database:
        if place.runner is None:
            for line in prepare(database, place.uri, config, stop.is_set):
                click.echo(line.capitalize(), err=True)
        if stop.is_set():
            return
        server = schema.check(database)
        warn_of_no_tokens(config, database)
        warn_of_open_reader(database)
        if place.runner is None:
            catch_up(database)
    environment = gunicorn_environment(config, place.uri)
    if place.own:
        environment["TSSTATS_UPKEEP"] = "off"
    # The web service ends when this pipe does: also where we are killed.
    held, watched = os.pipe()[::-1]
    environment[OWNER_VARIABLE] = str(watched)
    web = subprocess.Popen(gunicorn_command(), env=environment, pass_fds=(watched,), start_new_session=True)
    try:
        if _comes_up(config.listen, web, stop):
            _greet(config, server, place)
            _watch(config, place, web, stop)
    finally:
        _end(web)
        os.close(held)
        os.close(watched)
    if not stop.is_set():
        raise RingstatsError("The web service ended by itself.", "Its messages above say why.")


def _comes_up(listen: str, web: subprocess.Popen[bytes], stop: threading.Event) -> bool:
    """Wait until the web service answers; False where it ended or is to be stopped before."""
    until = time.monotonic() + ANSWER_SECONDS
    while not _answers(listen):
        if web.poll() is not None or stop.wait(0.1):
            return False
        if time.monotonic() > until:
            raise RingstatsError(
                f"The web service does not answer on {listen} after {ANSWER_SECONDS} s.",
                "Its messages above may say why.",
            )
    return web.poll() is None


def _answers(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    # What listens everywhere is asked here.
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    with closing(http.client.HTTPConnection(host.strip("[]"), int(port), timeout=5)) as connection:
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def _watch(config: Config, place: Place, web: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Wait for the end; meanwhile do for the embedded database what a server does by itself."""
    vacuumed = time.monotonic()
    with Database(place.uri) as database:
        while not stop.is_set() and web.poll() is None:
            if place.own:
                due = time.monotonic() - vacuumed > VACUUM_SECONDS
                vacuumed = time.monotonic() if due else vacuumed
                _keep_up(database, config, vacuum=due)
            _pause(web, stop)


def _keep_up(database: Database, config: Config, *, vacuum: bool) -> None:
    """One round of upkeep. Whatever goes wrong, documents are taken on."""
    try:
        # Late windows first: retention may drop the rows that they need.
        upkeep.run_upkeep(database, config)
        upkeep.run_due_jobs(database)
        if vacuum:
            upkeep.vacuum(database)
    except StorageUnavailable:
        pass  # It is being started again; the next round comes soon.
    except RingstatsError as error:
        click.echo(f"Upkeep failed: {error}", err=True)


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
        if not stop.is_set():
            # Not by a stream: the signal may have come in the middle of its write.
            os.write(sys.stderr.fileno(), b"Stopping ...\n")
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _greet(config: Config, server: schema.Server, place: Place) -> None:
    click.echo(
        f"""
ringstats-ts listens on http://{config.listen}
Data lies in {place.name} (TimescaleDB {server.timescaledb}, PostgreSQL {server.postgresql}).
{EMBEDDED_LIMITS + chr(10) if place.own else ""}
Try, in another terminal:
  tailscale status --json | curl --data-binary @- {config.listen}
  wget -qO- --post-file samples/status.json {config.listen}
  {_own_command()} query "SELECT * FROM tailscale_peers_hourly"
{TOKENS_NEEDED + chr(10) if config.auth else ""}"""
    )


def _own_command() -> str:
    """What to type for `tsstats`: its path where a shell would not find it by name."""
    found = shutil.which("tsstats")
    called = Path(sys.argv[0])
    return "tsstats" if found and called.exists() and called.samefile(found) else sys.argv[0]

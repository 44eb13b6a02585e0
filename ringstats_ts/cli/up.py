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
from datetime import timedelta
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
    gunicorn_directory,
    gunicorn_environment,
    warn_of_no_tokens,
)
from ringstats_ts.config import OWNER_VARIABLE, Config
from ringstats_ts.embedded import EmbeddedDatabase
from ringstats_ts.errors import (
    ConfigError,
    EmbeddedDatabaseError,
    RingstatsError,
    StorageError,
    StorageUnavailable,
)
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
PAUSE_SECONDS = 0.2
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
HEALTHY_SECONDS = 60.0
LOOK = timedelta(seconds=5)


@dataclass(slots=True)
class Place:
    """The database that is served, and what of it is ours to do.

    `embedded` is None where it is a server. `own`: this process runs it. Where another one does, that one has
    migrated it by its own settings, and this one takes over when that one ends.
    """

    uri: str
    name: str
    embedded: EmbeddedDatabase | None = None
    own: bool = False


class _Stopped(Exception):
    """We were told to stop before there was anything to serve."""


@click.command()
@listen_option
@database_options
def up(listen: str | None, database_uri: str | None, data_dir: Path | None) -> None:
    """Run the database, migrate it and serve, in the foreground.

    Without DATABASE_URI it runs the embedded TimescaleDB on --data: it is installed at
    the first start, restarted when it is lost, and stopped cleanly on SIGINT and SIGTERM.
    Where another process runs it already, that one is served too, and taken over when
    that process ends. On the address where another one serves it, it does not start.

    \b
    tsstats up
    tsstats up --listen 127.0.0.1:9000 --data ~/ringstats
    """
    config = configured(database_uri, data_dir, listen=listen)
    _refuse_a_second(config)
    stop = threading.Event()
    with _stopping(stop):
        try:
            _check_address(config, stop)
            place = _given(config, stop) if config.database_uri else _embedded(config, stop)
            try:
                _serve(config, place, stop)
            finally:
                if place.embedded is not None:
                    place.embedded.stop()
        except _Stopped:
            pass
        except EmbeddedDatabaseError:
            # Ctrl-C reaches the installation too, and ends it.
            if not stop.is_set():
                raise


def _refuse_a_second(config: Config) -> None:
    """Say who serves this database on this address already."""
    found = None if config.database_uri else embedded.owner(config.data_dir)
    going = not found or found.doing == embedded.STOPPING or embedded.killed(config.data_dir)
    if found and found.listen == config.listen and not going:
        raise EmbeddedDatabaseError(
            f"{found} {found.doing} in {config.data_dir} already, for http://{found.listen}.",
            "Use that one, or stop it first; or name another address with --listen.",
        )


def _check_address(config: Config, stop: threading.Event) -> None:
    """As `check_address`, but the web service of an `up` that was killed gets time to end."""
    until = time.monotonic() + STOP_SECONDS
    while not stop.is_set():
        try:
            return check_address(config)
        except ConfigError:
            found = None if config.database_uri else embedded.killed(config.data_dir)
            if not found or found.listen != config.listen or time.monotonic() > until:
                raise
        stop.wait(PAUSE_SECONDS)
    raise _Stopped


def _given(config: Config, stop: threading.Event) -> Place:
    assert config.database_uri is not None
    _prepare(config.database_uri, config, stop)
    return Place(config.database_uri, "the database given")


def _embedded(config: Config, stop: threading.Event) -> Place:
    """The embedded database: ours, or that of another process as soon as it can be served."""
    database = EmbeddedDatabase(
        config.data_dir,
        command="tsstats up",
        listen=config.listen,
        prepare=lambda uri: _prepare(uri, config, stop),
        sync=config.embedded_sync,
        on_progress=lambda line: click.echo(line, err=True),
    )
    name = f"the embedded database in {config.data_dir}"
    told = False
    while not stop.is_set():
        try:
            return Place(database.start(), name, database, own=True)
        except embedded.DataDirectoryInUse:
            _refuse_a_second(config)
            found = embedded.running(config.data_dir)
        if found and found.uri and _is_up_to_date(found.uri):
            check_address(config)
            return Place(found.uri, f"{name}, run by process {found.pid}", database)
        if not told:
            click.echo(embedded.waiting_for(config.data_dir), err=True)
            told = True
        stop.wait(PAUSE_SECONDS)
    raise _Stopped


def _prepare(uri: str, config: Config, stop: threading.Event) -> None:
    with Database(uri) as database:
        for line in prepare(database, uri, config, stop.is_set):
            click.echo(line.capitalize(), err=True)
    if stop.is_set():
        raise _Stopped


def _is_up_to_date(uri: str) -> bool:
    """Whether what another process runs can be served now. If not, that process ends soon."""
    try:
        with Database(uri, timeout=LOOK) as database:
            schema.check(database)
    except StorageError:
        return False
    return True


def _serve(config: Config, place: Place, stop: threading.Event) -> None:
    """Run the web service until it is told to stop."""
    with Database(place.uri) as database:
        server = schema.check(database)
        warn_of_no_tokens(config, database)
        warn_of_open_reader(database)
        if place.own or place.embedded is None:
            catch_up(database)
    with WebService(config, place) as web:
        if not web.comes_up(stop):
            if stop.is_set():
                return
            raise RingstatsError("The web service ended by itself.", "Its messages above say why.")
        _greet(config, server, place)
        vacuumed = time.monotonic()
        while not stop.is_set():
            vacuumed = _watch(config, place, web, stop, vacuumed)


class WebService:
    """gunicorn, as a child: ends with the block, after its requests in flight, or when we are killed."""

    def __init__(self, config: Config, place: Place) -> None:
        self._config = config
        self._place = place
        self._backoff = FIRST_BACKOFF_SECONDS
        # It ends when this pipe does.
        self._watched, self._held = os.pipe()
        self._start()

    def __enter__(self) -> WebService:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()
        os.close(self._held)
        os.close(self._watched)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def comes_up(self, stop: threading.Event) -> bool:
        """Wait until it answers; False where it ended or is to be stopped before."""
        listen = self._config.listen
        until = time.monotonic() + ANSWER_SECONDS
        while not _answers(listen):
            if self.ended or stop.wait(0.1):
                return False
            if time.monotonic() > until:
                raise RingstatsError(
                    f"The web service does not answer on {listen} after {ANSWER_SECONDS} s.",
                    "Its messages above may say why.",
                )
        return not self.ended

    def start_again(self, stop: threading.Event) -> None:
        """After a pause that doubles as long as it does not last."""
        if time.monotonic() - self._started > HEALTHY_SECONDS:
            self._backoff = FIRST_BACKOFF_SECONDS
        self._end()
        click.echo("The web service was lost; starting it again ...", err=True)
        if not stop.wait(self._backoff):
            self._backoff = min(2 * self._backoff, LONGEST_BACKOFF_SECONDS)
            self._start()

    def _start(self) -> None:
        environment = gunicorn_environment(self._config, self._place.uri)
        if self._place.embedded is not None:
            environment["TSSTATS_UPKEEP"] = "off"  # It is ours.
        environment[OWNER_VARIABLE] = str(self._watched)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            gunicorn_command(),
            env=environment,
            cwd=gunicorn_directory(),
            pass_fds=(self._watched,),
            start_new_session=True,
        )

    def _end(self) -> None:
        """Stop it after its requests in flight."""
        if not self.ended:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        if not self.ended:
            self._process.kill()
            self._process.wait()


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


def _watch(config: Config, place: Place, web: WebService, stop: threading.Event, vacuumed: float) -> float:
    """One round: what a server does by itself, then a pause. Returns when it was vacuumed last."""
    due = time.monotonic() - vacuumed > VACUUM_SECONDS
    if place.own:
        with Database(place.uri) as database:
            _keep_up(database, config, vacuum=due)
    until = time.monotonic() + upkeep.IDLE.total_seconds()
    while time.monotonic() < until and not stop.wait(PAUSE_SECONDS):
        if place.embedded and place.embedded.failure:
            raise place.embedded.failure
        if web.ended or _takes_over(config, place):
            web.start_again(stop)
    return time.monotonic() if place.own and due else vacuumed


def _takes_over(config: Config, place: Place) -> bool:
    """Run the embedded database where the process that did has ended. Returns whether it is elsewhere now."""
    database = place.embedded
    if database is None or place.own or embedded.is_in_use(config.data_dir):
        return False
    if not embedded.exists(config.data_dir):
        raise EmbeddedDatabaseError(
            f"The database in {config.data_dir} is gone.", "Put it back and start again."
        )
    before = place.uri
    try:
        place.uri = database.start()
    except embedded.DataDirectoryInUse:
        return False
    place.own = True
    click.echo("The process that ran the embedded database has ended; this one runs it now.", err=True)
    return place.uri != before


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

"""Options and types that several verbs share, and the database they work on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from ringstats_ts import embedded
from ringstats_ts.config import Config, parse_listen
from ringstats_ts.errors import PayloadError
from ringstats_ts.storage import boundary, login, policies, schema
from ringstats_ts.storage.database import Database
from ringstats_ts.times import parse_time
from ringstats_ts.words import counted

Command = TypeVar("Command", bound="Callable[..., Any] | click.Command")


class Time(click.ParamType[datetime]):
    """A time: RFC 3339, a date, or Unix seconds. Without a zone it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if value == "now":
            return datetime.now(UTC)
        try:
            return parse_time(value)
        except PayloadError as error:
            self.fail(str(error), param, ctx)


TIME = Time()


class Address(click.ParamType[str]):
    """An address to listen on, as the setting reads it."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_listen(value)
        except ValueError as error:
            self.fail(f"{value!r} cannot be used: {error}.", param, ctx)


def listen_option(command: click.decorators.FC) -> click.decorators.FC:
    """`--listen HOST:PORT`."""
    return click.option(
        "--listen",
        type=Address(),
        metavar="HOST:PORT",
        envvar="TSSTATS_LISTEN",
        show_envvar=True,
        help="Address to listen on.  [default: 127.0.0.1:8000]",
    )(command)


def database_options(command: Command) -> Command:
    """Which database: `--database` and `--data`."""
    for option in (
        click.option(
            "--data",
            "data_dir",
            type=click.Path(file_okay=False, path_type=Path),
            envvar="TSSTATS_DATA",
            show_envvar=True,
            help="Directory of the embedded database.",
        ),
        click.option(
            "--database",
            "database_uri",
            metavar="URI",
            envvar=["DATABASE_URI", "DATABASE_URL"],
            show_envvar=True,
            help="TimescaleDB to use; none for the embedded one.",
        ),
    ):
        command = option(command)
    return command


def json_option(command: Command) -> Command:
    """`--json` where a machine may read."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        envvar="TSSTATS_JSON",
        show_envvar=True,
        help="Print JSON, for machines.",
    )(command)


def progress_line(message: str) -> None:
    """Tell on standard error what takes a while; only where a person may be reading."""
    if sys.stderr.isatty():
        click.echo(message, err=True)


def configured(database_uri: str | None, data_dir: Path | None, **overrides: Any) -> Config:
    """The settings, with the options of the command line above the environment."""
    return Config.from_env(database_uri=database_uri, data_dir=data_dir, **overrides)


@contextmanager
def open_uri(config: Config, *, as_it_is: bool = False) -> Iterator[str]:
    """The address of the database to use: the configured one, else the embedded one.

    The embedded one is used where it runs, else started for the length of the block. One
    that is started here is brought up to date before anybody else may use it: there is
    nobody else who would migrate it. Wanted `as_it_is`, it is left so, and kept from all
    others. One that runs is its owner's to migrate.
    """
    if config.database_uri:
        yield config.database_uri
        return

    def bring_up_to_date(uri: str) -> None:
        with Database(uri) as database:
            _bring_up_to_date(database, uri, config)

    options: dict[str, Any] = {"shared": False} if as_it_is else {"prepare": bring_up_to_date}
    with embedded.open_database(
        config.data_dir,
        command=_command(),
        sync=config.embedded_sync,
        on_progress=progress_line,
        on_wait=lambda line: click.echo(line, err=True),
        **options,
    ) as uri:
        yield uri


def _command() -> str:
    """The verb that runs, however it was called."""
    context = click.get_current_context(silent=True)
    _, _, verb = context.command_path.partition(" ") if context else ("", "", "")
    return f"tsstats {verb}".strip()


@contextmanager
def open_database(config: Config) -> Iterator[Database]:
    """The database to use, checked; without a deadline for what a person waits for."""
    with open_uri(config) as uri, Database(uri) as database:
        schema.check(database)
        yield database


def _bring_up_to_date(database: Database, uri: str, config: Config) -> None:
    """Migrate. Policies are left as the service registered them: this shell may not have its settings."""
    if schema.is_fresh(database):
        prepare(database, uri, config)
    elif schema.pending(database):
        schema.migrate(database, uri)
        boundary.close(database, uri)


def prepare(
    database: Database,
    uri: str,
    config: Config,
    stopped: Callable[[], bool] = lambda: False,
    *,
    harden: bool = False,
) -> list[str]:
    """Apply pending migrations, the boundary, the login that reads, and the policies as configured.

    Returns what was done, a line each.
    """
    schema.check_texts(database)
    fresh = schema.is_fresh(database)
    applied = schema.migrate(database, uri, stopped) if schema.pending(database) else []
    done = [f"applied {name}" for name in applied]
    if stopped():
        return done
    if taken := boundary.close(database, uri, asked=harden):
        done.append(f"took {counted(taken, 'privilege')} from PUBLIC, so that tsstats_reader can only read")
    if login.make(database, config):
        done.append(f"made the login {login.LOGIN}, which `tsstats query` reads as")
    changed = policies.apply(database, config.policies)
    if fresh:
        return [*done, "set all policies as configured"]
    return [*done, *(f"set {policy.kind} of {policy.relation} as configured" for policy in changed)]


def warn_of_open_reader(database: Database) -> None:
    """Say on standard error where a login in tsstats_reader may do more than read."""
    if said := boundary.warning(database):
        click.echo(said, err=True)

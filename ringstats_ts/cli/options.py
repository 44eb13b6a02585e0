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
from ringstats_ts.config import Config
from ringstats_ts.errors import PayloadError
from ringstats_ts.storage import policies, schema
from ringstats_ts.storage.database import Database
from ringstats_ts.times import parse_time

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
def open_uri(config: Config) -> Iterator[str]:
    """The address of the database to use: the configured one, else the embedded one.

    The embedded one is used where it runs, else started for the length of the block,
    and brought up to date: there is nobody else who would migrate it.
    """
    if config.database_uri:
        yield config.database_uri
        return
    with embedded.open_database(config.data_dir, on_progress=progress_line) as uri:
        with Database(uri) as database:
            prepare(database, uri, config)
        yield uri


@contextmanager
def open_database(config: Config, *, bounded: bool = False) -> Iterator[Database]:
    """The database to use, checked. `bounded` sets the deadline of a live document."""
    timeout = config.database_timeout if bounded else None
    with open_uri(config) as uri, Database(uri, timeout) as database:
        schema.check(database)
        yield database


def prepare(database: Database, uri: str, config: Config) -> list[str]:
    """Apply pending migrations and configured policies; the migrations applied."""
    applied = schema.migrate(database, uri) if schema.pending(database) else []
    policies.apply(database, config.policies)
    return applied

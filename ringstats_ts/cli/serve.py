"""`tsstats serve`: the web service alone, under gunicorn."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path

import click

from ringstats_ts import embedded
from ringstats_ts.cli.options import configured, database_options
from ringstats_ts.config import Config
from ringstats_ts.errors import StorageUnavailable
from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database


def listen_option(command: click.decorators.FC) -> click.decorators.FC:
    """`--listen HOST:PORT`."""
    return click.option(
        "--listen",
        metavar="HOST:PORT",
        envvar="TSSTATS_LISTEN",
        show_envvar=True,
        help="Address to listen on.  [default: 127.0.0.1:8000]",
    )(command)


@click.command()
@listen_option
@database_options
def serve(listen: str | None, database_uri: str | None, data_dir: Path | None) -> None:
    """Run the web service on a database that is there already.

    It stays in the foreground and stops on SIGINT and SIGTERM, after the requests in
    flight. A database that is away when it starts is waited for: posts are answered 503.

    \b
    DATABASE_URI=postgresql://tsstats@db/tsstats tsstats serve --listen 127.0.0.1:8000
    """
    config = configured(database_uri, data_dir, listen=listen)
    uri = config.database_uri or embedded.running_uri(config.data_dir)
    if uri is None:
        raise StorageUnavailable(
            "There is no database to serve.", "Set DATABASE_URI, or run `tsstats up` for the embedded one."
        )
    _check(uri)
    os.execve(sys.executable, gunicorn_command(), gunicorn_environment(config, uri))


def _check(uri: str) -> None:
    try:
        with Database(uri) as database:
            schema.check(database)
    except StorageUnavailable as error:
        click.echo(
            f"{error.message} Serving all the same; posts are answered 503 until it is back.", err=True
        )


def gunicorn_command() -> list[str]:
    """The command that runs the web service."""
    settings = files("webapp").joinpath("gunicorn.conf.py")
    return [sys.executable, "-m", "gunicorn", "--config", str(settings), "webapp:create_app()"]


def gunicorn_environment(config: Config, uri: str) -> dict[str, str]:
    """The environment of the web service: the address goes there, where `ps` does not show it."""
    return os.environ | {
        "DATABASE_URI": uri,
        "TSSTATS_LISTEN": config.listen,
        "TSSTATS_DATA": str(config.data_dir),
    }

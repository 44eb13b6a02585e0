"""`tsstats serve`: the web service alone, under gunicorn."""

from __future__ import annotations

import os
import socket
import sys
from importlib.resources import files
from pathlib import Path

import click

from ringstats_ts import embedded
from ringstats_ts.cli.options import configured, database_options, listen_option, warn_of_open_reader
from ringstats_ts.config import Config, absolute_paths
from ringstats_ts.errors import ConfigError, StorageUnavailable
from ringstats_ts.identity import check_open
from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.tokens import list_tokens


@click.command()
@listen_option
@database_options
def serve(listen: str | None, database_uri: str | None, data_dir: Path | None) -> None:
    """Run the web service on a database that is there already.

    It stays in the foreground and stops on SIGINT and SIGTERM, after the requests in
    flight. A database that is away when it starts is waited for: posts are answered 503.
    Under socket activation (systemd) it serves the socket that it is given.

    \b
    DATABASE_URI=postgresql://tsstats@db/tsstats tsstats serve --listen 127.0.0.1:8000
    """
    config = configured(database_uri, data_dir, listen=listen)
    uri = config.database_uri or embedded.running_uri(config.data_dir)
    if uri is None:
        raise StorageUnavailable(
            "There is no database to serve.", "Set DATABASE_URI, or run `tsstats up` for the embedded one."
        )
    if inherits_socket():
        click.echo("Listening on the socket that was handed over; --listen plays no part.", err=True)
    else:
        check_address(config)
    _check(uri, config)
    environment = gunicorn_environment(config, uri)
    os.chdir(gunicorn_directory())
    os.execve(sys.executable, gunicorn_command(), environment)


def _check(uri: str, config: Config) -> None:
    try:
        with Database(uri) as database:
            schema.check(database)
            warn_of_no_tokens(config, database)
            warn_of_open_reader(database)
    except StorageUnavailable as error:
        click.echo(
            f"{error.message} Serving all the same; posts are answered 503 until it is back.", err=True
        )


def inherits_socket() -> bool:
    """Whether systemd listens for us (LISTEN_FDS): the process stays the same, so gunicorn takes it up."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0"


def check_address(config: Config) -> None:
    """Make sure that the address is ours, free, and not everybody's, before anything is started for it."""
    listen = config.listen
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host.strip("[]"), int(port)), family=family) as listener:
            check_open(config.auth, listener.getsockname(), config.proxy_hops)
    except OSError as error:
        # create_server adds the address, which is said already.
        reason = (error.strerror or str(error)).partition(" (while")[0].lower()
        raise ConfigError(
            f"Nothing can listen on {listen}: {reason}.", "Name another address with --listen."
        ) from None


def warn_of_no_tokens(config: Config, database: Database) -> None:
    """Say how to make the first token, where one is needed and there is none."""
    if config.auth and not list_tokens(database):
        click.echo(
            "A token is needed, and there is none yet: `tsstats token create HOST` makes one.", err=True
        )


def gunicorn_command() -> list[str]:
    """The command that runs the web service."""
    settings = files("webapp").joinpath("gunicorn.conf.py")
    return [sys.executable, "-m", "gunicorn", "--config", str(settings), "webapp:create_app()"]


def gunicorn_directory() -> Path:
    """Where the web service is to run: gunicorn imports what it finds there before all else."""
    return Path(str(files("webapp"))).parent


def gunicorn_environment(config: Config, uri: str) -> dict[str, str]:
    """The environment of the web service: the address goes there, where `ps` does not show it."""
    told = {
        "DATABASE_URI": uri,
        "TSSTATS_LISTEN": config.listen,
        "TSSTATS_DATA": str(config.data_dir.absolute()),
    }
    return os.environ | absolute_paths(os.environ) | told

"""`tsstats show`: a document as it was received."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
import orjson

from ringstats_ts.cli.options import TIME, configured, database_options, open_database
from ringstats_ts.errors import NotFound
from ringstats_ts.storage.documents import find_document, hosts_named


@click.command()
@click.argument("host")
@click.option(
    "--time",
    "at",
    type=TIME,
    envvar="TSSTATS_TIME",
    show_envvar=True,
    help="The last document up to this time, instead of the newest.",
)
@database_options
def show(host: str, at: datetime | None, database_uri: str | None, data_dir: Path | None) -> None:
    """Print a host's document as it was received, as JSON.

    Secrets are gone, and times have microseconds; all else is as it was sent.

    \b
    tsstats show gateway
    tsstats show gateway --time 2026-11-21T12:00:00Z
    """
    config = configured(database_uri, data_dir)
    with open_database(config) as database:
        hosts = hosts_named(database, host)
        if not hosts:
            raise NotFound(f"No host {host!r} has reported.", "`tsstats query 'SELECT name FROM hosts'`.")
        if len(hosts) > 1:
            others = ", ".join(found.identity for found in hosts[1:])
            click.echo(f"Several hosts have this name; the latest heard is shown. Others: {others}", err=True)
        found = find_document(database, hosts[0], at)
    click.echo(orjson.dumps(found.document, option=orjson.OPT_INDENT_2))

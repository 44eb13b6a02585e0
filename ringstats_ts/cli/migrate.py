"""`tsstats migrate`: bring the schema up to date."""

from __future__ import annotations

from pathlib import Path

import click

from ringstats_ts.cli.options import configured, database_options, open_uri, prepare
from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database


@click.command()
@database_options
@click.option("--status", "show_status", is_flag=True, help="List the migrations, change nothing.")
@click.option("--rollback", is_flag=True, help="Undo the last migration; its tables' data is gone.")
@click.option("--all", "everything", is_flag=True, help="With --rollback: undo every migration.")
@click.option("--yes", is_flag=True, help="Do not ask before a rollback.")
def migrate(
    database_uri: str | None,
    data_dir: Path | None,
    show_status: bool,
    rollback: bool,
    everything: bool,
    yes: bool,
) -> None:
    """Apply pending migrations, and the policies as configured.

    \b
    tsstats migrate
    tsstats migrate --status
    TSSTATS_RETENTION_TAILSCALE_PEERS="90 days" tsstats migrate
    """
    if everything and not rollback:
        raise click.UsageError("--all goes with --rollback.")
    config = configured(database_uri, data_dir)
    with open_uri(config) as uri, Database(uri) as database:
        if show_status:
            _show(database)
        elif rollback:
            if not yes:
                click.confirm("This drops tables and the data in them. Go on?", abort=True)
            _tell("rolled back", schema.roll_back(database, uri, everything=everything))
        else:
            _tell("applied", prepare(database, uri, config))


def _show(database: Database) -> None:
    for name, applied in schema.status(database):
        click.echo(f"{'applied' if applied else 'pending':8} {name}")


def _tell(what: str, names: list[str]) -> None:
    for name in names:
        click.echo(f"{what} {name}")
    if not names:
        click.echo("Nothing to do: the schema is up to date." if what == "applied" else "Nothing to undo.")

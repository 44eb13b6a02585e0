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
    if show_status and rollback:
        raise click.UsageError("--status and --rollback exclude each other.")
    config = configured(database_uri, data_dir)
    with open_uri(config, as_it_is=True) as uri, Database(uri) as database:
        if show_status:
            _show(database)
        elif rollback:
            if not yes:
                click.confirm("This drops tables and the data in them. Go on?", abort=True)
            undone = schema.roll_back(database, uri, everything=everything)
            _tell([f"rolled back {name}" for name in undone] or ["Nothing to undo."])
        else:
            up_to_date = "Nothing to do: the schema and the policies are up to date."
            _tell(prepare(database, uri, config) or [up_to_date])


def _show(database: Database) -> None:
    for name, applied in schema.status(database):
        click.echo(f"{'applied' if applied else 'pending':8} {name}")


def _tell(lines: list[str]) -> None:
    click.echo("\n".join(lines))

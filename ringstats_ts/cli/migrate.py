"""`tsstats migrate`: bring the schema up to date."""

from __future__ import annotations

from pathlib import Path

import click

from ringstats_ts.cli.options import configured, database_options, open_uri, prepare, warn_of_open_reader
from ringstats_ts.storage import boundary, login, schema
from ringstats_ts.storage.database import Database


@click.command()
@database_options
@click.option("--status", "show_status", is_flag=True, help="List the migrations, change nothing.")
@click.option("--rollback", is_flag=True, help="Undo the last migration; its tables' data is gone.")
@click.option("--all", "everything", is_flag=True, help="With --rollback: undo every migration.")
@click.option(
    "--accept",
    is_flag=True,
    help="Take applied migrations for those of this version, though their text was another.",
)
@click.option("--yes", is_flag=True, help="Do not ask before a rollback.")
@click.option(
    "--harden", is_flag=True, help="Take from PUBLIC what is not reading, also where others use the database."
)
@click.option(
    "--print", "only_print", is_flag=True, help="With --harden: print the statements, change nothing."
)
def migrate(
    database_uri: str | None,
    data_dir: Path | None,
    show_status: bool,
    rollback: bool,
    everything: bool,
    accept: bool,
    yes: bool,
    harden: bool,
    only_print: bool,
) -> None:
    """Apply pending migrations, and the policies as configured.

    In a database that nothing else uses, PUBLIC loses what is not reading, so that a login
    in tsstats_reader can only read. In another one that happens with --harden. What only a
    superuser may take away, `--harden --print` prints.

    Where it may create roles, it makes the login tsstats_login, which `tsstats query` reads as,
    and keeps its password in the directory of TSSTATS_DATA.

    \b
    tsstats migrate
    tsstats migrate --harden --print | psql --username postgres tsstats
    tsstats migrate --status
    TSSTATS_RETENTION_TAILSCALE_PEERS="90 days" tsstats migrate
    """
    if everything and not rollback:
        raise click.UsageError("--all goes with --rollback.")
    if show_status + rollback + harden + accept > 1:
        raise click.UsageError("--status, --rollback, --accept and --harden exclude each other.")
    if only_print and not harden:
        raise click.UsageError("--print goes with --harden.")
    config = configured(database_uri, data_dir)
    with open_uri(config, as_it_is=True) as uri, Database(uri) as database:
        if show_status:
            _show(database)
        elif rollback:
            if not yes:
                click.confirm("This drops tables and the data in them. Go on?", abort=True)
            undone = schema.roll_back(database, uri, everything=everything)
            _tell([f"rolled back {name}" for name in undone] or ["Nothing to undo."])
        elif only_print:
            _print_boundary(database)
        else:
            if accept:
                schema.accept(database, uri)
            up_to_date = "Nothing to do: the schema and the policies are up to date."
            _tell(prepare(database, uri, config, harden=harden) or [up_to_date])
            warn_of_open_reader(database)
            if said := login.elsewhere(database, config):
                click.echo(said, err=True)


def _show(database: Database) -> None:
    for name, state in schema.status(database):
        click.echo(f"{state:8} {name}")


def _print_boundary(database: Database) -> None:
    for statement in boundary.statements(database, boundary.open_privileges(database)):
        click.echo(f"{statement};")


def _tell(lines: list[str]) -> None:
    click.echo("\n".join(lines))

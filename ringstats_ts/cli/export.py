"""`tsstats export`: what is stored, as Parquet by day."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ringstats_ts.cli.options import TIME, configured, database_options, json_option, open_database
from ringstats_ts.sources import SOURCES, by_name
from ringstats_ts.words import counted

if TYPE_CHECKING:
    from ringstats_ts.export import ExportSummary


@click.command()
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    envvar="TSSTATS_EXPORT_OUT",
    show_envvar=True,
    help="Directory for the files; made where it is missing.",
)
@click.option(
    "--source",
    type=click.Choice([source.name for source in SOURCES]),
    default="tailscale",
    show_default=True,
    envvar="TSSTATS_EXPORT_SOURCE",
    show_envvar=True,
    help="Payload format to export.",
)
@click.option(
    "--since",
    type=TIME,
    envvar="TSSTATS_EXPORT_SINCE",
    show_envvar=True,
    help="First time to export.  [default: the oldest]",
)
@click.option(
    "--until",
    type=TIME,
    envvar="TSSTATS_EXPORT_UNTIL",
    show_envvar=True,
    help="Time to stop before.  [default: after the newest]",
)
@click.option(
    "--layout",
    type=click.Choice(["rows", "wide"]),
    default="rows",
    show_default=True,
    envvar="TSSTATS_EXPORT_LAYOUT",
    show_envvar=True,
    help="rows: a folder of files for each table. wide: a row for each document, as tailscale-stats has it.",
)
@click.option(
    "--host",
    envvar="TSSTATS_EXPORT_HOST",
    show_envvar=True,
    help="Name of the only host to export.",
)
@json_option
@database_options
def export(
    *,
    out: Path,
    source: str,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
    database_uri: str | None,
    data_dir: Path | None,
    **selection: Any,
) -> None:
    """Write what is stored to Parquet files, one for each UTC day.

    A file holds the part of its day that was asked for, and replaces the file that was
    there: export other ranges or hosts of the same days to another directory.

    \b
    tsstats export --out parquet
    tsstats export --out parquet --since 2026-11-01 --until 2026-12-01
    tsstats export --out stats --layout wide --host gateway
    """
    if since and until and since >= until:
        raise click.BadParameter("it must be before --until.", param_hint="--since")
    from ringstats_ts.export import export as write

    with open_database(configured(database_uri, data_dir)) as database, _progress() as progress:
        summary = write(
            by_name(source), database, out, since=since, until=until, progress=progress, **selection
        )
    click.echo(
        orjson.dumps(summary.as_dict(), option=orjson.OPT_INDENT_2) if as_json else _told(summary, out)
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """A line on standard error that follows the export, where that is a terminal."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} rows")
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("Exporting", total=None)
        yield lambda label, rows: bar.update(task, description=label, advance=rows)


def _told(summary: ExportSummary, out: Path) -> str:
    if not summary.files:
        return "Nothing is stored for that; no file was written."
    rows, files = counted(summary.rows, "row"), counted(len(summary.files), "file")
    return f"{rows} in {files} ({summary.bytes / 1e6:,.1f} MB) under {out}"

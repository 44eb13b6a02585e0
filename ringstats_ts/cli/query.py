"""`tsstats query`: SQL, read-only, as the reader role."""

from __future__ import annotations

import csv
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from ringstats_ts.cli.options import configured, database_options, json_option, open_database
from ringstats_ts.storage.database import Answer


@click.command()
@click.argument("sql")
@click.option("--csv", "as_csv", is_flag=True, envvar="TSSTATS_CSV", show_envvar=True, help="Print CSV.")
@json_option
@database_options
def query(sql: str, as_csv: bool, as_json: bool, database_uri: str | None, data_dir: Path | None) -> None:
    """Run SQL that reads, as the role tsstats_reader. `-` reads it from standard input.

    \b
    tsstats query "SELECT * FROM tailscale_peers_hourly"
    tsstats query "SELECT * FROM tailscale_traffic(now() - INTERVAL '1 day', now())" --csv
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    text = sys.stdin.read() if sql == "-" else sql
    with open_database(configured(database_uri, data_dir)) as database:
        answer = database.read(text)
    if as_json:
        _print_json(answer)
    elif as_csv:
        _print_csv(answer)
    else:
        _print_table(answer)


def _print_json(answer: Answer) -> None:
    records = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z
    click.echo(orjson.dumps(records, default=_plain, option=options))


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows([_csv(value) for value in row] for row in answer.rows)


def _print_table(answer: Answer) -> None:
    """A table as wide as it needs to be where nobody's terminal limits it."""
    table = Table(*answer.columns, box=None, pad_edge=False)
    for row in answer.rows:
        table.add_row(*map(_shown, row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(80, console.measure(table).maximum if answer.rows else 80, _width(answer))
    console.print(table)
    console.print(f"({len(answer.rows)} row{'' if len(answer.rows) == 1 else 's'})")


def _width(answer: Answer) -> int:
    rows = [answer.columns, *([_shown(value) for value in row] for row in answer.rows)]
    return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) if answer.columns else 80


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)


def _csv(value: Any) -> Any:
    if isinstance(value, list | dict):
        return orjson.dumps(value, default=_plain).decode()
    return "" if value is None else _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ").replace("+00:00", "Z")
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)

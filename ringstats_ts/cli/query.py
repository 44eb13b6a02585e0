"""`tsstats query`: SQL, read-only, as the reader role."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import orjson
from rich.cells import cell_len

from ringstats_ts.cli.errors import CONTROL
from ringstats_ts.cli.options import configured, database_options, json_option, open_database, open_uri
from ringstats_ts.config import Config
from ringstats_ts.errors import RingstatsError
from ringstats_ts.storage import login, schema
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.reading import Answer
from ringstats_ts.words import counted


@click.command()
@click.argument("sql")
@click.option("--csv", "as_csv", is_flag=True, envvar="TSSTATS_CSV", show_envvar=True, help="Print CSV.")
@json_option
@database_options
def query(sql: str, as_csv: bool, as_json: bool, database_uri: str | None, data_dir: Path | None) -> None:
    """Run SQL that reads, as the role tsstats_reader.

    One SELECT, VALUES, TABLE or WITH: it can do nothing but read, and not read tokens or refused bodies.
    EXPLAIN and SHOW are refused.
    With DATABASE_READ_URI it is run by that login, which needs no DATABASE_URI; else by the login
    that `tsstats migrate` made, where its password is kept here; else by a function of the database.
    `-` reads it from standard input. A table that is wider than the terminal is shown row
    by row, a line for each column.

    \b
    tsstats query "SELECT * FROM tailscale_peers_hourly"
    tsstats query "SELECT * FROM tailscale_traffic(now() - INTERVAL '1 day', now())" --csv
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    text = sys.stdin.read() if sql == "-" else sql
    answer = _read(configured(database_uri, data_dir), text)
    if as_json:
        _print_json(answer)
    elif as_csv:
        _print_csv(answer)
    else:
        _print_table(answer)


def _read(config: Config, text: str) -> Answer:
    if config.database_read_uri is None:
        return _read_as_kept(config, text)
    if config.database_uri is not None:
        # The login cannot see whether the schema is this version's.
        with open_database(config):
            pass
    with Database(config.database_read_uri) as reader:
        return reader.read(text, login=True)


def _read_as_kept(config: Config, text: str) -> Answer:
    """As the login whose password is kept here, where that can be used; else by the function."""
    with open_uri(config) as uri, Database(uri) as database:
        schema.check(database)
        try:
            reader = login.connect(database, uri, config)
        except RingstatsError:
            return database.read(text)
        with reader:
            return reader.read(text, login=True)


def _print_json(answer: Answer) -> None:
    records = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z
    click.echo(orjson.dumps(records, default=_plain, option=options))


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    # A file gets the text as it is; a terminal would obey it.
    written = _line if sys.stdout.isatty() else str
    writer.writerow(map(written, answer.columns))
    writer.writerows([written(_shown(value)) for value in row] for row in answer.rows)


def _print_table(answer: Answer) -> None:
    """A table, or a block for each row where a terminal is too narrow for it."""
    rows = [[_line(_shown(value)) for value in row] for row in answer.rows]
    table = list(_table([answer.columns, *rows]))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    narrow = columns is not None and any(cell_len(line) > columns for line in table)
    for line in _blocks(answer.columns, rows) if narrow else table:
        click.echo(line)
    click.echo(f"({counted(len(rows), 'row')})")


def _table(lines: list[list[str]]) -> Iterator[str]:
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(map(_padded, line, widths)).rstrip()


def _blocks(columns: list[str], rows: list[list[str]]) -> Iterator[str]:
    width = max(map(cell_len, columns))
    for number, row in enumerate(rows, 1):
        yield f"row {number}"
        for name, value in zip(columns, row, strict=True):
            yield f"  {_padded(name, width)}  {value}".rstrip()


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _line(text: str) -> str:
    """The text in one line, without what a terminal would obey: it came from other hosts."""
    return text.translate(CONTROL)


LARGEST_INTEGER = 2**63
"""Larger ones are written as strings: few readers of JSON keep them exact."""


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        if value != value.to_integral_value():
            return float(value)
        return int(value) if abs(value) < LARGEST_INTEGER else str(value)
    if isinstance(value, timedelta):
        return _interval(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ").replace("+00:00", "Z")
    if isinstance(value, bool | list | dict):
        return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z).decode()
    if isinstance(value, timedelta | bytes | memoryview):
        return str(_plain(value))
    return str(value)


def _interval(value: timedelta) -> str:
    """An interval as PostgreSQL writes it: `90 days`, `01:00:00`, `-1 days -02:00:00`."""
    sign = "-" if value < timedelta(0) else ""
    days, rest = divmod(abs(value), timedelta(days=1))
    parts = [f"{sign}{days} {'day' if days == 1 and not sign else 'days'}"] if days else []
    if rest or not days:
        hours, after_hour = divmod(rest, timedelta(hours=1))
        parts.append(f"{sign}{hours:02}:{str(after_hour).partition(':')[2]}")
    return " ".join(parts)

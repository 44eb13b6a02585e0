"""`tsstats doctor`: whether all is well."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import orjson

from ringstats_ts import embedded
from ringstats_ts.cli.errors import CONTROL, FAILED
from ringstats_ts.cli.options import configured, database_options, json_option, open_uri
from ringstats_ts.config import SHARED_NEEDED, Config
from ringstats_ts.errors import RingstatsError
from ringstats_ts.storage import login
from ringstats_ts.storage.clientkey import check_kept_key
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.health import Finding, examine
from ringstats_ts.storage.overview import check_writable

FREE_NEEDED = 1_000_000_000
"""Free space [bytes] below which the embedded database is about to stop taking writes."""


MEMORY = Path("/dev/shm")


BLOCK_BYTES = 512


@click.command()
@json_option
@database_options
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, database_uri: str | None, data_dir: Path | None) -> None:
    """Check database, migrations, jobs, clock and disk.

    Each is one line. Nothing is changed: a document that is written on trial is rolled back. Exit
    code 1 says that something is bad.

    \b
    tsstats doctor
    tsstats doctor --json
    """
    findings = list(_findings(configured(database_uri, data_dir)))
    if as_json:
        listed = [{"subject": f.subject, "ok": f.ok, "detail": f.detail} for f in findings]
        click.echo(orjson.dumps(listed, option=orjson.OPT_INDENT_2))
    else:
        for finding in findings:
            mark = click.style("ok ", fg="green") if finding.ok else click.style("BAD", fg="red", bold=True)
            click.echo(f"{mark} {finding.subject:12} {finding.detail.translate(CONTROL)}")
    if not all(finding.ok for finding in findings):
        ctx.exit(FAILED)


def _findings(config: Config) -> Iterator[Finding]:
    if MEMORY.is_dir():
        yield _memory()
    if config.database_uri is None:
        yield _disk(config.data_dir)
        if not embedded.exists(config.data_dir):
            yield Finding("database", False, f"no database yet in {config.data_dir}. `tsstats up` makes it.")
            return
        yield Finding("directory", True, f"{_size(config.data_dir) / 1e6:,.0f} MB, temporary files included")
    try:
        with open_uri(config, as_it_is=True) as uri, Database(uri) as database:
            for finding in examine(database, config.policies):
                yield finding
                if finding.subject == "migrations" and finding.ok:
                    yield _posts(database, config)
                    yield _query(database, uri, config)
    except RingstatsError as error:
        yield Finding("database", False, str(error))


def _posts(database: Database, config: Config) -> Finding:
    """Take the way of a document, as `/readyz` does."""
    try:
        check_writable(database)
        check_kept_key(database, config)
    except RingstatsError as error:
        return Finding("posts", False, str(error))
    return Finding("posts", True, "a document can be written and read; the trial was rolled back")


def _query(database: Database, uri: str, config: Config) -> Finding:
    """Which way the SQL of `tsstats query` goes."""
    if config.database_read_uri is not None:
        try:
            with Database(config.database_read_uri) as reader:
                login.check(reader)
        except RingstatsError as error:
            return Finding("query", False, f"DATABASE_READ_URI cannot be used: {error}")
        return Finding("query", True, "reads as the login of DATABASE_READ_URI")
    try:
        login.connect(database, uri, config).close()
    except RingstatsError as error:
        return Finding("query", True, f"reads by the function tsstats_query: {error}")
    return Finding("query", True, f"reads as the login {login.LOGIN}")


def _memory() -> Finding:
    """The service is slower without, and does not show all of its metrics where it became full later."""
    free = shutil.disk_usage(MEMORY).free
    detail = f"{free / 1e6:,.0f} MB free in {MEMORY}"
    if free < SHARED_NEEDED:
        return Finding("memory", False, f"{detail}, {SHARED_NEEDED / 1e6:,.0f} are wanted. Free some.")
    return Finding("memory", True, detail)


def _size(data_dir: Path) -> int:
    """What the files of a directory take. Others may be removing them."""
    total = 0
    for path in data_dir.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_blocks * BLOCK_BYTES
    return total


def _disk(data_dir: Path) -> Finding:
    absolute = data_dir.absolute()
    place = next(path for path in (absolute, *absolute.parents) if os.path.exists(path))  # noqa: PTH110 - Path.exists raises
    usage = shutil.disk_usage(place)
    # /proc and its like have no size, and let root write, they say.
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK) or not usage.total:
        what = "written to" if place == absolute else "created"
        return Finding("disk", False, f"{data_dir} cannot be {what}. Name another directory with --data.")
    detail = f"{usage.free / 1e9:,.1f} GB free for {data_dir}"
    if usage.free < FREE_NEEDED:
        return Finding("disk", False, f"{detail}. Free some space.")
    return Finding("disk", True, detail)

"""`tsstats doctor`: whether all is well."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import orjson

from ringstats_ts.cli.errors import FAILED
from ringstats_ts.cli.options import configured, database_options, json_option, open_uri
from ringstats_ts.config import Config
from ringstats_ts.errors import RingstatsError
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.health import Finding, examine

FREE_NEEDED = 1_000_000_000
"""Free space [bytes] below which the embedded database is about to stop taking writes."""


@click.command()
@json_option
@database_options
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, database_uri: str | None, data_dir: Path | None) -> None:
    """Check database, edition, migrations, jobs, clock and disk: one line each.

    Exit code 1 says that something is bad.

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
            click.echo(f"{mark} {finding.subject:12} {finding.detail}")
    if not all(finding.ok for finding in findings):
        ctx.exit(FAILED)


def _findings(config: Config) -> Iterator[Finding]:
    if config.database_uri is None:
        yield _disk(config.data_dir)
    try:
        with open_uri(config) as uri, Database(uri) as database:
            yield from examine(database, config.policies)
    except RingstatsError as error:
        yield Finding("database", False, str(error))


def _disk(data_dir: Path) -> Finding:
    place = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:,.1f} GB free for {data_dir}"
    return Finding(
        "disk", free > FREE_NEEDED, detail if free > FREE_NEEDED else f"{detail}. Free some space."
    )

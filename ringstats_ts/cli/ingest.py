"""`tsstats ingest`: saved files, the same way in as a post."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.progress import Progress

from ringstats_ts.cli.ahead import Group, parsed_groups
from ringstats_ts.cli.errors import REFUSED, complain, printable
from ringstats_ts.cli.files import STANDARD_INPUT, find_files, grouped
from ringstats_ts.cli.longlogs import is_long_log, parts
from ringstats_ts.cli.options import (
    TIME,
    configured,
    database_options,
    json_option,
    open_database,
    progress_line,
)
from ringstats_ts.config import Config
from ringstats_ts.errors import (
    ConflictingPayload,
    PayloadError,
    PayloadTooLarge,
    StorageError,
    TimestampOutOfRange,
)
from ringstats_ts.ingest import Parsed, ingest_parsed
from ringstats_ts.model import Payload, Receipt
from ringstats_ts.sources import SOURCES
from ringstats_ts.storage.clock import check_clock
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import refresh_since
from ringstats_ts.storage.window import LONGER
from ringstats_ts.words import counted

CORRECTION = "If this one is right, take it with --replace."
AGAIN = "What was stored before stays: ingest the same files again, and each is stored once."
SAME_MTIME = (
    " If only the files' modification times are the same, tell them apart with --time or a `_timestamp` key."
)


@dataclass(slots=True)
class Summary:
    """What became of the files."""

    files: int = 0
    documents: int = 0
    stored: int = 0
    duplicates: int = 0
    rows: int = 0
    bad_lines: int = 0
    refused: list[dict[str, str | int | None]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)

    def count(self, path: str, receipts: Sequence[Receipt]) -> None:
        self.files += 1
        self.documents += len(receipts)
        self.duplicates += sum(receipt.duplicate for receipt in receipts)
        self.stored = self.documents - self.duplicates
        self.rows += sum(receipt.rows for receipt in receipts if not receipt.duplicate)
        self.bad_lines += sum(receipt.bad_lines for receipt in receipts)
        said = Counter(warning for receipt in receipts for warning in receipt.warnings)
        self.warnings += [
            {"path": path, "warning": warning if times == 1 else f"{warning} ({times:,} times)"}
            for warning, times in sorted(said.items())
        ]

    def refuse(self, path: str, error: PayloadError, *, by_mtime: bool) -> None:
        """Note the refusal. `by_mtime`: a document without a time has the file's mtime."""
        self.files += 1
        if isinstance(error, ConflictingPayload):
            error.hint = CORRECTION + (SAME_MTIME if by_mtime else "")
        self.refused.append({"path": path, "reason": error.code, "detail": str(error), "line": error.line})


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--source",
    type=click.Choice([source.name for source in SOURCES]),
    envvar="TSSTATS_SOURCE",
    show_envvar=True,
    help="Payload format; otherwise it is detected.",
)
@click.option("--host", envvar="TSSTATS_HOST", show_envvar=True, help="Host that the documents are from.")
@click.option(
    "--time",
    "at",
    type=TIME,
    envvar="TSSTATS_TIME",
    show_envvar=True,
    help="Time of the observation; otherwise the document's own, else the file's mtime.",
)
@click.option(
    "--replace",
    "replace_rows",
    is_flag=True,
    envvar="TSSTATS_REPLACE",
    show_envvar=True,
    help="Put the documents in the place of those stored for the same host and time.",
)
@json_option
@database_options
@click.pass_context
def ingest(
    ctx: click.Context,
    paths: tuple[str, ...],
    source: str | None,
    host: str | None,
    at: datetime | None,
    replace_rows: bool,
    as_json: bool,
    database_uri: str | None,
    data_dir: Path | None,
) -> None:
    """Store saved files: documents, NDJSON, arrays, logs, also gzipped.

    PATH is a file, a folder (its .json, .jsonl, .ndjson, .log and .txt files, also .gz),
    a pattern, or - for standard input. Each file is stored whole or not at all, but for the
    lines of a log that cannot be read, and logs that are too large to be taken at once. The same
    file again stores nothing twice. Exit code 65 says that some were refused.

    \b
    tsstats ingest status.json
    tsstats ingest archive/ --host gateway
    tsstats ingest /var/log/nginx/access.log* --host web-1
    tailscale status --json | tsstats ingest -
    """
    config = configured(database_uri, data_dir)
    files = list(find_files(paths))
    template = Payload(b"", datetime.now(UTC), source, host, at, replace=replace_rows, backfill=True)
    summary = Summary()
    new: list[Receipt] = []
    try:
        with (
            open_database(config) as database,
            closing(parsed_groups(list(grouped(files)), template, config)) as groups,
        ):
            check_clock(database, config.future)
            with _progress(as_json) as progress:
                bar = progress.add_task("Storing", total=len(files))
                for group in groups:
                    new += _store(group, template, summary, database, config)
                    progress.advance(bar, len(group.paths))
            _refresh(database, new)
    except StorageError as error:
        if summary.stored:
            error.hint = AGAIN
        raise
    finally:
        if summary.files:
            _report(summary, as_json=as_json)
    if summary.refused:
        ctx.exit(REFUSED)


def _store(
    group: Group, template: Payload, summary: Summary, database: Database, config: Config
) -> list[Receipt]:
    """Store the files of a group; the receipts of what is new."""
    whole = [one for one in group.parsed if isinstance(one, Parsed)]
    stored = iter(ingest_parsed(whole, database, config))
    new: list[Receipt] = []
    for path, one in zip(group.paths, group.parsed, strict=True):
        if isinstance(one, PayloadTooLarge) and path != STANDARD_INPUT and is_long_log(path):
            new += _store_parts(path, template, summary, database, config)
            continue
        outcome = next(stored) if isinstance(one, Parsed) else one
        if isinstance(outcome, PayloadError):
            by_mtime = isinstance(one, Parsed) and one.payload.time is None and path != STANDARD_INPUT
            summary.refuse(path, outcome, by_mtime=by_mtime)
        else:
            summary.count(path, outcome)
            new += [receipt for receipt in outcome if not receipt.duplicate]
    return new


def _store_parts(
    path: str, template: Payload, summary: Summary, database: Database, config: Config
) -> list[Receipt]:
    """Store a long log part by part; what is stored stays where a later part is refused."""
    receipts: list[Receipt] = []
    try:
        for part in parts(path, template, config):
            (outcome,) = ingest_parsed([part], database, config)
            if isinstance(outcome, PayloadError):
                raise outcome
            receipts += outcome
        _check_left_out(receipts)
    except PayloadError as error:
        if receipts:
            rows = sum(receipt.rows for receipt in receipts)
            error.message += f" {counted(rows, 'row')} of what stands before it are stored."
        summary.refuse(path, error, by_mtime=False)
    except StorageError:
        if receipts:
            summary.count(path, receipts)
        raise
    else:
        summary.count(path, receipts)
    return [receipt for receipt in receipts if not receipt.duplicate]


def _check_left_out(receipts: Sequence[Receipt]) -> None:
    """Refuse a log of which nothing is kept, as one is refused that is stored at once."""
    if any(receipt.left_out for receipt in receipts) and not any(receipt.rows for receipt in receipts):
        raise TimestampOutOfRange("All of the log is older than what is kept.", LONGER)


def _progress(as_json: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=as_json or not console.is_terminal)


def _refresh(database: Database, new: Sequence[Receipt]) -> None:
    """Bring the continuous aggregates up to date with what was just stored.

    What cannot be refreshed now, because a policy is at it, is noted and follows.
    """
    progress_line("Refreshing the aggregates ...")
    try:
        refresh_since(database, new)
    except StorageError as error:
        click.echo(f"Warning: all is stored, but the aggregates follow later: {error.message}", err=True)


def _report(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(asdict(summary), option=orjson.OPT_INDENT_2))
        return
    for refusal in summary.refused:
        complain(f"{refusal['path']}: {refusal['detail']}")
    for warning in summary.warnings:
        click.echo(printable(f"Warning: {warning['path']}: {warning['warning']}"), err=True)
    click.echo(
        f"{counted(summary.files, 'file')}: {counted(summary.stored, 'document')} stored "
        f"({counted(summary.rows, 'row')}), {summary.duplicates:,} there already, "
        f"{counted(len(summary.refused), 'file')} refused."
    )

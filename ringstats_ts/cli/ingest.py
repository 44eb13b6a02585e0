"""`tsstats ingest`: saved files, the same way in as a post."""

from __future__ import annotations

import glob
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.progress import Progress

from ringstats_ts.cli.errors import REFUSED, complain
from ringstats_ts.cli.options import (
    TIME,
    configured,
    database_options,
    json_option,
    open_database,
    progress_line,
)
from ringstats_ts.config import Config
from ringstats_ts.decode import GZIP_MAGIC, inflate
from ringstats_ts.errors import BadParameter, ConflictingPayload, PayloadError, PayloadTooLarge, StorageError
from ringstats_ts.ingest import ingest as store_payload
from ringstats_ts.model import Payload, Receipt
from ringstats_ts.sources import SOURCES
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import refresh_since
from ringstats_ts.words import counted

CHUNK = 64 * 1024

SUFFIXES = (".json", ".jsonl", ".ndjson", ".log", ".txt")
"""Files that are taken from a folder, also with .gz behind."""


CORRECTION = "If this one is right, take it with --replace."
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
    refused: list[dict[str, str | int | None]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)

    def count(self, path: str, receipts: Sequence[Receipt]) -> None:
        self.documents += len(receipts)
        self.duplicates += sum(receipt.duplicate for receipt in receipts)
        self.stored = self.documents - self.duplicates
        self.rows += sum(receipt.rows for receipt in receipts if not receipt.duplicate)
        self.warnings += [
            {"path": path, "warning": w} for w in sorted({w for r in receipts for w in r.warnings})
        ]

    def refuse(self, path: str, error: PayloadError, *, by_mtime: bool) -> None:
        """Note the refusal. `by_mtime`: a document without a time has the file's mtime."""
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
    """Store saved files: documents, NDJSON, arrays, also gzipped.

    PATH is a file, a folder (its .json, .jsonl, .ndjson, .log and .txt files, also .gz),
    a pattern, or - for standard input. Each file is stored whole or not at all; the same
    file again stores nothing twice. Exit code 65 says that some were refused.

    \b
    tsstats ingest status.json
    tsstats ingest archive/ --host gateway
    tailscale status --json | tsstats ingest -
    """
    config = configured(database_uri, data_dir)
    files = list(_files(paths))
    summary = Summary()
    taken: list[tuple[str, datetime]] = []
    try:
        with open_database(config) as database, _progress(as_json) as progress:
            for path in progress.track(files, description="Storing"):
                template = Payload(b"", datetime.now(UTC), source, host, at, replace=replace_rows)
                taken += _ingest_one(path, template, summary, database, config)
            _refresh(database, taken)
    finally:
        if summary.files:
            _report(summary, as_json=as_json)
    if summary.refused:
        ctx.exit(REFUSED)


def _ingest_one(
    path: str, template: Payload, summary: Summary, database: Database, config: Config
) -> list[tuple[str, datetime]]:
    """Store one file; source and time of each sample that is new."""
    summary.files += 1
    try:
        receipts = store_payload(_payload(path, template, config), database, config)
    except PayloadError as error:
        summary.refuse(path, error, by_mtime=template.time is None and path != "-")
        return []
    summary.count(path, receipts)
    return [(receipt.source, receipt.time) for receipt in receipts if not receipt.duplicate]


def _payload(path: str, template: Payload, config: Config) -> Payload:
    body, file_time = _read(path, config.max_document_bytes)
    sender = socket.gethostname() if path == "-" else Path(path).name.split(".json")[0]
    return replace(template, body=body, file_time=file_time, sender=sender)


def _read(path: str, limit: int) -> tuple[bytes, datetime | None]:
    """The file's bytes, decompressed, and its mtime."""
    try:
        if path == "-":
            body, file_time = sys.stdin.buffer.read(limit + 1), None
        else:
            with Path(path).open("rb") as file:
                body = file.read(limit + 1)
            file_time = datetime.fromtimestamp(Path(path).stat().st_mtime, UTC)
    except OSError as error:
        raise BadParameter(f"The file cannot be read: {error.strerror}.") from None
    if body.startswith(GZIP_MAGIC):
        body = inflate((body[at : at + CHUNK] for at in range(0, len(body), CHUNK)), limit)
    if len(body) > limit:
        raise PayloadTooLarge(f"The file is larger than {limit} bytes.")
    return body, file_time


def _files(paths: Sequence[str]) -> Iterator[str]:
    """The files that the arguments name, folders and patterns opened up, in order."""
    for path in paths:
        if path == "-" or Path(path).is_file():
            yield path
        elif Path(path).is_dir():
            yield from sorted(str(p) for p in Path(path).rglob("*") if _wanted(p))
        elif found := sorted(glob.glob(path, recursive=True)):  # noqa: PTH207
            yield from _files(found)
        else:
            raise click.BadParameter(f"{path}: there is no such file or folder.", param_hint="PATH")


def _wanted(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _progress(as_json: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=as_json or not console.is_terminal)


def _refresh(database: Database, taken: list[tuple[str, datetime]]) -> None:
    """Bring the continuous aggregates up to date with what was just stored.

    What cannot be refreshed now, because a policy is at it, is noted and follows.
    """
    progress_line("Refreshing the aggregates ...")
    try:
        refresh_since(database, taken)
    except StorageError as error:
        click.echo(f"Warning: all is stored, but the aggregates follow later: {error.message}", err=True)


def _report(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(asdict(summary), option=orjson.OPT_INDENT_2))
        return
    for refusal in summary.refused:
        complain(f"{refusal['path']}: {refusal['detail']}")
    for warning in summary.warnings:
        click.echo(f"Warning: {warning['path']}: {warning['warning']}", err=True)
    click.echo(
        f"{counted(summary.files, 'file')}: {counted(summary.stored, 'document')} stored "
        f"({counted(summary.rows, 'row')}), {summary.duplicates:,} there already, "
        f"{counted(len(summary.refused), 'file')} refused."
    )

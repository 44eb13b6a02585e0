"""`tsstats rejects`: what was refused, and another try for it."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress

from ringstats_ts.cli.errors import CONTROL, FAILED, LINES, REFUSED, Group, complain
from ringstats_ts.cli.options import (
    TIME,
    configured,
    database_options,
    json_option,
    open_database,
    progress_line,
)
from ringstats_ts.errors import NotFound, PartlyRefused, PayloadError, StorageError
from ringstats_ts.model import Receipt
from ringstats_ts.rejects import retry as retry_one
from ringstats_ts.rejects import why_not_kept
from ringstats_ts.sources import SOURCES
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import refresh_late
from ringstats_ts.storage.rejects import Reject, drop_rejects, find_reject, list_rejects
from ringstats_ts.words import counted


@click.group(cls=Group)
def rejects() -> None:
    """List, show, retry and drop what was refused.

    What is refused after its sender was let in is kept for a while, secrets blanked: by age, count
    and size (TSSTATS_REJECTS_KEEP, TSSTATS_REJECTS_KEEP_COUNT, TSSTATS_REJECTS_KEEP_BYTES).

    \b
    tsstats rejects list --since 2026-11-21
    tsstats rejects show 17
    tsstats rejects retry --all --reason unknown-source
    tsstats rejects drop 17
    """


def _reason_option(help_text: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    return click.option(
        "--reason", envvar="TSSTATS_REJECTS_REASON", show_envvar=True, metavar="CODE", help=help_text
    )


def _which(command: click.decorators.FC) -> click.decorators.FC:
    """Which rejects: their ids, or all of a reason."""
    for option in (
        _reason_option("With --all: only those refused for this reason, such as unknown-source."),
        click.option("--all", "everything", is_flag=True, help="All that are kept."),
        click.argument("reject_ids", nargs=-1, type=int, metavar="[ID]..."),
    ):
        command = option(command)
    return command


@rejects.command("list")
@click.option(
    "--since",
    type=TIME,
    envvar="TSSTATS_REJECTS_SINCE",
    show_envvar=True,
    help="Only what arrived from this time on.",
)
@_reason_option("Only what was refused for this reason, such as unknown-source.")
@click.option(
    "--host",
    envvar="TSSTATS_REJECTS_HOST",
    show_envvar=True,
    help="Only what was sent for this host, or from this address.",
)
@json_option
@database_options
def list_(
    since: datetime | None,
    reason: str | None,
    host: str | None,
    as_json: bool,
    database_uri: str | None,
    data_dir: Path | None,
) -> None:
    """List what was refused, the newest last.

    \b
    tsstats rejects list
    tsstats rejects list --since 2026-11-21 --host gateway
    tsstats rejects list --reason timestamp-out-of-range --json
    """
    with open_database(configured(database_uri, data_dir)) as database:
        found = list_rejects(database, since=since, reason=reason, host=host)
    if as_json:
        _print_json([_record(refused) for refused in found])
        return
    for line in _table([_cells(refused) for refused in found]):
        click.echo(line)
    click.echo(f"({counted(len(found), 'reject')})")


@rejects.command()
@click.argument("reject_id", type=int, metavar="ID")
@json_option
@database_options
def show(reject_id: int, as_json: bool, database_uri: str | None, data_dir: Path | None) -> None:
    """Print a payload as it was received, and on standard error why it was refused.

    Secrets in it are blanked.

    \b
    tsstats rejects show 17
    tsstats rejects show 17 > status.json
    """
    with open_database(configured(database_uri, data_dir)) as database:
        refused = find_reject(database, reject_id)
    if as_json:
        _print_json(_record(refused) | _body_record(refused))
        return
    for name, value in _record(refused).items():
        if value not in (None, False, 0):
            click.echo(f"{name.replace('_', ' ')}: {_line(str(value))}", err=True)
    if why := why_not_kept(refused):
        raise NotFound(f"The payload was not kept: {why}.")
    _print_body(refused.payload.body)


@rejects.command()
@_which
@click.option(
    "--host",
    envvar="TSSTATS_REJECTS_HOST",
    show_envvar=True,
    help="Host that the documents are from, whatever the token of the sender is for.",
)
@click.option(
    "--time",
    "at",
    type=TIME,
    envvar="TSSTATS_REJECTS_TIME",
    show_envvar=True,
    help="Time of the observation.",
)
@click.option(
    "--source",
    type=click.Choice([source.name for source in SOURCES]),
    envvar="TSSTATS_REJECTS_SOURCE",
    show_envvar=True,
    help="Payload format.",
)
@json_option
@database_options
@click.pass_context
def retry(
    ctx: click.Context,
    reject_ids: tuple[int, ...],
    everything: bool,
    reason: str | None,
    host: str | None,
    at: datetime | None,
    source: str | None,
    as_json: bool,
    database_uri: str | None,
    data_dir: Path | None,
) -> None:
    """Send rejects the same way in again, as of when they arrived.

    --host, --time and --source take the place of what the sender said. What is stored is a
    reject no longer; what is refused again stays one, with its new reason. Trying twice
    stores nothing twice. Exit code 65 says that some were refused.

    \b
    tsstats rejects retry 17 18
    tsstats rejects retry 17 --time 2026-11-21T12:00:00Z
    tsstats rejects retry --all --reason unknown-source
    """
    config = configured(database_uri, data_dir)
    now = datetime.now(UTC)
    summary = Summary()
    try:
        with open_database(config) as database, _progress(as_json) as progress:
            todo = _chosen(database, reject_ids, everything=everything, reason=reason)
            for reject_id in progress.track(todo, description="Storing"):
                with summary.counting(reject_id) as receipts:
                    refused = find_reject(database, reject_id)
                    again = retry_one(refused, database, config, now=now, host=host, time=at, source=source)
                    receipts.extend(again)
            _refresh(database)
    finally:
        if summary.rejects:
            _report(summary, as_json=as_json)
    if summary.refused:
        ctx.exit(REFUSED)
    if summary.not_kept:
        ctx.exit(FAILED)


@rejects.command()
@_which
@click.option("--yes", is_flag=True, help="Do not ask before all are dropped.")
@database_options
def drop(
    reject_ids: tuple[int, ...],
    everything: bool,
    reason: str | None,
    yes: bool,
    database_uri: str | None,
    data_dir: Path | None,
) -> None:
    """Drop rejects for good.

    \b
    tsstats rejects drop 17 18
    tsstats rejects drop --all --reason empty-payload --yes
    """
    with open_database(configured(database_uri, data_dir)) as database:
        todo = _chosen(database, reject_ids, everything=everything, reason=reason)
        if everything and todo and not yes:
            click.confirm(f"This drops {counted(len(todo), 'reject')}. Go on?", abort=True, err=True)
        dropped = drop_rejects(database, todo)
    click.echo(f"Dropped {counted(len(dropped), 'reject')}.")


@dataclass(slots=True)
class Summary:
    """What became of the rejects that were tried again."""

    rejects: int = 0
    stored: int = 0
    duplicates: int = 0
    rows: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    not_kept: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def counting(self, reject_id: int) -> Iterator[list[Receipt]]:
        """Take the receipts of one reject, or note why there are none."""
        receipts: list[Receipt] = []
        try:
            yield receipts
        except PayloadError as error:
            receipts.extend(error.receipts if isinstance(error, PartlyRefused) else ())
            self.refused.append({"id": reject_id, "reason": error.code, "detail": str(error)})
        except NotFound as error:
            self.not_kept.append({"id": reject_id, "reason": error.code, "detail": str(error)})
        new = [receipt for receipt in receipts if not receipt.duplicate]
        self.rejects += 1
        self.stored += len(new)
        self.duplicates += len(receipts) - len(new)
        self.rows += sum(receipt.rows for receipt in new)


def _chosen(
    database: Database, reject_ids: Sequence[int], *, everything: bool, reason: str | None
) -> list[int]:
    """The ids that are meant, the oldest first.

    Raises
    ------
    NotFound
        one of them is not there; nothing is done then.
    """
    if bool(reject_ids) == everything:
        raise click.UsageError("Name rejects by their IDs, or say --all.")
    if reason and not everything:
        raise click.UsageError("--reason goes with --all.")
    kept = [refused.reject_id for refused in list_rejects(database, reason=reason)]
    if missing := sorted(set(reject_ids) - set(kept)):
        raise NotFound(f"There is no reject {missing[0]}.", "`tsstats rejects list` shows them.")
    return kept if everything else [reject_id for reject_id in kept if reject_id in reject_ids]


def _refresh(database: Database) -> None:
    """Bring the continuous aggregates up to date; what cannot be refreshed now follows."""
    progress_line("Refreshing the aggregates ...")
    try:
        refresh_late(database)
    except StorageError as error:
        click.echo(f"Warning: the aggregates follow later: {error.message}", err=True)


def _report(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(summary))
        return
    for problem in summary.refused + summary.not_kept:
        complain(f"reject {problem['id']}: {_line(problem['detail'])}")
    click.echo(
        f"{counted(summary.rejects, 'reject')}: {counted(summary.stored, 'document')} stored "
        f"({counted(summary.rows, 'row')}), {summary.duplicates:,} there already, "
        f"{counted(len(summary.refused), 'reject')} refused again."
    )


def _progress(as_json: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=as_json or not console.is_terminal)


def _record(refused: Reject) -> dict[str, Any]:
    """A reject for machines: what is known of it but the body."""
    payload = refused.payload
    return {
        "id": refused.reject_id,
        "received_at": _time(payload.received_at),
        "sender": payload.sender,
        "token": payload.token and payload.token.key_id,
        "host": payload.host,
        "time": _time(payload.time),
        "source": payload.source,
        "key": payload.key,
        "replace": payload.replace,
        "partial": payload.partial,
        "reason": refused.reason,
        "detail": refused.detail,
        "pointer": refused.pointer,
        "line": refused.line,
        "retries": refused.retries,
        "retried_at": _time(refused.retried_at),
        "size_bytes": refused.size_bytes,
        "kept_bytes": refused.kept_bytes,
    }


def _body_record(refused: Reject) -> dict[str, Any]:
    """The body for machines: text, or base64 where it is no UTF-8."""
    if why := why_not_kept(refused):
        return {"payload": None, "not_kept": why}
    try:
        return {"payload": refused.payload.body.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(refused.payload.body).decode()}


def _cells(refused: Reject) -> list[str]:
    payload = refused.payload
    kept = "" if refused.kept_bytes is not None else ", not kept"
    return [
        str(refused.reject_id),
        _time(payload.received_at) or "",
        payload.host or payload.sender,
        refused.reason,
        f"{refused.size_bytes:,} bytes{kept}",
        refused.detail,
    ]


def _table(lines: list[list[str]]) -> Iterator[str]:
    shown = [[_line(cell) for cell in line] for line in lines]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _print_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def _print_body(body: bytes) -> None:
    """As it is; to a terminal without what it would obey, since it came from another host."""
    if sys.stdout.isatty():
        click.echo(body.decode(errors="replace").translate(LINES))
    else:
        sys.stdout.buffer.write(body)


def _line(text: str) -> str:
    return text.translate(CONTROL)


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat().replace("+00:00", "Z")

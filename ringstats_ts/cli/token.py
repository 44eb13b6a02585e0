"""`tsstats token`: who may send, and who may read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from ringstats_ts.cli.errors import Group
from ringstats_ts.cli.options import configured, database_options, json_option, open_database
from ringstats_ts.config import parse_interval
from ringstats_ts.errors import PayloadError
from ringstats_ts.identity import SCOPES, new_token, parse_hosts, read_token
from ringstats_ts.storage.tokens import StoredToken, add_token, list_tokens, revoke_tokens
from ringstats_ts.times import parse_time
from ringstats_ts.words import counted

NEVER = "never"


class Hosts(click.ParamType[str]):
    """A host's name, or a pattern of names."""

    name = "hosts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_hosts(value)
        except ValueError as error:
            self.fail(f"{value!r} cannot be used: {error}.", param, ctx)


class Expiry(click.ParamType[datetime | str]):
    """`never`, an interval from now, or a time to come."""

    name = "expiry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | str:
        if isinstance(value, datetime):
            return value
        if value == "never":
            return NEVER
        now = datetime.now(UTC)
        try:
            at = _later(value, now)
        except PayloadError:
            self.fail(f"{value!r} cannot be used: write `never`, `90 days`, or a time.", param, ctx)
        if at <= now:
            self.fail(f"{value!r} is past already.", param, ctx)
        return at


@click.group(cls=Group)
def token() -> None:
    """Make, list and revoke the tokens of hosts and readers.

    \b
    tsstats token create web-1
    tsstats token list
    tsstats token revoke Ptryu6ce
    """


@token.command()
@click.argument("hosts", type=Hosts())
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=["ingest"],
    show_default=True,
    envvar="TSSTATS_TOKEN_SCOPE",
    show_envvar=True,
    help="What it allows: ingest (send documents), read (the page and the metrics). May be repeated.",
)
@click.option(
    "--expires",
    type=Expiry(),
    metavar="never|INTERVAL|TIME",
    default="365 days",
    show_default=True,
    envvar="TSSTATS_TOKEN_EXPIRES",
    show_envvar=True,
    help="When it is no longer taken.",
)
@json_option
@database_options
def create(
    hosts: str,
    scopes: tuple[str, ...],
    expires: datetime | str,
    as_json: bool,
    database_uri: str | None,
    data_dir: Path | None,
) -> None:
    """Make a token for HOSTS and print it, this once.

    HOSTS is the name of the one host that sends it, whatever its documents say; or a pattern
    with * and ? that the names in its documents must match; or '*' for any host. Two may
    live for the same hosts and scopes, so that one can take the other's place.

    \b
    tsstats token create web-1
    tsstats token create 'web-*' --expires '90 days'
    tsstats token create '*' --scope read --expires never
    """
    text = new_token()
    with open_database(configured(database_uri, data_dir)) as database:
        stored = add_token(
            database,
            read_token(text),
            hosts=hosts,
            scopes=set(scopes),
            expires_at=expires if isinstance(expires, datetime) else None,
        )
    if as_json:
        click.echo(orjson.dumps({"token": text} | _record(stored), option=orjson.OPT_INDENT_2))
        return
    click.echo(text)
    until = f"until {stored.expires_at:%Y-%m-%d}" if stored.expires_at else "for ever"
    click.echo(
        f"It is good {until}, and shown only now. Send it as `Authorization: Bearer {text[:12]}_…`.", err=True
    )


@token.command("list")
@json_option
@database_options
def list_(as_json: bool, database_uri: str | None, data_dir: Path | None) -> None:
    """List the tokens: what each is for, and whether it is live. Secrets are not kept.

    \b
    tsstats token list
    tsstats token list --json
    """
    with open_database(configured(database_uri, data_dir)) as database:
        records = [_record(stored) for stored in list_tokens(database)]
    if as_json:
        click.echo(orjson.dumps(records, option=orjson.OPT_INDENT_2))
        return
    lines = [[name.removesuffix("_at").replace("_", " ") for name in records[0]]] if records else []
    lines += [[_shown(value) for value in record.values()] for record in records]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(map(str.ljust, line, widths)).rstrip())
    click.echo(f"({counted(len(records), 'token')})")


@token.command()
@click.argument("key_ids", metavar="KEY_ID...", nargs=-1, required=True)
@database_options
def revoke(key_ids: tuple[str, ...], database_uri: str | None, data_dir: Path | None) -> None:
    """Revoke tokens, named by the part of them behind `tss_`, or whole.

    They are refused from then on; a running service sees it within TSSTATS_TOKEN_CACHE.

    \b
    tsstats token revoke Ptryu6ce
    """
    # A whole one is never repeated: it may be good for ever, of another database.
    key_ids = tuple(text.split("_")[1] if text.startswith("tss_") else text for text in key_ids)
    with open_database(configured(database_uri, data_dir)) as database:
        revoke_tokens(database, key_ids)
    click.echo(f"Revoked {', '.join(key_ids)}.", err=True)


def _later(text: str, now: datetime) -> datetime:
    try:
        return now + parse_interval(text)
    except (ValueError, OverflowError):
        return parse_time(text)


def _record(stored: StoredToken) -> dict[str, Any]:
    return {
        "key_id": stored.token.key_id,
        "hosts": stored.token.hosts,
        "scopes": sorted(stored.token.scopes),
        "state": stored.state(datetime.now(UTC)),
        "created_at": _time(stored.created_at),
        "expires_at": _time(stored.expires_at),
        "last_used_at": _time(stored.last_used_at),
        "revoked_at": _time(stored.revoked_at),
    }


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat(timespec="seconds").replace("+00:00", "Z")


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else value or ""

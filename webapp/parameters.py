"""What a sender says beside the body, in the query or in headers; every value is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flask import Request

from ringstats_ts.errors import BadParameter

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KNOWN = {"host": "Ingest-Host", "time": "Ingest-Time", "replace": "Ingest-Replace"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIX = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
# In a query `+` means a space, so an offset that nobody escaped comes with one.
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?[ ]?(?:([Zz])|([-+ ]?)(\d\d):?(\d\d))?",
    re.ASCII,
)
_TIME_HINT = "Write RFC 3339, such as 2026-01-31T12:00:00Z, or Unix seconds."


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the sender says: fields as in `ringstats_ts.model.Payload`."""

    host: str | None = None
    time: datetime | None = None
    replace: bool = False
    key: str | None = None


def parameters(request: Request) -> Parameters:
    """Read the parameters of an ingest request.

    Raises
    ------
    BadParameter
        also for a name that is not known: a misspelt `time` would store a wrong one.
    """
    unknown = sorted(set(request.args) - set(_KNOWN))
    if unknown:
        raise BadParameter(
            f"There is no parameter {unknown[0][:40]!r}.", f"Known are: {', '.join(sorted(_KNOWN))}."
        )
    host, time, again = (_value(request, name) for name in ("host", "time", "replace"))
    return Parameters(
        host=None if host is None else _host(host),
        time=None if time is None else parse_time(time),
        replace=again is not None and _switch(again),
        key=_key(request.headers.get("Idempotency-Key")),
    )


def parse_time(text: str) -> datetime:
    """Read RFC 3339 or Unix seconds, both with up to nine decimals; without an offset it is UTC.

    Digits below the microsecond are cut off.
    """
    try:
        return _from_unix(text) or _from_rfc3339(text)
    except (ValueError, OverflowError):
        raise BadParameter(f"The time {text[:60]!r} cannot be read.", _TIME_HINT) from None


def _from_unix(text: str) -> datetime | None:
    if re.fullmatch(r"\d{13}|\d{16}|\d{19}", text, re.ASCII):
        raise BadParameter(f"The time {text!r} is not in seconds.", _TIME_HINT)
    match = _UNIX.fullmatch(text)
    if match is None:
        return None
    since = timedelta(seconds=int(match[2]), microseconds=_microseconds(match[3]))
    return _EPOCH - since if match[1] else _EPOCH + since


def _from_rfc3339(text: str) -> datetime:
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError
    day, clock, fraction, _, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if offset >= timedelta(days=1):
        raise ValueError
    naive = datetime.strptime(f"{day} {clock} +0000", "%Y-%m-%d %H:%M:%S %z")
    local = naive + timedelta(microseconds=_microseconds(fraction))
    return local + offset if sign == "-" else local - offset


def _microseconds(fraction: str | None) -> int:
    return int((fraction or "").ljust(6, "0")[:6])


def _value(request: Request, name: str) -> str | None:
    header = _KNOWN[name]
    given = {*request.args.getlist(name), *request.headers.getlist(header)}
    if len(given) > 1:
        raise BadParameter(
            f"`{name}` is given twice, with different values.", f"Give `?{name}=` or `{header}:`, not both."
        )
    return given.pop().strip() if given else None


def _host(text: str) -> str:
    if not text or len(text) > 253 or not text.isprintable():
        raise BadParameter(
            "The `host` cannot be used.", "Write a name of at most 253 characters, such as `host=web-1`."
        )
    return text


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise BadParameter(f"`replace` is {text[:20]!r}.", "Write `replace=1` or leave it out.")
    return text.lower() in ("1", "true", "yes", "on")


def _key(text: str | None) -> str | None:
    if text is not None and not _KEY.fullmatch(text):
        raise BadParameter(
            "The Idempotency-Key cannot be used.", "Use 1 to 255 visible ASCII characters, such as a UUID."
        )
    return text

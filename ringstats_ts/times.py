"""Times that a person or a sender writes, in an option, a query or a header."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ringstats_ts.errors import BadParameter

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_OR_FINER = re.compile(r"\d{13}|\d{16}|\d{19}", re.ASCII)
_UNIX = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
# In a query `+` means a space, so an offset that nobody escaped comes with one.
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?[ ]?(?:([Zz])|([-+ ]?)(\d\d):?(\d\d))?)?",
    re.ASCII,
)
_HINT = "Write RFC 3339, such as 2026-01-31T12:00:00Z, or Unix seconds."


def parse_time(text: str) -> datetime:
    """Read RFC 3339, a date, or Unix seconds, with up to nine decimals; without an offset it is UTC.

    Digits below the microsecond are cut off.

    Raises
    ------
    BadParameter
    """
    if _MILLISECONDS_OR_FINER.fullmatch(text):
        raise BadParameter("The time is not in seconds.", _HINT)
    try:
        return _from_unix(text) or _from_rfc3339(text)
    except (ValueError, OverflowError):
        raise BadParameter("The time cannot be read.", _HINT) from None


def _from_unix(text: str) -> datetime | None:
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
    clock = clock or "00:00:00"
    # A leap second is the next second, as it is to PostgreSQL.
    leap = timedelta(seconds=clock.endswith(":60"))
    naive = datetime.strptime(f"{day} {clock[:6]}{'59' if leap else clock[6:]} +0000", "%Y-%m-%d %H:%M:%S %z")
    local = naive + leap + timedelta(microseconds=_microseconds(fraction))
    return local + offset if sign == "-" else local - offset


def _microseconds(fraction: str | None) -> int:
    return int((fraction or "").ljust(6, "0")[:6])

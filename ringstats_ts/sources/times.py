"""Times of a document to instants, with what is needed to write them as they were.

The *form* of a written time is its zone (`Z`, `+07:00`, or nothing for a naive one),
with the number of digits of the fraction in front of it where these are fixed; without
a number trailing zeros are dropped, as Go does. The form `unix` is a number of seconds.
The SQL function `rfc3339` writes a time in a form.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ringstats_ts.model import JSON

ZERO = "0001-01-01T00:00:00Z"
"""What Go writes for a time that was never set."""

UNIX = "unix"

# All of it: zones were not whole minutes then, so that the zero time in one is seconds off.
_ZERO_YEAR = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND_DIGITS = 6
_CLOCK_DIGITS = (3, 6)
_RFC3339 = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])([Tt ])(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)"
    r"(?:\.(\d+))?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d|)",
    re.ASCII,
)


def read_time(text: str, naive: bool = False) -> tuple[datetime | None, str | None] | None:
    """Read an RFC 3339 time; one without a zone is in UTC where `naive` allows it.

    Returns
    -------
    The instant in UTC (digits behind the microsecond cut off), and the form to write it
    in. The instant is None for Go's zero time and for what a datetime cannot hold, such
    as a leap second; the form is None where no form gives back the text. None alone
    means that the text is no time.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    separator, fraction, zone = match.groups()
    if not zone and not naive:
        return None
    try:
        time = datetime.fromisoformat(text if zone != "z" else text.upper())
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None, None
    if time.year == _ZERO_YEAR:
        return None, "Z" if text == ZERO else None
    if separator != "T" or zone == "z":
        return time, None
    return time, _digits(fraction) + zone


def read_unix(seconds: int | float) -> tuple[datetime, str | None] | None:
    """Read a number of seconds since 1970, to the nearest microsecond; None where it is out of range."""
    try:
        time = _EPOCH + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None
    return time, UNIX if (time - _EPOCH).total_seconds() == seconds else None


def write_time(time: datetime) -> str:
    """Write an instant, given in UTC, as RFC 3339 with six digits."""
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def read_sample_time(value: JSON) -> tuple[datetime | None, str | None] | None:
    """Read the time that a sender put into a document: RFC 3339, naive or not, or Unix seconds."""
    if isinstance(value, str):
        found = read_time(value, naive=True)
        return found and (found[0], _fixed(value, found[1]))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return read_unix(value)
    return None


def is_naive(value: JSON) -> bool:
    """Whether the time that a sender put into a document lacks its zone."""
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    return match is not None and not match[3]


def _digits(fraction: str | None) -> str:
    if fraction is None or fraction[-1] != "0" or len(fraction) > _MICROSECOND_DIGITS:
        return ""
    return str(len(fraction))


def _fixed(text: str, form: str | None) -> str | None:
    """Name the number of digits where a clock writes always three or six.

    The form is stored in attributes: without this, samples of one clock would have one
    form or another, depending on their last digit.
    """
    match = _RFC3339.fullmatch(text)
    if form is None or form[:1].isdigit() or match is None or len(match[2] or "") not in _CLOCK_DIGITS:
        return form
    return f"{len(match[2])}{form}"

"""The fields of a line: time, request, and the text in quotation marks."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ringstats_ts.shapes import redact_url

TIME = r"[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9]{2}:[0-9]{2}:[0-9]{2} [+-][0-9]{4}"
ADDRESS = r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*+)"
"""Of every address, and of a few things that are none."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LEAP_SECOND = 60
# The target may have spaces; HTTP/0.9 has no protocol.
_REQUEST = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]++) (?:(.+) ([A-Z]++/[0-9](?:\.[0-9])?)|(/[^ ]*+))", re.DOTALL
)
_SECTION = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*+://[^/]*+)?(/[^/]*+)")
_ESCAPES = re.compile(r'(?:\\x[0-9A-Fa-f]{2})+|\\["\\]')
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def read_time(text: str) -> datetime | None:
    """Read what has the form of `TIME`, such as `09/May/2018:16:00:39 +0000`; None where it is no time.

    A leap second is the next second, as it is to PostgreSQL.
    """
    second, hours, minutes = int(text[18:20]), int(text[22:24]), int(text[24:])
    if hours >= 24 or minutes >= 60:
        return None
    leap = second == _LEAP_SECOND
    offset = timedelta(hours=hours, minutes=minutes)
    try:
        month = _MONTHS.index(text[3:6]) + 1
        clock = int(text[12:14]), int(text[15:17]), second - leap
        local = datetime(int(text[7:11]), month, int(text[:2]), *clock, tzinfo=UTC)
        return (local + offset if text[21] == "-" else local - offset) + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        return None


def read_request(quoted: str) -> tuple[str | None, ...]:
    """Method, path, query, protocol and section; where it is of another form, the request alone, last."""
    request = unescape(quoted)
    match = _REQUEST.fullmatch(request) if request else None
    if match is None:
        return None, None, None, None, None, mask(request)
    method, target, protocol, target_alone = match.groups()
    # Together: a password in the path may have a question mark.
    path, has_query, query = (mask(target or target_alone) or "").partition("?")
    section = _SECTION.match(path)
    return method, path, query if has_query else None, protocol, section and section[1], None


def unescape(quoted: str) -> str | None:
    """The text of a quoted field; None where it is empty or `-`."""
    if not quoted or quoted == "-":
        return None
    return _ESCAPES.sub(_unescaped, quoted) if "\\" in quoted else quoted


def mask(text: str | None) -> str | None:
    """The text without secrets: of a URL, of a part of one, or of what a client says of itself."""
    return redact_url(text) if text else text


def _unescaped(match: re.Match[str]) -> str:
    """The text of escaped bytes; of those that are control characters, such as NUL, the escapes."""
    escapes = match[0]
    if escapes[1] != "x":
        return escapes[1]
    raw = bytes.fromhex(escapes.replace("\\x", ""))
    try:
        text, encoding = raw.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = raw.decode("latin-1"), "latin-1"
    if not _CONTROL.search(text):
        return text
    parts, start = [], 0
    for character in text:
        end = start + len(r"\xHH") * len(character.encode(encoding))
        parts.append(escapes[start:end] if _CONTROL.match(character) else character)
        start = end
    return "".join(parts)

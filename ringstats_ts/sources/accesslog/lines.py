"""The lines of an access log, each to a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from ringstats_ts.lookups import UNKNOWN_PLACE, is_address
from ringstats_ts.model import Context
from ringstats_ts.sources.accesslog.fields import (
    ADDRESS,
    TIME,
    mask,
    read_request,
    read_time,
    unescape,
)

COLUMNS = (
    "time",
    "request_id",
    "client",
    "country",
    "city",
    "ident",
    "username",
    "virtual_host",
    "method",
    "path",
    "query",
    "protocol",
    "section",
    "request",
    "status",
    "bytes",
    "referer",
    "agent",
    "rest",
)

Row = tuple[Any, ...]

_MAX_LINE = 64 * 1024
_LOOKED_AT = 20
_INT64_DIGITS = 19
_INT64 = 2**63
_T = TypeVar("_T")

_QUOTED = r'[^"\\]*+(?:\\.[^"\\]*+)*'
# No character can be read in two ways, so that a hostile line is refused in linear time. Groups are not
# possessive: until 3.11.4 Python matches such ones wrongly (python/cpython#106052).
_LINE = re.compile(
    # A virtual host has its port, or an address behind it: a word alone may be a tag of syslog, an address
    # or a list of them is what was forwarded for.
    rf"(?:((?!{ADDRESS}[, ])(?!- )(?![^ ]*,)"
    rf'[^ :"{{}}\[\]\\]++(?::[0-9]{{1,5}}(?= (?!- ))|(?= {ADDRESS} ))|\[[0-9A-Fa-f:.]++\]:[0-9]{{1,5}})'
    # Client, ident and user are to come yet.
    r" (?=[^ ]++ [^ ]++ [^\[]))?"
    r'([^ "{}\[\]\\]++) '
    # Only behind `-` may the user's name have spaces. Where something has put words before the
    # line, they would be taken for client and ident, and the client for a part of the user.
    r'(-|[^ "]++(?= [^ ]++ \[)) '
    rf'(- (?=\[)|"" |(?:[^"\\\[]++|\\.|\[(?!{TIME}\] "))+)(?<= )'
    rf'\[({TIME})\] "({_QUOTED})" ([0-9]{{3}}|-) ([0-9]++|-)'
    rf'(?: "({_QUOTED})" "({_QUOTED})"(?![^ ])|(?! "))(?: (.*+))?',
    re.DOTALL,
)
# Some proxies write the client's port as well, which is another one each time.
_WITH_PORT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){3}):[0-9]{1,5}")
_NOT_BLANK = re.compile(rb"[^ \t\r\n][^\n]*+")


def is_log(text: bytes) -> bool:
    """Whether one of the first lines is a request: a few broken ones do not hide the others."""
    lines = islice(_NOT_BLANK.finditer(text), _LOOKED_AT)
    return any(line.end() - line.start() <= _MAX_LINE and _match(line[0].rstrip(b"\r")) for line in lines)


class Unreadable(Exception):
    """Why a line cannot be stored."""


class _Memo(dict[str, _T]):
    """What was made of a text: in a log the same ones come again and again."""

    def __init__(self, make: Callable[[str], _T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: str) -> _T:
        made = self[text] = self._make(text)
        return made


class Reader:
    """Turns the lines of one log into rows."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._event_id = context.event_ids.of
        self._times = _Memo(self._time)
        self._clients = _Memo(self._client)
        self._requests = _Memo(read_request)
        self._texts = _Memo(lambda quoted: mask(unescape(quoted)))

    def row(self, line: bytes) -> Row:
        """The row of a line, which is without its line end.

        Raises
        ------
        Unreadable
        """
        if len(line) > _MAX_LINE:
            raise Unreadable("It is longer than 64 KiB.")
        if b"\0" in line:
            raise Unreadable("It holds the character NUL.")
        match = _match(line)
        if match is None:
            raise Unreadable("It is no request in Common or Combined Log Format.")
        host, client, ident, user, time, request, status, size, referer, agent, rest = match.groups()
        return (
            self._times[time],
            self._event_id(line),
            *self._clients[client],
            None if ident == "-" else self._user(ident),
            None if user == "- " else self._user(user[:-1]),
            mask(host),
            *self._requests[request],
            None if status == "-" else int(status),
            None if size == "-" else _size(size),
            None if referer is None else self._texts[referer],
            None if agent is None else self._texts[agent],
            mask(self._context.lookups.without_addresses(rest)) if rest else None,
        )

    def _time(self, text: str) -> datetime:
        time = read_time(text)
        if time is None:
            raise Unreadable(f"Its time is none: {text}.")
        earliest, latest = self._context.earliest, self._context.latest
        if earliest is not None and time < earliest:
            raise Unreadable(f"Its time is from before {earliest.year}: {text}.")
        if latest is not None and time > latest:
            raise Unreadable(f"Its time lies in the future: {text}.")
        return time

    def _client(self, text: str) -> tuple[str | None, str | None, str | None]:
        """The client, its country and its city."""
        if text == "-":
            return None, None, None
        lookups, match = self._context.lookups, _WITH_PORT.fullmatch(text)
        client = match[1] if match else text
        place = lookups.place(client) if is_address(client) else UNKNOWN_PLACE
        return lookups.client(client), place.country, place.city

    def _user(self, text: str) -> str | None:
        name = mask(unescape(text))
        # Apache writes an empty name so.
        return None if name is None or name == '""' else self._context.lookups.client(name)


def _match(line: bytes) -> re.Match[str] | None:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    return _LINE.fullmatch(text)


def _size(digits: str) -> int:
    size = int(digits) if len(digits) <= _INT64_DIGITS else _INT64
    if size >= _INT64:
        raise Unreadable("Its number of bytes takes more than 64 bits.")
    return size

"""The lines of a transfer log in text: what they look like, one by one.

Their writers are `WriteTLog` (2012 to 2020) and `WriteTransferLog` (since 4.0) in `src/logging.c` of
EarthScope/ringserver. A block is a START line, a line for each stream, and an END line.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from ringstats_ts.sources.ringserver.entries import normal_agent, normal_protocol
from ringstats_ts.sources.ringserver.tables import Peer

LINE_BYTES = 64 * 1024
"""Longer lines are none of ringserver's."""

STREAM = re.compile(rb"([^ \x00\r\n]{1,255}+) ([0-9]{1,20}+) ([0-9]{1,20}+)\r?")

_TIME = r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?)Z?"
# The agent is whatever the client said: only the last `) @ ` can be the one behind it.
_START = re.compile(
    r"START CLIENT ([^ \x00]++) \[([^ \]\x00]++)\] \(([A-Za-z]++)\|([^\x00]*)\)"
    rf" @ {_TIME} \(connected {_TIME}\) ([TR]X)"
)
_END = re.compile(r"END CLIENT ([^ \x00]++) \[([^ \]\x00]++)\] total ([TR]X) bytes: ([0-9]{1,20}+)")
LOOK = re.compile(
    rb"^(?:START CLIENT [^ \n]++ \[[^ \n\]]++\] \([^\n]*\) @ [0-9]"
    rb"|END CLIENT [^ \n]++ \[[^ \n\]]++\] total [TR]X bytes: [0-9]++\r?$)",
    re.MULTILINE,
)
"""What tells that a text is such a log."""


class Start(NamedTuple):
    """A START line."""

    time: datetime
    peer: Peer
    direction: str
    name: tuple[str, str, str]


class End(NamedTuple):
    """An END line. `name` is that of the START line: host, address and direction."""

    name: tuple[str, str, str]
    total: int


def read_start(line: bytes) -> Start | None:
    """Read a START line; None where it is none."""
    match = _START.fullmatch(_decoded(line))
    if match is None:
        return None
    host, address, protocol, agent, time, connect_time, direction = match.groups()
    try:
        connected = _time(connect_time)
        peer = Peer(connected, address, host, normal_agent(agent), normal_protocol(protocol))
        return Start(_time(time), peer, direction.lower(), (host, address, direction))
    except ValueError:
        return None


def read_end(line: bytes) -> End | None:
    """Read an END line; None where it is none."""
    match = _END.fullmatch(_decoded(line))
    return match and End((match[1], match[2], match[3]), int(match[4]))


def _decoded(line: bytes) -> str:
    line = line.removesuffix(b"\r")
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


@lru_cache(maxsize=4096)
def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)

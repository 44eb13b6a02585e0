"""A log of ringserver, line by line: blocks of text and objects of JSON, in any order.

A block is stored where it is whole, or not at all: one without some of its lines would be
another transfer. What cannot be read becomes a `BadLine`, a block as one of all its lines.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from ringstats_ts.errors import PayloadError, UnstorablePayload
from ringstats_ts.model import BadLine, Context, Log
from ringstats_ts.sources.ringserver.blocks import LINE_BYTES, STREAM, End, Start, read_end, read_start
from ringstats_ts.sources.ringserver.entries import load, read_entry
from ringstats_ts.sources.ringserver.tables import Tables, Transfer
from ringstats_ts.sources.secrets import redact

ENTRY_BYTES = 16 * 1024 * 1024
"""Longer lines of JSON are not read."""

_INT64 = 2**63
_SEND_AGAIN = "Send the log again when it is."
_UNFINISHED = f"The block is not finished: it has no whole END line. {_SEND_AGAIN}"
_CUT_LINE = f"The line is not finished: it has no line end. {_SEND_AGAIN}"
_NO_END = "The block has no END line before the next begins: its writer was stopped, or lines are missing."
_NO_START = "The lines belong to a block whose START line is missing. Send the log from its beginning."
_BAD_START = "The START line of the block cannot be read."
_OTHER_END = "The END line is not of the client that the block began with: lines are missing between."
_BAD_TOTAL = "The total of the END line takes more than 63 bits."
_BAD_LINE = "The line is none of a log of ringserver."
_BAD_BLOCK = "A line of the block cannot be read, and the others are not the total of its END line."


class _Block:
    """A block from its START line on. `unreadable` are lines in it that are none of a block."""

    __slots__ = ("first", "start", "streams", "unreadable")

    def __init__(self, first: int, start: Start | None) -> None:
        self.first = first
        self.start = start
        self.streams: list[tuple[Any, ...]] = []
        self.unreadable: list[int] = []


class Reader:
    """Reads one log into `tables`, `bad_lines` and `drift`."""

    def __init__(self, log: Log, context: Context) -> None:
        self.tables = Tables(context)
        self.bad_lines: list[BadLine] = []
        self.drift: set[str] = set()
        self._without_addresses = context.lookups.without_addresses
        self._first_line = log.first_line
        # A bad line is kept as it is: it may go on in the next part of the log.
        self._lines = log.text.split(b"\n")
        self._block: _Block | None = None
        self._headless: int | None = None

    def read(self) -> None:
        """Read all of it."""
        fullmatch = STREAM.fullmatch
        last = len(self._lines) - 1
        for index, line in enumerate(self._lines):
            block = self._block
            if block is not None and index < last and (match := fullmatch(line)) is not None:
                block.streams.append(match.groups())
            elif line and not line.isspace():
                self._line(index, line, finished=index < last)
        self._leave_block(last + 1, _UNFINISHED)
        self._leave_headless(last + 1)
        self.bad_lines.sort(key=lambda bad: bad.number)

    def _line(self, index: int, line: bytes, *, finished: bool) -> None:
        if line.startswith(b"{"):
            self._leave(index)
            self._entry(index, line, finished=finished)
        elif line.startswith(b"START CLIENT "):
            self._leave(index)
            self._block = _Block(index, read_start(redact(line)) if len(line) <= LINE_BYTES else None)
        elif line.startswith(b"END CLIENT ") and len(line) <= LINE_BYTES and (end := read_end(redact(line))):
            self._end(index, end, finished=finished)
        else:
            self._other(index, line, finished=finished)

    def _end(self, index: int, end: End, *, finished: bool) -> None:
        block = self._block
        if block is None:
            self._headless = index if self._headless is None else self._headless
            self._leave_headless(index + 1)
        elif block.start is not None and _is_whole(block, end, finished=finished):
            self._store(block, block.start, end, index)
        else:
            self._leave_block(index + 1, _complaint(block, end) if finished else _UNFINISHED)

    def _store(self, block: _Block, start: Start, end: End, index: int) -> None:
        streams = [(_text(stream), int(size), int(packets)) for stream, size, packets in block.streams]
        transfer = Transfer(start.time, start.peer, start.direction, streams, end.total)
        try:
            self.tables.add_transfer(transfer, block.first + self._first_line)
        except UnstorablePayload as error:
            self._leave_block(index + 1, error.message)
            return
        for unreadable in block.unreadable:
            self._bad(unreadable, unreadable + 1, _BAD_LINE)
        self._block = None

    def _entry(self, index: int, line: bytes, *, finished: bool) -> None:
        try:
            if len(line) > ENTRY_BYTES:
                raise UnstorablePayload(f"The line is longer than {ENTRY_BYTES} bytes.")
            entry, unknown = read_entry(load(line))
            if isinstance(entry, Transfer):
                self.tables.add_transfer(entry, index + self._first_line)
            else:
                self.tables.add_access(entry)
            self.drift.update(map(self._without_addresses, unknown))
        except orjson.JSONDecodeError as error:
            self._bad(index, index + 1, f"The line is no whole JSON: {error}." if finished else _CUT_LINE)
        except PayloadError as error:
            self._bad(index, index + 1, error.message)

    def _other(self, index: int, line: bytes, *, finished: bool) -> None:
        if self._block is not None:
            self._block.unreadable.append(index)
        elif finished and STREAM.fullmatch(line):
            self._headless = index if self._headless is None else self._headless
        else:
            self._leave_headless(index)
            self._bad(index, index + 1, _BAD_LINE if finished else _CUT_LINE)

    def _leave(self, index: int) -> None:
        """Leave what has no end before that line."""
        self._leave_headless(index)
        self._leave_block(index, _NO_END)

    def _leave_block(self, end: int, reason: str) -> None:
        if self._block is not None:
            self._bad(self._block.first, end, reason)
            self._block = None

    def _leave_headless(self, end: int) -> None:
        if self._headless is not None:
            self._bad(self._headless, end, _NO_START)
            self._headless = None

    def _bad(self, first: int, end: int, reason: str) -> None:
        """Note the lines from `first` to before `end`."""
        cut = reason in (_UNFINISHED, _CUT_LINE)
        text = b"\n".join(self._lines[first:end])
        text = text if cut else text.removesuffix(b"\r")
        self.bad_lines.append(BadLine(first + self._first_line, text, reason, cut))


def _is_whole(block: _Block, end: End, *, finished: bool) -> bool:
    """Whether all of its lines are there; those that cannot be read are none where the sum is right."""
    if block.start is None or block.start.name != end.name or end.total >= _INT64:
        return False
    if finished and not block.unreadable:
        return True
    return end.total == sum(int(size) for _, size, _ in block.streams)


def _complaint(block: _Block, end: End) -> str:
    if block.start is None:
        return _BAD_START
    if block.start.name != end.name:
        return _OTHER_END
    return _BAD_TOTAL if end.total >= _INT64 else _BAD_BLOCK


@lru_cache(maxsize=65536)
def _text(stream: bytes) -> str:
    stream = redact(stream)
    try:
        return stream.decode()
    except UnicodeDecodeError:
        return stream.decode("latin-1")

"""Logs of any length, a part at a time: what a part ends in the middle of begins the next one."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import dropwhile, islice
from pathlib import Path
from typing import BinaryIO

from ringstats_ts import sources
from ringstats_ts.config import Config
from ringstats_ts.decode import GZIP_MAGIC, as_log, in_utf8
from ringstats_ts.errors import BadParameter, PayloadError, TruncatedPayload
from ringstats_ts.ingest import Parsed, parse
from ringstats_ts.lookups import EventIds
from ringstats_ts.model import Log, LogPart, Payload, Source
from ringstats_ts.references import references
from ringstats_ts.sources.logs import nothing_stored

PART_BYTES = 8 * 1024 * 1024
HEAD_BYTES = 1024 * 1024
BLOCK_BYTES = 64 * 1024 * 1024
"""Where a block of a ringserver log is longer than a part, it is waited for so long."""


def is_long_log(path: str) -> bool:
    """Whether the file, which is too large to be taken at once, is a log."""
    try:
        return sources.detect_log(_head(path)) is not None
    except PayloadError:
        return False


def parts(path: str, template: Payload, config: Config) -> Iterator[Parsed]:
    """The log as payloads, each of whole lines and blocks, in order.

    The last one alone ends where the log does: what is unfinished there is a bad line.

    Raises
    ------
    PayloadError
        a part cannot be read, those before it are good; or there is nothing good in all of it.
    """
    template = replace(template, source=_source(path, template.source).name)
    template = replace(template, sender=Path(path).name, origin=socket.gethostname())
    event_ids = EventIds(references(config).event_key)
    first_line, rest = 1, b""
    # Where there are bad lines alone they are of the time of what is before them, or behind.
    time: datetime | None = None
    before: list[_Part] = []
    for chunk, is_last in _chunks(path):
        body, place = rest + chunk, LogPart(first_line, event_ids)
        payload = replace(template, body=body, received_at=datetime.now(UTC), part=place)
        part = _Part(parse(payload, config))
        first_line, rest = first_line + body.count(b"\n"), b""
        if not is_last:
            first_line, rest = part.leave_rest(first_line)
        if part.batch.events:
            event_ids.next_part()
            time = part.batch.time
        if part.batch.events or part.batch.bad_lines:
            before.append(part)
        if time is not None:
            yield from (one.at(time) for one in before)
            before = []
    if time is None:
        raise nothing_stored([line for part in before for line in part.batch.bad_lines])


class _Part:
    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed
        (self.batch,) = parsed.batches.values()

    def leave_rest(self, next_line: int) -> tuple[int, bytes]:
        """Leave what it ends in the middle of to the next part; that part's first line, and its text."""
        lines = self.batch.bad_lines
        if not lines or not lines[-1].cut or len(lines[-1].text) > BLOCK_BYTES:
            return next_line, b""
        self.batch = replace(self.batch, bad_lines=lines[:-1])
        return lines[-1].number, lines[-1].text

    def at(self, time: datetime) -> Parsed:
        """The part, of that time if it has none of its own."""
        batch = self.batch if self.batch.events else replace(self.batch, time=time)
        return replace(self._parsed, batches={0: batch})


def _chunks(path: str) -> Iterator[tuple[bytes, bool]]:
    """Pieces of the file, each with whether it is the last."""
    with closing(_pieces(path, PART_BYTES)) as pieces:
        chunk = next(pieces, b"")
        for following in pieces:
            yield chunk, False
            chunk = following
        yield chunk, True


def _pieces(path: str, size: int) -> Generator[bytes]:
    """The text of the file, decompressed and in UTF-8, in pieces of so many bytes of the file."""
    try:
        with _opened(path) as file:
            pieces = iter(partial(file.read, size), b"")
            # A file that was emptied while its writer went on may begin with more zeros than it has lines.
            texts = in_utf8(dropwhile(lambda piece: not piece.strip(b"\0"), pieces))
            yield next(texts, b"").lstrip(b"\0")
            yield from texts
    except OSError as error:
        raise BadParameter(f"The file cannot be read: {error.strerror or error}.") from None
    except (EOFError, zlib.error):
        raise TruncatedPayload("The gzip data is damaged, or ends in the middle.") from None


def _head(path: str) -> Log:
    with closing(_pieces(path, HEAD_BYTES)) as pieces:
        # Two: of the first there may be zeros but for some bytes.
        return as_log(b"".join(islice(pieces, 2)))


def _source(path: str, name: str | None) -> Source:
    """The source of a long log, which is to be the one that was named, if any was."""
    head = _head(path)
    if name is not None:
        sources.check(sources.by_name(name), head)
    return sources.detect(head)


def _opened(path: str) -> BinaryIO:
    with Path(path).open("rb") as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return gzip.open(path) if zipped else Path(path).open("rb")  # type: ignore[return-value]

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
from itertools import dropwhile
from pathlib import Path
from typing import BinaryIO

from ringstats_ts.config import Config
from ringstats_ts.decode import GZIP_MAGIC, as_log, in_utf8
from ringstats_ts.errors import BadParameter, PayloadError, TruncatedPayload
from ringstats_ts.ingest import Parsed, parse
from ringstats_ts.lookups import EventIds
from ringstats_ts.model import Payload
from ringstats_ts.references import references
from ringstats_ts.sources import detect_log

PART_BYTES = 8 * 1024 * 1024
HEAD_BYTES = 1024 * 1024
BLOCK_BYTES = 64 * 1024 * 1024
"""Where a block of a ringserver log is longer than a part, it is waited for so long."""


def is_long_log(path: str) -> bool:
    """Whether the file, which is too large to be taken at once, is a log."""
    try:
        with closing(_pieces(path, HEAD_BYTES)) as pieces:
            return detect_log(as_log(next(pieces, b""))) is not None
    except (OSError, EOFError, zlib.error, PayloadError):
        return False


def parts(path: str, template: Payload, config: Config) -> Iterator[Parsed]:
    """The log as payloads, each of whole lines and blocks, in order.

    The last one alone ends where the log does: what is unfinished there is a bad line.

    Raises
    ------
    PayloadError
        a part cannot be read; those before it are good.
    """
    event_ids = EventIds(references(config).event_key)
    template = replace(template, sender=Path(path).name, origin=socket.gethostname(), event_ids=event_ids)
    first_line, rest = 1, b""
    time = template.received_at
    for chunk, is_last in _chunks(path):
        body = rest + chunk
        payload = replace(template, body=body, received_at=datetime.now(UTC), first_line=first_line)
        try:
            part = _Part(parse(payload, config))
        except PayloadError:
            if is_last or first_line > 1 or len(body) > BLOCK_BYTES:
                raise
            # Nothing of it is whole yet: it goes on in the next part.
            rest = body
            continue
        first_line, rest = first_line + body.count(b"\n"), b""
        if not is_last:
            first_line, rest = part.leave_rest(first_line)
        # One that has bad lines alone is of the time of the part before.
        time = part.batch.time if part.batch.events else time
        event_ids.next_part()
        template = replace(template, source=part.batch.source)
        if part.batch.events or part.batch.bad_lines:
            yield part.at(time)


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
        """The part, of that time."""
        return replace(self._parsed, batches={0: replace(self.batch, time=time)})


def _chunks(path: str) -> Iterator[tuple[bytes, bool]]:
    """Pieces of the file, decompressed and in UTF-8, each with whether it is the last."""
    try:
        with closing(_pieces(path, PART_BYTES)) as pieces:
            chunk = next(pieces, b"")
            for following in pieces:
                yield chunk, False
                chunk = following
            yield chunk, True
    except OSError as error:
        raise BadParameter(f"The file cannot be read: {error.strerror or error}.") from None
    except (EOFError, zlib.error):
        raise TruncatedPayload("The gzip data is damaged, or ends in the middle.") from None


def _pieces(path: str, size: int) -> Generator[bytes]:
    with _opened(path) as file:
        pieces = iter(partial(file.read, size), b"")
        # A file that was emptied while its writer went on may begin with more zeros than it has lines.
        yield from in_utf8(dropwhile(lambda piece: not piece.strip(b"\0"), pieces))


def _opened(path: str) -> BinaryIO:
    with Path(path).open("rb") as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return gzip.open(path) if zipped else Path(path).open("rb")  # type: ignore[return-value]

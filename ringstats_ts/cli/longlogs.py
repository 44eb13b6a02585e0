"""Logs of any length, a part at a time: what a part ends in the middle of begins the next one."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from ringstats_ts.config import Config
from ringstats_ts.decode import GZIP_MAGIC, as_log
from ringstats_ts.errors import BadParameter, MalformedPayload, PayloadError, TruncatedPayload
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
        with _opened(path) as file:
            return detect_log(as_log(file.read(HEAD_BYTES))) is not None
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
    origin = socket.gethostname()
    first_line, rest = 1, b""
    for chunk, is_last in _chunks(path):
        body = rest + chunk
        if is_last and first_line > 1 and not body.strip():
            return
        payload = replace(
            template,
            body=body,
            received_at=datetime.now(UTC),
            sender=Path(path).name,
            origin=origin,
            first_line=first_line,
            event_ids=event_ids,
        )
        try:
            parsed = parse(payload, config)
        except MalformedPayload:
            if is_last or len(body) > BLOCK_BYTES:
                raise
            # Not one whole block yet: it goes on in the next part.
            rest = body
            continue
        template = replace(template, source=parsed.batches[0].source)
        first_line, rest = first_line + body.count(b"\n"), b""
        if not is_last:
            parsed, rest, first_line = _without_rest(parsed, first_line)
        event_ids.next_part()
        yield parsed


def _without_rest(parsed: Parsed, next_line: int) -> tuple[Parsed, bytes, int]:
    """The part without what it ends in the middle of; that, and the number of its line."""
    ((number, batch),) = parsed.batches.items()
    if not batch.bad_lines or not batch.bad_lines[-1].cut:
        return parsed, b"", next_line
    *lines, last = batch.bad_lines
    warnings = batch.warnings if lines else batch.warnings[:-1]
    whole = replace(batch, bad_lines=tuple(lines), warnings=warnings)
    return replace(parsed, batches={number: whole}), last.text, last.number


def _chunks(path: str) -> Iterator[tuple[bytes, bool]]:
    """Pieces of the file, decompressed, each with whether it is the last."""
    try:
        with _opened(path) as file:
            chunk = file.read(PART_BYTES)
            while chunk:
                following = file.read(PART_BYTES)
                yield chunk, not following
                chunk = following
    except OSError as error:
        raise BadParameter(f"The file cannot be read: {error.strerror or error}.") from None
    except (EOFError, zlib.error):
        raise TruncatedPayload("The gzip data is damaged, or ends in the middle.") from None


def _opened(path: str) -> BinaryIO:
    with Path(path).open("rb") as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return gzip.open(path) if zipped else Path(path).open("rb")  # type: ignore[return-value]

"""Whether a body is a log of ringserver: a look at its beginning, which costs next to nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from ringstats_ts.sources.ringserver.blocks import LOOK, STREAM
from ringstats_ts.sources.ringserver.entries import is_entry, load

_LOOKED_AT = 20
"""Lines among which a text must have a START or an END line."""

_HEAD_BYTES = 1_000_000
"""So far the END line of a block that began before the text did is looked for."""

_NOT_BLANK = re.compile(rb"[^ \t\r\n][^\n]*+")


def is_log(text: bytes) -> bool:
    """Whether the text is a transfer log, or an access log in JSON Lines; its first line may be cut."""
    return _is_text(text[:_HEAD_BYTES]) or (b'"log_time"' in text[:_HEAD_BYTES] and _is_json_lines(text))


def _is_text(head: bytes) -> bool:
    if b" CLIENT " not in head:
        return False
    found = LOOK.search(head)
    if found is None:
        return False
    lines = [line.rstrip(b"\r") for line in _lines(head, 2)]
    return head.count(b"\n", 0, found.start()) < _LOOKED_AT or any(map(STREAM.fullmatch, lines))


def _is_json_lines(text: bytes) -> bool:
    for line in _lines(text, 2):
        try:
            return is_entry(load(line))
        except orjson.JSONDecodeError:
            continue
    return False


def _lines(text: bytes, count: int) -> Iterator[bytes]:
    """The first lines that are not blank."""
    for _, match in zip(range(count), _NOT_BLANK.finditer(text), strict=False):
        yield match[0]

"""How deep a document may be, how long its keys and strings, how large its integers.

Pure. The text is looked at first, by a few passes in C; only a document that may be
beyond a limit is walked through, value by value, for a complaint that says where. No
look takes more than time in proportion to the text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.model import JSON

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b'{}[]"')
_STRING = re.compile(rb'"[^"]*+"')

_INT64_DIGITS = 19
_NUMBER_SHAPE = bytes(
    ord("0") if byte in b"0123456789" else ord(",") if byte in b"[:,- \t\r\n" else ord(".")
    for byte in range(256)
)
_LONG_NUMBER = b"," + b"0" * _INT64_DIGITS
_LONG_INTEGER = re.compile(rb"(?<![\w.+-])(-?\d{19,}+)(?![.eE])")

_Path = tuple["_Path | None", str | int]
"""The steps to a value, from its end: cheap to make for every value, and rarely read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document must not exceed. Strings are measured in UTF-8, without their escapes."""

    depth: int = 64
    key_bytes: int = 512
    string_bytes: int = 64 * 1024

    @property
    def shortest(self) -> int:
        return min(self.key_bytes, self.string_bytes)


def pointer(path: Iterable[str]) -> str:
    """Write the path as a JSON pointer (RFC 6901)."""
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def surely_within(text: bytes, limits: Limits) -> bool:
    """Whether the documents of a valid text are within the limits; False says that they may not be."""
    plain = _without_escapes(text)
    return _is_shallow(plain, limits.depth) and _has_short_strings(plain, limits.shortest)


def refuse_beyond(value: JSON, limits: Limits, line: int | None = None) -> None:
    """Refuse a document that is beyond a limit.

    Raises
    ------
    UnstorablePayload
    """
    if type(value) is str:
        _refuse_long("string", value, limits.string_bytes, None, line)
    level: list[tuple[_Path | None, JSON]] = [(None, value)] if type(value) in (dict, list) else []
    for _ in range(limits.depth):
        level = [inner for path, outer in level for inner in _containers(path, outer, limits, line)]
        if not level:
            return
    raise UnstorablePayload(
        f"The document is nested deeper than {limits.depth} levels.",
        "Send it flatter, or raise TSSTATS_MAX_DEPTH.",
        line=line,
    )


def refuse_long_integers(text: bytes) -> None:
    """Refuse an integer of more than 64 bits in a valid text: the parser rounds it.

    Raises
    ------
    UnstorablePayload
    """
    shape = (b"," + text).translate(_NUMBER_SHAPE)
    start = shape.find(_LONG_NUMBER)
    if start < 0:
        return
    plain = _without_escapes(text)
    seen, quotes = 0, 0
    for match in _LONG_INTEGER.finditer(plain, max(start - 1, 0)):
        quotes += plain.count(b'"', seen, match.start())
        seen = match.start()
        if quotes % 2 == 0 and not _fits(match[1]):
            digits = match[1][:40].decode()
            raise UnstorablePayload(
                f"The integer {digits} has more than 64 bits.", line=plain.count(b"\n", 0, seen) + 1
            )


def is_cut(text: bytes) -> bool:
    """Whether brackets or a string are still open at the end of the text."""
    brackets = _brackets(_without_escapes(text))
    return b'"' in brackets or brackets.count(b"[") > brackets.count(b"]")


def _without_escapes(text: bytes) -> bytes:
    """The text, with as many bytes, where every quote begins or ends a string."""
    if b"\\" not in text:
        return text
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _brackets(plain: bytes) -> bytes:
    """All brackets outside of strings, curly ones as square ones; an open string is left as it is."""
    # Quotes with nothing between them go first: that is all but the few strings with brackets in them.
    marks = plain.translate(_BRACKETS, _NO_BRACKETS).replace(b'""', b"")
    return _STRING.sub(b"", marks)


def _is_shallow(plain: bytes, depth: int) -> bool:
    left = _brackets(plain)
    if b"[" * (depth + 1) in left:
        return False
    for _ in range(depth):
        if not left:
            return True
        left = left.replace(b"[]", b"")
    return not left


def _has_short_strings(plain: bytes, longest: int) -> bool:
    """Whether no string can be longer: one that is covers a whole window, in which there is no quote."""
    window = longest // 2 + 1
    end = len(plain) - window + 1
    starts, stops = range(0, end, window), range(window, end + window, window)
    return min(map(plain.find, repeat(b'"'), starts, stops), default=0) >= 0


def _containers(
    path: _Path | None, outer: JSON, limits: Limits, line: int | None
) -> Iterator[tuple[_Path, JSON]]:
    """The objects and arrays right inside one, whose keys and strings are checked on the way."""
    if type(outer) is dict:
        for key in outer:
            _refuse_long("key", key, limits.key_bytes, path, line)
    for step, member in outer.items() if type(outer) is dict else enumerate(outer):
        if type(member) is str:
            _refuse_long("string", member, limits.string_bytes, (path, step), line)
        elif type(member) in (dict, list):
            yield (path, step), member


def _refuse_long(kind: str, text: str, limit: int, path: _Path | None, line: int | None) -> None:
    # No character takes more than four bytes.
    if len(text) * 4 <= limit or len(encoded := text.encode()) <= limit:
        return
    raise UnstorablePayload(
        f"A {kind} is {len(encoded):,} bytes long; {limit:,} are taken.",
        f"Send it without, or raise TSSTATS_MAX_{kind.upper()}_BYTES.",
        pointer=pointer(_steps(path)),
        line=line,
    )


def _steps(path: _Path | None) -> list[str]:
    steps = []
    while path is not None:
        path, step = path
        steps.append(str(step))
    return steps[::-1]


def _fits(digits: bytes) -> bool:
    # Of 21 digits none does, and Python reads at most some thousands.
    return len(digits) <= _INT64_DIGITS + 1 and -(2**63) <= int(digits) < 2**64

"""From the bytes of a body to the documents in it: gzip, byte order marks, JSON, NDJSON, arrays.

Pure. The Content-Type plays no part: curl and wget send whatever they like.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain

import orjson

from ringstats_ts.errors import (
    EmptyPayload,
    MalformedPayload,
    PayloadTooLarge,
    TruncatedPayload,
    UnstorablePayload,
)
from ringstats_ts.model import JSON

GZIP_MAGIC = b"\x1f\x8b"
LONGEST_INTEGER = 21
_MANY_DIGITS = b"0" * 19
_DIGITS = bytes(48 if chr(byte).isdecimal() and byte < 128 else 32 for byte in range(256))
_LONG_INTEGER = re.compile(rb"[:\[,\s-]\d{19,}[,\s\]}]")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_WARNING = re.compile(rb"\A(?:[ \t]*(?:Warning|#|//)[^\n]*\r?\n)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON value of a body, and where it stood: the line of NDJSON or index of an array."""

    value: JSON
    line: int | None = None
    index: int | None = None


def inflate(chunks: Iterable[bytes], limit: int) -> bytes:
    """Decompress one layer of gzip, members one behind the other included.

    Stops as soon as more than `limit` bytes come out, however small the input.

    Raises
    ------
    PayloadTooLarge, TruncatedPayload, MalformedPayload
    """
    out = bytearray()
    member = zlib.decompressobj(wbits=31)
    for chunk in chunks:
        rest = chunk
        while rest:
            if member.eof:
                if not rest.strip(b"\0"):
                    break
                member = zlib.decompressobj(wbits=31)
            try:
                out += member.decompress(rest, limit + 1 - len(out))
            except zlib.error as error:
                raise MalformedPayload(f"The gzip data is damaged: {error}.") from None
            if len(out) > limit:
                raise PayloadTooLarge(f"The body is larger than {limit} bytes when decompressed.")
            rest = member.unconsumed_tail or member.unused_data
    if not member.eof:
        raise TruncatedPayload("The gzip data ends in the middle.", "Send the whole body again.")
    return bytes(out)


def documents(
    body: bytes, *, max_documents: int, max_depth: int, max_values: int = 1_000_000
) -> list[Document]:
    """The documents of a body: one, one a line (NDJSON), or the elements of an array.

    Raises
    ------
    EmptyPayload, TruncatedPayload, MalformedPayload, UnstorablePayload, PayloadTooLarge
    """
    text = _utf8(body)
    if not text.strip():
        raise EmptyPayload
    # A value takes far more memory than its text: they are counted before they are made.
    if text.count(b",") >= max_values:
        raise PayloadTooLarge(f"The body has more than {max_values} values.", "Send it in parts.")
    found = list(_split(text, max_documents))
    for document in found:
        _check(document, max_depth)
    return found


def refuse_rounded(body: bytes) -> None:
    """Refuse a body with an integer of more than 64 bits: the parser has rounded it.

    Raises
    ------
    UnstorablePayload
    """
    text = _utf8(body)
    # The first look is some ten times as fast as the pattern, and nearly always enough.
    if _MANY_DIGITS in text.translate(_DIGITS) and _LONG_INTEGER.search(text):
        for part in (text,) if _is_json(text) else BytesIO(text):
            if part.strip():
                json.loads(part, parse_int=_integer)


def _utf8(body: bytes) -> bytes:
    """The body in UTF-8 without a byte order mark."""
    for mark, encoding in _BOMS:
        if body.startswith(mark):
            return _recode(body[len(mark) :], encoding)
    if b"\0" in body[:4]:
        return _recode(body, "utf-16-be" if body[:1] == b"\0" else "utf-16-le")
    return body


def _recode(body: bytes, encoding: str) -> bytes:
    if encoding == "utf-8" or b"\0" not in body:  # `curl -d` drops NUL bytes
        return body
    try:
        return body.decode(encoding).encode()
    except UnicodeError:
        raise MalformedPayload(
            "The body has the byte order mark of UTF-16, but is not UTF-16.",
            "With `curl -d` line ends and NUL bytes are lost; use `curl --data-binary`.",
        ) from None


def _split(text: bytes, max_documents: int) -> Iterator[Document]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        yield from _lines(text, error, max_documents)
        return
    if not isinstance(value, list):
        yield Document(value)
        return
    if len(value) > max_documents:
        raise PayloadTooLarge(f"The array has more than {max_documents} documents.", "Send it in parts.")
    if not value:
        raise EmptyPayload("The array is empty.", "Send at least one document.")
    yield from (Document(element, index=index) for index, element in enumerate(value))


def _lines(text: bytes, error: orjson.JSONDecodeError, max_documents: int) -> Iterator[Document]:
    lines = ((number, line) for number, line in enumerate(BytesIO(text), 1) if line.strip())
    first = next(lines)
    second = next(lines, None)
    if second is None or not _is_document(first[1]):
        raise _complaint(text, error)
    end = text.rstrip()
    for count, (number, line) in enumerate(chain((first, second), lines), 1):
        if count > max_documents:
            raise PayloadTooLarge(f"The body has more than {max_documents} lines.", "Send it in parts.")
        try:
            yield Document(orjson.loads(line), line=number)
        except orjson.JSONDecodeError as bad:
            last = end.endswith(line.rstrip())
            kind = TruncatedPayload if last and _cut(line) else MalformedPayload
            raise kind(f"Line {number} is not a JSON document: {bad.msg}.", line=number) from None


def _is_document(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _complaint(text: bytes, error: orjson.JSONDecodeError) -> MalformedPayload:
    warning = _WARNING.match(text)
    if warning and text[warning.end() :].lstrip()[:1] in (b"{", b"["):
        first = warning[0].splitlines()[0].strip()[:120].decode(errors="replace")
        return MalformedPayload(
            f"A message stands before the document: {first!r}.",
            "Post standard output alone: leave out `2>&1`.",
            line=1,
        )
    if text.lstrip()[:1] not in (b"{", b"["):
        start = text.lstrip()[:60].decode(errors="replace")
        return MalformedPayload(f"The body is not a JSON document; it begins with {start!r}.", line=1)
    if _cut(text):
        return TruncatedPayload(line=error.lineno)
    return MalformedPayload(
        f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).",
        line=error.lineno,
    )


def _cut(text: bytes) -> bool:
    """Whether brackets or a string are still open at the end of the text."""
    depth, in_string, escaped = 0, False, False
    for byte in text:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"{[":
            depth += 1
        elif byte in b"}]":
            depth -= 1
    return in_string or depth > 0


def _check(document: Document, max_depth: int) -> None:
    """Refuse what is nested too deep to be worked on."""
    level = [document.value]
    for _ in range(max_depth):
        level = [child for value in level for child in _inside(value) if type(child) in (dict, list)]
        if not level:
            return
    raise UnstorablePayload(f"The document is nested deeper than {max_depth} levels.", line=document.line)


def _inside(value: JSON) -> Iterable[JSON]:
    if type(value) is dict:
        return value.values()
    return value if type(value) is list else ()


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) < LONGEST_INTEGER else 2**64
    if not -(2**63) <= value < 2**64:
        raise UnstorablePayload(f"The integer {digits[:40]} has more than 64 bits.")
    return value

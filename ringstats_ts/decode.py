"""From the bytes of a body to the documents in it: gzip, byte order marks, JSON, NDJSON, arrays.

Pure. The Content-Type plays no part: curl and wget send whatever they like.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import orjson

from ringstats_ts.errors import (
    EmptyPayload,
    MalformedPayload,
    PayloadError,
    PayloadTooLarge,
    TruncatedPayload,
    UnstorablePayload,
)
from ringstats_ts.limits import Limits, is_cut, refuse_beyond, refuse_long_integers, surely_within
from ringstats_ts.model import JSON, Log

GZIP_MAGIC = b"\x1f\x8b"
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_UNMARKED = {"0x0x": "utf-16-be", "0x": "utf-16-be", "x0x0": "utf-16-le", "x0": "utf-16-le"}
"""The encoding by where the first bytes are zero."""

_WARNING = re.compile(rb"\A(?:[ \t]*+(?:Warning|#|//)[^\n]*+\n)+", re.IGNORECASE)
_LINE = re.compile(rb"[^ \t\r\n][^\n]*+")

OBJECT_VALUES = 20
"""What an object counts for: it may be a row, which costs as much. Tools print one for some 20 values."""


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON value of a body, and where it stood: the line of NDJSON or index of an array.

    A body that is a log is one document, its value the log. `text` and `error` are for those
    that are taken one by one (`separate_documents`).
    """

    value: JSON | Log
    line: int | None = None
    index: int | None = None
    text: bytes | None = None
    error: PayloadError | None = None

    def locate(self, error: PayloadError) -> None:
        """Say in an error where in the body the document stood."""
        error.line = error.line or self.line
        if self.index is not None:
            error.pointer = f"/{self.index}{error.pointer or ''}"


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


def as_log(body: bytes) -> Log:
    """The body as a log, which it may be or not: its text without a byte order mark.

    Nor with the NULs in front that a file has which was emptied while its writer went on.
    """
    return Log(_utf8(body).lstrip(b"\0"))


def in_utf8(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a text in UTF-8, without a byte order mark.

    Raises
    ------
    MalformedPayload
        where it began as UTF-16, and does not go on so.
    """
    left = iter(pieces)
    first = next(left, b"")
    encoding, mark = _encoding_of(first)
    if encoding == "utf-8":
        yield first[mark:]
        yield from left
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in chain((first[mark:],), left):
            yield decoder.decode(piece).encode()
        decoder.decode(b"", final=True)
    except UnicodeError:
        raise _no_utf16() from None


def _encoding_of(head: bytes) -> tuple[str, int]:
    """The encoding of what begins so, and the length of its byte order mark."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding, len(mark)
    # Both JSON and logs begin with two characters of ASCII.
    zeros = "".join("x" if byte else "0" for byte in head[:4])
    return _UNMARKED.get(zeros, "utf-8"), 0


def documents(
    body: bytes,
    *,
    max_documents: int,
    max_depth: int = 64,
    max_values: int = 1_000_000,
    max_key_bytes: int = 512,
    max_string_bytes: int = 64 * 1024,
) -> list[Document]:
    """The documents of a body: one, one a line (NDJSON), or the elements of an array.

    Of equal keys in one object the last one counts, as for every other reader of JSON
    (RFC 8259, section 4): to look for them takes longer than all the rest.

    Raises
    ------
    EmptyPayload, TruncatedPayload, MalformedPayload, UnstorablePayload, PayloadTooLarge
    """
    limits = Limits(max_depth, max_key_bytes, max_string_bytes)
    text = _text(body, max_values)
    found = list(_split(text, max_documents))
    if not surely_within(text, limits):
        for document in found:
            _refuse_beyond(document, limits)
    return found


def separate_documents(
    body: bytes,
    *,
    max_documents: int,
    max_depth: int = 64,
    max_values: int = 1_000_000,
    max_key_bytes: int = 512,
    max_string_bytes: int = 64 * 1024,
) -> list[Document]:
    """The documents as `documents` gives them, each by itself: with its text, and a bad one with its error.

    Raises
    ------
    EmptyPayload, TruncatedPayload, MalformedPayload, PayloadTooLarge
        of a body that is not several documents, or of too many.
    """
    limits = Limits(max_depth, max_key_bytes, max_string_bytes)
    return [_checked(document, limits) for document in _separated(_text(body, max_values), max_documents)]


def refuse_rounded(body: bytes) -> None:
    """Refuse a body with an integer of more than 64 bits: the parser has rounded it.

    Raises
    ------
    UnstorablePayload
    """
    refuse_long_integers(_utf8(body))


def _text(body: bytes, max_values: int) -> bytes:
    """The body in UTF-8, if it is neither empty nor of too many values."""
    text = _utf8(body)
    if not text.strip():
        raise EmptyPayload
    # A value takes far more memory than its text: they are counted before they are made.
    # Each one but the first has a comma or a bracket before it, and takes two bytes with that.
    if len(text) >= 2 * max_values and any(text.count(mark) >= max_values for mark in (b",", b"[")):
        raise PayloadTooLarge(f"The body has more than {max_values} values.", "Send it in parts.")
    most = max_values // OBJECT_VALUES
    if len(text) > 2 * most and text.count(b"{") > most:
        raise PayloadTooLarge(f"The body has more than {most} objects.", "Send it in parts.")
    return text


def _utf8(body: bytes) -> bytes:
    """The body in UTF-8 without a byte order mark."""
    encoding, mark = _encoding_of(body)
    return _recode(body[mark:] if mark else body, encoding)


def _recode(body: bytes, encoding: str) -> bytes:
    if encoding == "utf-8" or b"\0" not in body:  # `curl -d` drops NUL bytes
        return body
    try:
        return body.decode(encoding).encode()
    except UnicodeError:
        raise _no_utf16() from None


def _no_utf16() -> MalformedPayload:
    return MalformedPayload(
        "The body has the byte order mark of UTF-16, but is not UTF-16.",
        "With `curl -d` line ends and NUL bytes are lost; use `curl --data-binary`.",
    )


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
        raise PayloadTooLarge(f"The array has more than {max_documents} elements.", "Send it in parts.")
    if not value:
        raise EmptyPayload("The array is empty.", "Send at least one document.")
    yield from (Document(element, index=index) for index, element in enumerate(value))


def _lines(text: bytes, error: orjson.JSONDecodeError, max_documents: int) -> Iterator[Document]:
    lines = _numbered_lines(text)
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
            raise _bad_line(number, line, bad, last=end.endswith(line.rstrip())) from None


def _numbered_lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    number, seen = 1, 0
    for match in _LINE.finditer(text):
        number += text.count(b"\n", seen, match.start())
        seen = match.start()
        yield number, match[0]


def _bad_line(number: int, line: bytes, bad: orjson.JSONDecodeError, *, last: bool) -> MalformedPayload:
    kind = TruncatedPayload if last and is_cut(line) else MalformedPayload
    return kind(f"Line {number} is not a JSON document: {bad.msg}.", line=number)


def _separated(text: bytes, max_documents: int) -> list[Document]:
    # One more than may be is enough to know.
    lines = [] if _is_json(text) else list(islice(_numbered_lines(text), max_documents + 1))
    if len(lines) > max_documents:
        raise PayloadTooLarge(f"The body has more than {max_documents} lines.", "Send it in parts.")
    if len(lines) > 1 and any(_is_document(line) for _, line in lines):
        return [_one_line(number, line, last=number == lines[-1][0]) for number, line in lines]
    found = list(_split(text, max_documents))
    texts = [text] if found[0].index is None else _elements(text, len(found))
    return [replace(document, text=part) for document, part in zip(found, texts, strict=True)]


def _one_line(number: int, line: bytes, *, last: bool) -> Document:
    try:
        return Document(orjson.loads(line), line=number, text=line)
    except orjson.JSONDecodeError as bad:
        return Document(None, line=number, text=line, error=_bad_line(number, line, bad, last=last))


def _elements(text: bytes, count: int) -> Iterator[bytes]:
    """The texts of an array's elements."""
    array = text.decode()
    end = array.index("[") + 1
    for _ in range(count):
        start = end
        while array[start] in ", \t\r\n":
            start += 1
        try:
            _, end = json.JSONDecoder().raw_decode(array, start)
        except RecursionError:
            raise UnstorablePayload("A document of the array is nested too deep.") from None
        yield array[start:end].encode()


def _checked(document: Document, limits: Limits) -> Document:
    try:
        if document.text is None or not surely_within(document.text, limits):
            refuse_beyond(document.value, limits, document.line)
    except PayloadError as error:
        return replace(document, error=error)
    return document


def _refuse_beyond(document: Document, limits: Limits) -> None:
    try:
        refuse_beyond(document.value, limits, document.line)
    except PayloadError as error:
        document.locate(error)
        raise


def _is_document(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _complaint(text: bytes, error: orjson.JSONDecodeError) -> MalformedPayload:
    warning = _WARNING.match(text)
    if warning and text[warning.end() :].lstrip()[:1] in (b"{", b"["):
        return MalformedPayload(
            "A message stands before the document.",
            "Post standard output alone: leave out `2>&1`.",
            line=1,
        )
    if text.lstrip()[:1] not in (b"{", b"["):
        return MalformedPayload(
            f"The body is neither JSON nor a log that is known; it begins with {beginning(text)}.",
            "Send it unchanged, with `curl --data-binary @-`; `tsstats sources` lists what is accepted.",
            line=1,
        )
    if is_cut(text):
        return TruncatedPayload(line=error.lineno)
    return MalformedPayload(
        f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).",
        line=error.lineno,
    )


def beginning(text: bytes) -> str:
    """What a text begins with, without a word of it: it may be a private key."""
    first = text.lstrip()[:1]
    if first == b"<":
        return "`<`, as HTML and XML do"
    if first.isalpha():
        return "letters"
    if first.isdigit():
        return "digits"
    return "a mark" if first.isascii() and first.decode().isprintable() else "bytes that are not ASCII text"


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True

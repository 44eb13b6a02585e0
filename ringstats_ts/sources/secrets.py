"""Take secrets out of what is about to be kept: documents, and bodies that may not even be JSON.

What is a secret, `ringstats_ts.shapes` says. A status document may also carry a login address
(`AuthURL`: whoever opens it decides whose node this becomes).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat

import orjson

from ringstats_ts.model import JSON
from ringstats_ts.shapes import INNER, REDACTED, is_loose, is_option, is_secret_name, may_hold, redact_text
from ringstats_ts.sources.canonical import canonical

_NAMES = ("name", "key", "field", "header", "variable", "parameter", "option")
"""Members that may name what another one holds, as in `{"name": "DB_PASSWORD", "value": "..."}`."""

_BARE_KEY = re.compile(r"[0-9a-f]{32,}")
"""Headscale's pre-authentication keys had no prefix until 0.28."""

_LOGIN_ADDRESS = "AuthURL"

_LEAST = 12
"""A shorter text of letters and digits alone is not a secret by itself."""

_SHORT = 4

_DEEPEST = 4
"""JSON in a string in JSON, and so on; what may hold a secret deeper than that is blanked as a whole."""


def without_secrets(document: JSON, encoded: bytes) -> JSON:
    """Give the document without its secrets; `encoded` is its canonical JSON.

    A non-empty AuthURL is dropped, the text of other secrets blanked; numbers stay. A document
    without secrets is given back as it is, not copied.
    """
    return _clean(document, _OPEN) if may_hold_secrets(encoded) else document


def screened(document: JSON) -> tuple[JSON, bytes]:
    """The document without its secrets, and the canonical JSON of that.

    A hash is taken of the latter: from one with a short password in it, that could be guessed.

    Raises
    ------
    UnstorablePayload
    """
    encoded = canonical(document)
    cleaned = without_secrets(document, encoded)
    return cleaned, encoded if cleaned is document else canonical(cleaned)


def may_hold_secrets(encoded: bytes) -> bool:
    """Whether there may be a secret in JSON as our encoder writes it, or in lines of text."""
    return may_hold(encoded) or (b'"key"' in encoded and _BARE_KEY_BYTES.search(encoded) is not None)


def keepable(body: bytes) -> bytes | None:
    """What may be kept of a refused body: its text without secrets, or None where it cannot be read.

    Compressed or encoded bodies hide what is in them; they are not kept.
    """
    return redact(body) if body.lstrip(_BEFORE_TEXT)[:1] in (b"{", b"[") else None


def redact(body: bytes) -> bytes:
    """Blank the secrets in a body as it was received: UTF-8, UTF-16 or UTF-32, whole or broken.

    The rest stays as it is, to the byte, so that it can be sent the same way in again.
    """
    encoding, mark = _encoding_of(body)
    text = body[len(mark) :]
    cleaned = _redacted(text, encoding)
    # What calls itself UTF-16 may not be it, or in part only.
    plain = cleaned.replace(b"\0", b"")
    if (cleaned_plain := _redacted(plain, "utf-8")) != plain:
        return cleaned_plain
    return body if cleaned == text else mark + cleaned


def _redacted(body: bytes, encoding: str) -> bytes:
    try:
        text = body.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeError:
        return body
    cleaned = _clean_text(text)
    return body if cleaned == text else cleaned.encode(encoding, "surrogateescape")


def _encoding_of(body: bytes) -> tuple[str, bytes]:
    """The encoding that a body begins in, and its byte order mark."""
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return encoding, mark
    zeros = "".join("x" if byte else "0" for byte in body[:4])
    return _UNMARKED.get(zeros, "utf-8"), b""


@dataclass(slots=True)
class _Place:
    """An object or an array, and what its name told: `secret` of its texts, `named` of the names in it.

    `value` is whether a member of it said that the value beside it is a secret.
    """

    secret: bool = False
    loose: bool = False
    value: bool = False

    def is_secret(self, name: str, member: JSON = None) -> bool:
        """Whether the member of this name is a secret."""
        inner = name.lower() in INNER
        bare_key = name == "key" and isinstance(member, str) and _BARE_KEY.fullmatch(member) is not None
        return (
            (self.secret and not self.loose)
            or (inner and (self.loose or (self.value and name.lower() not in _NAMES)))
            or bare_key
            or is_secret_name(name)
        )

    def told(self, name: str, member: JSON) -> bool:
        """Whether the member names a secret, which is in the one beside it."""
        return name.lower() in _NAMES and isinstance(member, str) and is_secret_name(member)

    def beneath(self, name: str, secret: bool) -> _Place:
        """The place of an object or an array that is the member of this name."""
        return _Place(secret, loose=secret and is_loose(name) and not (self.secret and not self.loose))


_OPEN = _Place()


def _clean(value: JSON, place: _Place) -> JSON:
    """The value without secrets, itself where there are none."""
    if isinstance(value, dict):
        return _clean_object(value, place)
    if isinstance(value, list):
        return _clean_array(value, place)
    if not isinstance(value, str):
        return value
    return REDACTED if place.secret and value else _clean_text(value)


def _clean_object(value: Mapping[str, JSON], outer: _Place) -> JSON:
    place = _Place(outer.secret, outer.loose, any(outer.told(name, member) for name, member in value.items()))
    cleaned = {
        _clean_text(name): _clean(member, place.beneath(name, place.is_secret(name, member)))
        for name, member in value.items()
        if name != _LOGIN_ADDRESS or member in ("", None)
    }
    same = len(cleaned) == len(value) and all(
        cleaned.get(name, cleaned) is member for name, member in value.items()
    )
    return value if same else cleaned


def _clean_array(value: list[JSON], place: _Place) -> JSON:
    cleaned = [
        REDACTED
        if isinstance(element, str) and isinstance(before, str) and is_option(before)
        else _clean(element, place)
        for before, element in zip((None, *value), value, strict=False)
    ]
    return value if all(map(_is, cleaned, value)) else cleaned


def _is(one: JSON, other: JSON) -> bool:
    return one is other


def _clean_text(text: str, level: int = 0) -> str:
    """The text without secrets. It may be JSON, whole or broken, or lines; `level` is how deep in such."""
    if len(text) < _LEAST and (len(text) < _SHORT or text.isalnum()):
        return text
    plain = _ESCAPED_ASCII.sub(_unescaped_ascii, text) if "\\" in text else text
    if not may_hold_secrets(plain.encode(errors="replace")):
        return text
    if level > _DEEPEST:
        return REDACTED
    cleaned = _cleaned(plain, level)
    return text if cleaned == plain else cleaned


def _cleaned(text: str, level: int) -> str:
    if _is_json(text):
        return _scanned(text, level)
    begins_like_json = text.lstrip()[:1] in ("{", "[")
    if "\n" in text and (not begins_like_json or _is_object(text.lstrip().partition("\n")[0])):
        return "".join(map(_scanned_or_redacted, _pieces(text), repeat(level)))
    return redact_text(_scanned(text, level) if begins_like_json else text)


def _scanned_or_redacted(piece: tuple[str, bool], level: int) -> str:
    text, is_object = piece
    return _scanned(text, level) if is_object else redact_text(text)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Lines that are whole objects, and what is between them."""
    between: list[str] = []
    for line in text.splitlines(keepends=True):
        if not _is_object(line):
            between.append(line)
            continue
        yield "".join(between), False
        between = []
        yield line, True
    yield "".join(between), False


def _is_object(text: str) -> bool:
    return text.lstrip()[:1] == "{" and _is_json(text)


def _is_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        orjson.loads(text.encode(errors="replace"))
    except orjson.JSONDecodeError:
        return False
    return True


def _scanned(text: str, level: int) -> str:
    """JSON, whole or broken, without secrets: string by string, so that all else stays as it was written."""
    return _Scanner(level + 1).cleaned(text) if '"' in text else text


class _Scanner:
    """Goes through JSON token by token; what is no JSON is passed over."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._places = [_Place()]
        self._member: tuple[str, bool] | None = None
        self._before = ""

    def cleaned(self, text: str) -> str:
        return "".join(map(self._token, _TOKEN.finditer(text)))

    def _token(self, match: re.Match[str]) -> str:
        token = match[0]
        if token[0] == '"':
            return self._name(match) if match["colon"] else self._string(match)
        if token in "[{":
            self._places.append(self._beneath())
        elif token in "]}":
            if len(self._places) > 1:
                self._places.pop()
        elif token != "," and not token.isspace() and not _NO_TEXT.fullmatch(token) and self._is_secret():
            token = f'"{REDACTED}"'
        if not token.isspace():
            self._member = None
        return token

    def _name(self, match: re.Match[str]) -> str:
        name = _unescaped(match["text"])
        self._member = (name, self._places[-1].is_secret(name))
        self._before = ""
        cleaned = _clean_text(name, self._level)
        return match[0] if cleaned == name else f'"{_escaped(cleaned)}{match["end"]}{match["colon"]}'

    def _string(self, match: re.Match[str]) -> str:
        text, place = _unescaped(match["text"]), self._places[-1]
        name = self._member[0] if self._member else ""
        bare_key = name == "key" and _BARE_KEY.fullmatch(text) is not None
        secret = self._is_secret() or bare_key or is_option(self._before)
        place.value = place.value or place.told(name, text)
        self._member, self._before = None, "" if name else text
        cleaned = REDACTED if secret and text else _clean_text(text, self._level)
        return match[0] if cleaned == text else f'"{_escaped(cleaned)}{match["end"]}'

    def _is_secret(self) -> bool:
        return self._member[1] if self._member else self._places[-1].secret

    def _beneath(self) -> _Place:
        place = self._places[-1]
        if self._member is not None:
            place = place.beneath(*self._member)
        self._before = ""
        return _Place(place.secret, place.loose)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(match: re.Match[str]) -> str:
    if match[1] is None:
        return _ESCAPES.get(match[2], match[2])
    return bytes.fromhex(match[1].replace("\\u", "")).decode("utf-16-be", "replace")


def _escaped(text: str) -> str:
    return orjson.dumps(text.encode(errors="replace").decode()).decode()[1:-1]


def _unescaped_ascii(match: re.Match[str]) -> str:
    """The character of an escape that need not be one."""
    if match[1] is None:
        return "/" if match[2] == "/" else match[0]
    character = chr(int(match[1], 16))
    return match[0] if character in '"\\\x7f' else character


_TOKEN = re.compile(
    r'"(?P<text>[^"\\]*(?:\\.[^"\\]*)*)(?P<end>"?)(?P<colon>\s*:)?|[{}\[\],]|[^"{}\[\],\s]+|\s+', re.DOTALL
)
_NO_TEXT = re.compile(r"-?[0-9][0-9.eE+-]*|true|false|null|:|\\")
_ESCAPE = re.compile(r"((?:\\u[0-9A-Fa-f]{4})+)|\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_ESCAPED_ASCII = re.compile(r"\\(?:u00([2-7][0-9A-Fa-f])|(.))", re.DOTALL)
_BARE_KEY_BYTES = re.compile(rb"\"key\"\s*:\s*\"[0-9a-f]{32}")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNMARKED = {"0x0x": "utf-16-be", "x0x0": "utf-16-le", "000x": "utf-32-be", "x000": "utf-32-le"}
_BEFORE_TEXT = b" \t\r\n\x00\xef\xbb\xbf\xff\xfe"
"""White space, and byte order marks with the zeros of UTF-16."""

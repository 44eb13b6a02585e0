"""Take secrets out of what is about to be kept.

A status document may carry a login address (`AuthURL`: whoever opens it decides
whose node this becomes), and any text may carry an authentication key. `without_secrets`
cleans a decoded document, `redact` a body that may not even be JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ringstats_ts.model import JSON

_REDACTED = "<redacted>"

# What is kept of the secret, and what the rest of it is made of.
_SECRETS = (
    ("tskey-", r"[A-Za-z0-9_-]+"),
    ("hskey-", r"[A-Za-z0-9_-]+"),
    ("login.tailscale.com/a/", r"[A-Za-z0-9_-]+"),
    ("/register/", r"[A-Za-z0-9_:-]{16,}"),
    # Our own tokens, which begin like this and have 59 more characters; cut off ones too.
    ("tss_", r"[A-Za-z0-9_]{16,}"),
)
# One of these is in every secret; few, because every document is searched for them.
_MARKERS = (b"skey-", b"login.tailscale.com/a/", b"/register/", b"tss_")
_IN_TEXT = re.compile("|".join(f"(?<={re.escape(head)}){tail}" for head, tail in _SECRETS))


def without_secrets(document: JSON, encoded: bytes) -> JSON:
    """Give the document without its secrets; `encoded` is its canonical JSON.

    A non-empty AuthURL is dropped; keys and login addresses inside other strings are
    masked. A document without secrets is given back as it is, not copied.
    """
    return _clean(document) if may_hold_secrets(encoded) else document


def may_hold_secrets(encoded: bytes) -> bool:
    """Whether there may be a secret in JSON as our encoder writes it."""
    return (
        encoded.count(b'"AuthURL":') > encoded.count(b'"AuthURL":""')
        or any(marker in encoded for marker in _MARKERS)
        or (b'"key":"' in encoded and _BARE_KEY.search(encoded) is not None)
    )


def keepable(body: bytes) -> bytes | None:
    """What may be kept of a refused body: its text without secrets, or None where it cannot be read.

    Compressed or encoded bodies hide what is in them; they are not kept.
    """
    return redact(body) if body.lstrip(_BEFORE_TEXT)[:1] in (b"{", b"[") else None


def redact_text(text: str) -> str:
    """Blank the secrets in a message."""
    return redact(text.encode(errors="replace")).decode(errors="replace")


def redact(body: bytes) -> bytes:
    """Blank the secrets in a body as it was received: UTF-8, UTF-16 or UTF-32, whole or broken."""
    body = _AUTH_URL_BYTES.sub(_mask_value, body)
    body = _BARE_KEY.sub(rb"\1<redacted>", body)
    for pattern, head in _BYTES:
        body = pattern.sub(_mask(head), body)
    return body


def _clean(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {
            _IN_TEXT.sub(_REDACTED, key): _REDACTED if _is_bare_key(key, member) else _clean(member)
            for key, member in value.items()
            if key != "AuthURL" or member in ("", None)
        }
    if isinstance(value, list):
        return [_clean(member) for member in value]
    return _IN_TEXT.sub(_REDACTED, value) if isinstance(value, str) else value


def _is_bare_key(key: str, member: JSON) -> bool:
    return key == "key" and isinstance(member, str) and re.fullmatch(r"[0-9a-f]{32,}", member) is not None


def _spread(text: str) -> bytes:
    """Match the text whatever the width of its characters, that is with NULs between them."""
    return rb"\x00*".join(re.escape(character).encode() for character in text)


def _mask(head: str) -> Callable[[re.Match[bytes]], bytes]:
    return lambda match: match[1].join(bytes([byte]) for byte in (head + _REDACTED).encode())


def _mask_value(match: re.Match[bytes]) -> bytes:
    rest = match[2][1:]
    zeros = rest[: len(rest) - len(rest.lstrip(b"\0"))]
    return match[1] + b"".join(bytes([byte]) + zeros for byte in _REDACTED.encode())


def _bytes_pattern(head: str, tail: str) -> re.Pattern[bytes]:
    character, times = re.fullmatch(r"(\[.*\])(.*)", tail).groups()  # type: ignore[union-attr]
    first, rest = re.escape(head[0]).encode(), _spread(head[1:])
    return re.compile(first + rb"(\x00*)" + rest + rb"(?:\x00*%b)%b" % (character.encode(), times.encode()))


_BYTES = tuple((_bytes_pattern(head, tail), head) for head, tail in _SECRETS)
_BEFORE_TEXT = b" \t\r\n\x00\xef\xbb\xbf\xff\xfe"
"""White space, and byte order marks with the zeros of UTF-16."""

_QUOTES = rb"[\\\"'\x00]*"
# Quoted in any way: as JSON, as JSON in a JSON string, as Python or YAML write it.
_AUTH_URL_BYTES = re.compile(
    rb"("
    + _spread("AuthURL")
    + _QUOTES
    + rb"[\x00\s]*[:=][\x00\s]*"
    + _QUOTES
    + rb")(?!"
    + _spread("null")
    + rb"[\x00\s]*[,}\]])((?:\\\x00*[/u]|[^\"'\\\s,}\]\x00])(?:\\\x00*[/u]|[^\"'\\\s,}\]])*)",
    re.IGNORECASE,
)
"""A login address that is not empty: what is masked is still one, so that the document parses as before."""

# Headscale's pre-authentication keys had no prefix until 0.28.
_BARE_KEY = re.compile(rb"(\"key\"\s*+:\s*+\")[0-9a-f]{32,}+(?=\")")

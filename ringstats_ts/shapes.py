"""What secrets look like: the one table of names and values that tell them, and their blanking in text.

Pure. No pattern takes more than linear time: a run of characters is begun at its first one only, and
what may be tried again is of bounded length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import re2

REDACTED = "<redacted>"

SpanOf = Callable[[re.Match[str]], tuple[int, int] | None]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STEMS = _names(
    """password passwd passphrase passcode secret credential authorization authurl authkey authtoken
    apikey privatekey privkey accesskey presharedkey sharedkey signingkey encryptionkey masterkey
    sessionkey sessionid sessid bearer"""
)
"""Anywhere in a name, apart from case and from all that is not a letter."""

WORDS = _names("""token tokens jwt cookie cookies signature signatures assertion pwd psk otp totp creds""")
"""A word of a name in `snake_case`, `kebab-case` or `camelCase`, or the end of one that is one word."""

LAST_WORDS = _names("pass pw auth session sessions sid sig")
"""The last word of a name: these are in too many names for more."""

RUN_TOGETHER = _names("dbpass userpass rootpass adminpass smtppass")
"""The end of a name that is one word."""

LOOSE = _names("auth session sessions cookies preauthkey")
"""Of these an object may hold more than secrets: the names of its members tell, and `INNER`."""

INNER = _names("key value data text raw")

PARAMETERS = _names("code state ticket samlresponse samlrequest")
"""Parameters of a URL that are secret besides, as is each whose name ends in `key`."""


class Shape(NamedTuple):
    """A value that tells by itself that it is a secret; what the pattern's group holds of it stays.

    `marker` is in each, in lower case: to look for it is faster.
    """

    marker: str
    pattern: re.Pattern[str]


def _shape(marker: str, pattern: str, flags: int = 0) -> Shape:
    return Shape(marker, re.compile(pattern, flags | re.ASCII))


VALUES = (
    _shape("skey-", r"([th]skey-)[A-Za-z0-9_-]+", re.IGNORECASE),
    _shape("login.tailscale.com/a/", r"(login\.tailscale\.com/a/)[A-Za-z0-9_-]+", re.IGNORECASE),
    _shape("/register/", r"(/register/)[A-Za-z0-9_:-]{16,}"),
    # Our own tokens, which begin like this and have 59 more characters; cut off ones too.
    _shape("tss_", r"(tss_)[A-Za-z0-9_]{16,}"),
    _shape(
        "bearer", r"(\bbearer[\s+]+)(?!tokens?\b|auth|\S{0,8}<redacted>)[A-Za-z0-9+/=._~-]+", re.IGNORECASE
    ),
    # Base64, not a word behind "basic".
    _shape(
        "basic", r"(\b(?:[Bb]asic|BASIC)[\s+]+)(?=[A-Za-z0-9+/]{0,99}[a-z0-9][A-Z0-9=])[A-Za-z0-9+/=]{6,}"
    ),
    _shape("akia", r"(AKIA)[A-Z0-9]{12,}"),
    _shape("asia", r"(ASIA)[A-Z0-9]{12,}"),
    _shape("k_live_", r"([prs]k_live_)[A-Za-z0-9]+"),
    _shape("k_test_", r"([prs]k_test_)[A-Za-z0-9]+"),
    _shape("whsec_", r"(whsec_)[A-Za-z0-9+/=]+"),
    *(_shape(f"gh{kind}_", rf"(gh{kind}_)[A-Za-z0-9]{{12,}}") for kind in "oprsu"),
    _shape("github_pat_", r"(github_pat_)[A-Za-z0-9_]+"),
    _shape("glpat-", r"(glpat-)[A-Za-z0-9_-]+"),
    _shape("xox", r"(xox[a-z]-)[A-Za-z0-9-]+"),
    _shape("xapp-", r"(xapp-)[A-Za-z0-9-]+"),
    _shape("aiza", r"(AIza)[A-Za-z0-9_-]{16,}"),
    _shape("ya29.", r"(ya29\.)[A-Za-z0-9_-]+"),
    _shape("gocspx-", r"(GOCSPX-)[A-Za-z0-9_-]+"),
    _shape("sk-", r"(\bsk-(?:ant-|proj-)?)[A-Za-z0-9_]{16}[A-Za-z0-9_-]*"),
    _shape("npm_", r"(npm_)[A-Za-z0-9]{16,}"),
    _shape("hvs.", r"(hvs\.)[A-Za-z0-9_-]{16,}"),
    # A JWT, or the beginning of one: base64 of `{"`.
    _shape("eyj", r"(eyJ)[A-Za-z0-9_-]{9,}(?:\.[A-Za-z0-9_-]*){0,4}"),
    _shape(
        "private key-----",
        r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).*?(?=-----END|\Z)",
        re.DOTALL,
    ),
)

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_LETTERS = re.compile(r"[^a-z]+")
_STEM = re.compile("|".join(STEMS))
_WORD = re.compile(rf"_(?:{'|'.join(WORDS)})_|_(?:{'|'.join(LAST_WORDS)})_$")
_END = re.compile(rf"(?:{'|'.join((*WORDS, *RUN_TOGETHER))})$")
_LONG_NAME = 200


def _needed(names: set[str]) -> tuple[str, ...]:
    """Those that no other one is in."""
    return tuple(
        name for name in sorted(names) if not any(other != name and other in name for other in names)
    )


_VALUE_MARKERS = tuple(shape.marker for shape in VALUES)
_NAMED = _needed({*STEMS, *WORDS, *LAST_WORDS, "identifiedby"})
_NAMED_TEXT = (*_NAMED, "key", "identified")
_NO_LOGIN = b'"AuthURL":""', b'"AuthURL":null'
"""Members that have the name of a secret in every status document, and hold none."""


def _scanner() -> Any:
    """One pattern for all that there may be of secrets, of an engine that passes over a text once.

    Letters of a name may have between them what is neither a letter nor ends a name; a character of ASCII
    may be written in another way, in a URL or in JSON within JSON.
    """
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.case_sensitive = False
    options.max_mem = 64 * 1024 * 1024
    literal = [*_VALUE_MARKERS, *(f"{name}=" for name in (*PARAMETERS, "key"))]
    named = ['[^a-z",{}]*'.join(name) for name in _NAMED]
    others = [r"://[^/?#@:\s\"]*:[^\s\"]*@", r"%[2-7][0-9a-f]", r"\\u00[2-7]"]
    return re2.compile("|".join([*map(re2.escape, literal), *named, *others]).encode(), options)


_SCANNER = _scanner()

_URL = re.compile(r"://([^\s\"'<>\\]+)")
_PATH = re.compile(r"[^?#]*")
_CHUNK = re.compile(r"[^\s\"'<>]+")
_PARAMETER = re.compile(r"(?:^|(?<=[?&;#/\s]))([^=?&;#/\s]+)=")
_PARAMETER_VALUE = re.compile(rf"(?:[^&;#\s<]|{REDACTED})+")
_ENCODED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_UNSAFE = re.compile(r"[^!-$&-~]+")
_SHORT_NUMBER = re.compile(r"[0-9]{1,5}")
_DECODINGS = 3

_NAME = re.compile(r"(?<![\w.\[\]-])([\w.\[\]-]+)([\"'\\]*\s*(?::=|=>|==?|:)\s*)")
_NAME_ALONE = re.compile(r"(?<![\w.\[\]-])([A-Za-z_\[-][\w.\[\]-]*)[\"'\\]*\s*:(?!//)")
# In quotation marks, escaped ones too, or a word; behind the name of its scheme.
_VALUE = re.compile(
    r"\\*\"(?P<double>(?:[^\"\\]|\\[^\"])*)|'(?P<single>[^']*)"
    r"|(?P<word>(?:(?:bearer|basic|digest|token|apikey)\s+)?(?:[^\s\"'\\,;&}\]<>]|<redacted>)+)",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"true|false|null|none|on|off|yes|no|unset|-|\*+", re.IGNORECASE)
_HEADER = re.compile(r"(\b(?:authorization|cookie2?)\s*:\s*)[^\s\"'<][^\r\n\"'<]*", re.IGNORECASE)
_OPTION = re.compile(r"(?<![^\s\"'\[,])(--?[A-Za-z][\w-]*)(\s+)[^\s\"'<>-][^\s\"'<>]*")
_QUOTED = re.compile(r"(\b(?:password|passphrase|identified\s+by)\s+')[^']+", re.IGNORECASE)
_ELEMENT = re.compile(r"(<([\w:.-]+)(?=[\s>])[^<>]*>)[^<>]+")
_PROSE = 16
"""Behind a colon and a space stands a sentence as often as a secret; that is as long, or has a digit."""


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret."""
    return _is_secret_name(name) if len(name) <= _LONG_NAME else _is_secret_name.__wrapped__(name)


@lru_cache(maxsize=4096)
def _is_secret_name(name: str) -> bool:
    words = f"_{_NO_LETTERS.sub('_', _CAMEL.sub('_', name).lower())}_".replace("__", "_")
    letters = words.replace("_", "")
    return bool(_STEM.search(letters) or _WORD.search(words) or _END.search(letters))


def is_loose(name: str) -> bool:
    """Whether in an object of this secret name the names of the members tell what is secret."""
    return _NO_LETTERS.sub("", name.lower()).endswith(LOOSE)


def may_hold(encoded: bytes) -> bool:
    """Whether there may be a secret in a text or in JSON: most have none, which is found out fast."""
    for without in _NO_LOGIN:
        encoded = encoded.replace(without, b"")
    return _SCANNER.search(encoded) is not None


def redact_text(text: str) -> str:
    """Blank the secrets in a text: what tells by itself that it is one, and what stands behind its name."""
    if not may_hold(text.encode(errors="replace")):
        return text
    cleaned = _redacted(text)
    if any(mark in cleaned for mark in "?&%#;"):
        return _CHUNK.sub(lambda match: _in_url(match[0], _DECODINGS), cleaned)
    return cleaned


def redact_url(text: str, decodings: int = _DECODINGS) -> str:
    """Blank the secrets in a URL, or a part of one: parameters, logins, and what is percent-encoded too."""
    return _in_url(_redacted(text) if _tells_url(text) else text, decodings)


def _in_url(text: str, decodings: int) -> str:
    if "=" in text and any(map(_is_parameter, _PARAMETER.findall(text))):
        text = _spans_blanked(text, _PARAMETER, _parameter_span)
    if decodings and "%" in text and (decoded := unquoted(text)) != text:
        inner = redact_url(decoded, decodings - 1)
        if inner != decoded:
            return _UNSAFE.sub(_quoted, inner)
    return text


def _tells_url(text: str) -> bool:
    """Whether there may be a secret in a text, apart from parameters: faster than `may_hold` on a line."""
    lowered = text.lower()
    return (
        any(map(lowered.__contains__, _VALUE_MARKERS))
        or ("@" in text and "://" in text)
        or (":" in text and any(map(is_secret_name, _NAME_ALONE.findall(text))))
        or ((" " in text or "<" in text) and any(map(lowered.__contains__, _NAMED_TEXT)))
    )


def _is_parameter(name: str) -> bool:
    lowered = name.lower()
    return lowered in PARAMETERS or _NO_LETTERS.sub("", lowered).endswith("key") or is_secret_name(name)


def unquoted(text: str) -> str:
    """The text without percent-encoding."""
    return _ENCODED.sub(lambda match: bytes.fromhex(match[0].replace("%", "")).decode(errors="replace"), text)


def is_option(text: str) -> bool:
    """Whether it is an option of a command whose value, the next word, is a secret."""
    return text[:1] == "-" and is_secret_name(text) and "=" not in text and " " not in text


def _quoted(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="replace"))


def _redacted(text: str) -> str:
    """The text without what tells by itself, without logins, and without what stands behind its name."""
    lowered = text.lower()
    if ":" in text:
        text = _HEADER.sub(rf"\1{REDACTED}", text)
    for marker, pattern in VALUES:
        if marker in lowered:
            text = pattern.sub(rf"\1{REDACTED}", text)
    if "://" in text and "@" in text:
        text = _URL.sub(_without_login, text)
    if "=" in text or ":" in text:
        text = _spans_blanked(text, _NAME, _named_span)
    if "-" in text and " " in text:
        text = _OPTION.sub(_without_value, text)
    if "'" in text:
        text = _QUOTED.sub(rf"\1{REDACTED}", text)
    return _ELEMENT.sub(_without_content, text) if "<" in text and ">" in text else text


def _spans_blanked(text: str, names: re.Pattern[str], span_of: SpanOf) -> str:
    """Blank what stands behind the names, where `span_of` says that it is a secret: from where to where."""
    parts, end = [], 0
    for match in names.finditer(text):
        span = span_of(match) if match.start() >= end else None
        if span is not None:
            parts += [text[end : span[0]], REDACTED]
            end = span[1]
    return "".join((*parts, text[end:])) if parts else text


def _named_span(match: re.Match[str]) -> tuple[int, int] | None:
    if not is_secret_name(match[1]):
        return None
    value = _VALUE.match(match.string, match.end())
    if value is None or value.lastgroup is None or not (text := value[value.lastgroup]):
        return None
    is_word = value.lastgroup == "word"
    if is_word and (_PLAIN.fullmatch(text) or text.startswith("//")):
        return None
    if is_word and re.fullmatch(r":\s+", match[2]) and not _is_told(match[1], text):
        return None
    return value.span(value.lastgroup)


def _is_told(name: str, word: str) -> bool:
    """Whether a word behind a colon is a secret rather than the beginning of a sentence."""
    letters = _NO_LETTERS.sub("", name.lower())
    return _STEM.search(letters) is not None or len(word) >= _PROSE or any(map(str.isdigit, word))


def _parameter_span(match: re.Match[str]) -> tuple[int, int] | None:
    value = _PARAMETER_VALUE.match(match.string, match.end())
    if value is None or not _is_parameter(match[1]):
        return None
    is_number = match[1].lower() in PARAMETERS and _SHORT_NUMBER.fullmatch(value[0])
    return None if is_number else value.span()


def _without_login(match: re.Match[str]) -> str:
    """The URL without its password, which may have a slash in it if the sender knew no better."""
    before = _PATH.match(match[1])
    end = match[1].rfind("@", 0, before.end() if before and "@" in before[0] else None)
    login, rest = match[1][: max(end, 0)], match[1][end:]
    user, colon, password = login.partition(":")
    port, slash, _ = password.partition("/")
    if not colon or password in ("", "password") or "/" in user or (slash and port.isdigit()):
        return match[0]
    return f"://{user}:{REDACTED}{rest}"


def _without_value(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{REDACTED}" if is_secret_name(match[1]) else match[0]


def _without_content(match: re.Match[str]) -> str:
    return f"{match[1]}{REDACTED}" if is_secret_name(match[2]) else match[0]

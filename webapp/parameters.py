"""What a sender says beside the body, in the query or in headers; every value is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from flask import Request

from ringstats_ts.errors import BadParameter
from ringstats_ts.shapes import redact_text
from ringstats_ts.times import parse_time

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_WORD = re.compile(r"[A-Za-z]{1,12}")
_KNOWN = {name: f"Ingest-{name.title()}" for name in ("host", "time", "replace", "partial")}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the sender says: fields as in `ringstats_ts.model.Payload`."""

    host: str | None = None
    time: datetime | None = None
    replace: bool = False
    partial: bool = False
    key: str | None = None


def parameters(request: Request) -> Parameters:
    """Read the parameters of an ingest request.

    Raises
    ------
    BadParameter
        also for a name that is not known: a misspelt `time` would store a wrong one.
    """
    unknown = sorted(set(request.args) - set(_KNOWN))
    if unknown:
        # A name that is one word of letters is a slip of the pen; all else may be a token.
        named = f" {unknown[0]!r}" if _WORD.fullmatch(unknown[0]) else " of that name"
        raise BadParameter(f"There is no parameter{named}.", f"Known are: {', '.join(sorted(_KNOWN))}.")
    host, time = _value(request, "host"), _value(request, "time")
    return Parameters(
        host=None if host is None else _host(host),
        time=None if time is None else parse_time(time),
        replace=_switch(request, "replace"),
        partial=_switch(request, "partial"),
        key=_key(request.headers.get("Idempotency-Key")),
    )


def _value(request: Request, name: str) -> str | None:
    header = _KNOWN[name]
    # gunicorn puts a header that comes twice together with a comma.
    sent = [text for line in request.headers.getlist(header) for text in _unicode(line).split(",")]
    given = {text.strip() for text in (*request.args.getlist(name), *sent)}
    if len(given) > 1:
        raise BadParameter(
            f"`{name}` is given twice, with different values.", f"Give `?{name}=` or `{header}:`, not both."
        )
    return given.pop() if given else None


def _unicode(header: str) -> str:
    """A header as its sender wrote it: WSGI gives each byte as a character."""
    return header.encode("latin-1").decode(errors="replace")


def _host(text: str) -> str:
    # What is no UTF-8 arrives as U+FFFD: hosts of different names would be one.
    # Nor is a token in its place to be kept.
    if not text or len(text) > 253 or not text.isprintable() or "\ufffd" in text or redact_text(text) != text:
        raise BadParameter(
            "The `host` cannot be used.", "Write a name of at most 253 characters, such as `host=web-1`."
        )
    return text


def _switch(request: Request, name: str) -> bool:
    text = _value(request, name)
    if text is None:
        return False
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise BadParameter(f"`{name}` cannot be used.", f"Write `{name}=1` or leave it out.")
    return text.lower() in ("1", "true", "yes", "on")


def _key(text: str | None) -> str | None:
    if text is not None and (not _KEY.fullmatch(text) or redact_text(text) != text):
        raise BadParameter(
            "The Idempotency-Key cannot be used.", "Use 1 to 255 visible ASCII characters, such as a UUID."
        )
    return text

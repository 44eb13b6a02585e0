"""The payload formats, one module each, and how to tell them apart.

Sources are pure: no clock, network, environment or database.
"""

from __future__ import annotations

from heapq import nsmallest

from ringstats_ts.errors import UnknownSource
from ringstats_ts.model import JSON, Source
from ringstats_ts.sources.tailscale import TAILSCALE

SOURCES: tuple[Source, ...] = (TAILSCALE,)
"""Every format, in the order in which they are tried."""

_SHOWN_KEYS = 5


def detect(document: JSON) -> Source:
    """Find the source that a document is for.

    Raises
    ------
    UnknownSource
        where there is none; the message says what the document looks like.
    """
    for source in SOURCES:
        if source.detect(document):
            return source
    raise UnknownSource(
        f"The document is of no kind that this service knows: it looks like {describe(document)}."
    )


def by_name(name: str) -> Source:
    """Find a source by its name.

    Raises
    ------
    UnknownSource
        where no source has that name.
    """
    for source in SOURCES:
        if source.name == name:
            return source
    raise UnknownSource(f"There is no source named {name!r}.")


def describe(document: JSON) -> str:
    """Say in a few words what a document looks like."""
    if isinstance(document, dict):
        return _describe_object(document)
    if isinstance(document, list):
        return f"an array of {len(document)}"
    return "null" if document is None else f"a bare {_TYPES[type(document)]}"


_TYPES: dict[type, str] = {str: "string", bool: "true or false", int: "number", float: "number"}


def _describe_object(document: dict[str, JSON]) -> str:
    if isinstance(document.get("devices"), list):
        return "an answer of the Tailscale devices API"
    if any(key.startswith("pattoo_") for key in document):
        return "the post of a pattoo agent"
    if "log_time" in document and "client" in document:
        return "a line of a ringserver log"
    if _is_headscale(document):
        return "an answer of the Headscale API"
    if not document:
        return "an empty object"
    shown = ", ".join(repr(key[:40]) for key in nsmallest(_SHOWN_KEYS, document))
    return f"an object with the keys {shown}{', …' if len(document) > _SHOWN_KEYS else ''}"


def _is_headscale(document: dict[str, JSON]) -> bool:
    body = document.get("body", document)
    return isinstance(body, dict) and (
        isinstance(body.get("nodes"), list) or isinstance(body.get("node"), dict)
    )

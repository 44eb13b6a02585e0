"""The payload formats, one module each, and how to tell them apart.

Sources are pure: no clock, network, environment or database.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest

from ringstats_ts.errors import UnknownSource
from ringstats_ts.model import JSON, Log, Source
from ringstats_ts.sources.accesslog import ACCESSLOG
from ringstats_ts.sources.devices import DEVICES, HEADSCALE
from ringstats_ts.sources.host import HOST
from ringstats_ts.sources.json import ANY_JSON
from ringstats_ts.sources.pattoo import PATTOO
from ringstats_ts.sources.ringserver import RINGSERVER
from ringstats_ts.sources.tailscale import TAILSCALE

SOURCES: tuple[Source, ...] = (
    TAILSCALE,
    DEVICES,
    HEADSCALE,
    HOST,
    PATTOO,
    RINGSERVER,
    ACCESSLOG,
    ANY_JSON,
)
"""Every format, in the order in which they are tried: the last takes whatever is left."""

_SHOWN_KEYS = 5
_SHOWN_NAME = 20


def detect(document: JSON | Log) -> Source:
    """Find the source that a document is for.

    Raises
    ------
    UnknownSource
        where there is none; the message says what the document looks like.
    """
    source = _detected(document)
    if source is None:
        raise UnknownSource(
            f"The document is of no kind that this service knows: it looks like {describe(document)}."
        )
    return source


def detect_log(log: Log) -> Source | None:
    """Find the source that a whole body is for, where it is a log."""
    return _detected(log)


def detect_array(elements: Sequence[JSON]) -> Source | None:
    """Find the source that an array is one document of. Without one, each element is a document."""
    source = _detected(elements[0]) if elements else None
    if source is None or not source.detect(elements):
        return None
    return source if all(_detected(element) is source for element in elements) else None


def check(source: Source, document: JSON | Log) -> None:
    """Refuse a document that is not of the source that its sender named.

    Raises
    ------
    UnknownSource
        the message says what the document looks like.
    """
    found = _detected(document)
    if found is not source:
        looks = found.looks if found is not None else describe(document)
        hint = f"Name the source `{found.name}`, or none." if found is not None else None
        raise UnknownSource(f"The document is not {source.looks}: it looks like {looks}.", hint)


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
    # A longer name, or one with digits, may be a token in a wrong place.
    named = (
        f"named {name!r}" if len(name) <= _SHOWN_NAME and name.replace("-", "").isalpha() else "of that name"
    )
    raise UnknownSource(f"There is no source {named}.")


def _detected(document: JSON | Log) -> Source | None:
    if isinstance(document, list):
        return detect_array(document)
    return next((source for source in SOURCES if source.detect(document)), None)


def describe(document: JSON | Log) -> str:
    """Say in a few words what a document that no source knows looks like."""
    if isinstance(document, Log):
        # Not a word of it: it may be a private key.
        return "text that is not a log of a known kind"
    if isinstance(document, dict):
        return _describe_object(document)
    if isinstance(document, list):
        return f"an array of {len(document)}"
    return "null" if document is None else f"a bare {_TYPES[type(document)]}"


_TYPES: dict[type, str] = {str: "string", bool: "true or false", int: "number", float: "number"}


def _describe_object(document: dict[str, JSON]) -> str:
    if not document:
        return "an empty object"
    shown = ", ".join(repr(key[:40]) for key in nsmallest(_SHOWN_KEYS, document))
    return f"an object with the keys {shown}{', …' if len(document) > _SHOWN_KEYS else ''}"

"""One spelling for every JSON value, and the hashes that are taken of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import orjson

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.limits import pointer
from ringstats_ts.model import JSON, Attributes, Entity

_INTEGERS = range(-(2**63), 2**64)


def canonical(document: JSON) -> bytes:
    """Encode a document with sorted keys and without spaces.

    Raises
    ------
    UnstorablePayload
        where a string holds NUL or half a surrogate pair, or an integer takes more
        than 64 bits: jsonb, or our encoder, has no place for those.
    """
    try:
        encoded = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise _unstorable(document) or UnstorablePayload(
            f"The document cannot be encoded: {error}."
        ) from None
    if b"\\u0000" in encoded and (found := _unstorable(document)) is not None:
        raise found
    return encoded


def may_hold_nul(encoded: bytes) -> bool:
    """Whether there may be NUL in a string of JSON as our encoder writes it."""
    return b"\\u0000" in encoded


def attributes(document: Mapping[str, JSON]) -> Attributes:
    """Name a part of a document that `canonical` has passed by its digest."""
    return Attributes(facts_digest(document), document)


def facts_digest(facts: Mapping[str, Any]) -> bytes:
    """Hash facts, which may name entities, by their canonical JSON."""
    encoded = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS, default=_key)
    return blake2b(encoded, digest_size=16).digest()


def document_digest(encoded: bytes) -> bytes:
    """Hash canonical JSON to the digest of a whole document."""
    return blake2b(encoded, digest_size=32).digest()


def _key(entity: Entity) -> list[str]:
    return [entity.dimension, *entity.key]


def _unstorable(document: JSON) -> UnstorablePayload | None:
    for path, value in _walk(document):
        complaint = _complaint(value)
        if complaint is not None:
            return UnstorablePayload(complaint, pointer=pointer(path))
    return None


def _complaint(value: JSON) -> str | None:
    if isinstance(value, int) and value not in _INTEGERS:
        return "An integer takes more than 64 bits. Send it as a string."
    if not isinstance(value, str):
        return None
    if "\0" in value:
        return "A string holds the character NUL, which PostgreSQL cannot store. Remove it."
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "A string holds half a surrogate pair, which is no character. Remove it."
    return None


def _walk(document: JSON) -> Iterator[tuple[tuple[str, ...], JSON]]:
    """Yield every value with its path, and every key with that of its object, without recursion."""
    left: list[tuple[tuple[str, ...], JSON]] = [((), document)]
    while left:
        path, value = left.pop()
        yield path, value
        if isinstance(value, dict):
            for key, member in value.items():
                yield path, key
                left.append(((*path, key), member))
        elif isinstance(value, list):
            left.extend(((*path, str(index)), member) for index, member in enumerate(value))

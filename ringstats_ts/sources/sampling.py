"""When a document was true, and what is said where it does not name its host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.limits import pointer
from ringstats_ts.model import JSON, Context
from ringstats_ts.sources.times import ZERO, is_naive, read_sample_time

STAMP = "_timestamp"
"""What a sender calls the time that it puts into a document."""

NO_HOST = "The document does not name its host; it is known by its address. Add `host=NAME` to the URL."
"""The warning for a host that is known by its sender."""


@dataclass(frozen=True, slots=True)
class SampleTime:
    """When the document was true.

    `key` is the member that says so, where it is the document's own word, and `form` how it is written.
    """

    time: datetime
    known: bool = True
    key: str | None = None
    form: str | None = None
    warnings: tuple[str, ...] = ()


def sample_time(document: Mapping[str, JSON], context: Context, keys: Sequence[str] = (STAMP,)) -> SampleTime:
    """The time the sender names, else the first of the keys, else the file; at the last the time of arrival.

    Raises
    ------
    UnstorablePayload
        where the key holds no time, and the sender names none.
    """
    key = next((key for key in keys if document.get(key) not in (None, "", ZERO)), None)
    stamp = None if key is None else document[key]
    stamped, form = read_sample_time(stamp) or (None, None)
    if context.time is not None:
        own = stamped == context.time
        return SampleTime(context.time, key=key if own else None, form=form if own else None)
    if stamped is not None:
        warning = f"{key} has no zone; it was read as UTC. Write it with a zone (RFC 3339)."
        return SampleTime(stamped, key=key, form=form, warnings=(warning,) if is_naive(stamp) else ())
    if key is not None:
        raise UnstorablePayload(
            f"{key} is not a time. Write it in RFC 3339, or as seconds since 1970.", pointer=pointer((key,))
        )
    if context.file_time is not None:
        return SampleTime(context.file_time)
    return SampleTime(context.received_at, known=False)

"""The values that travel from a payload to the database: no I/O, no clock, no driver.

A source turns one document into a `Batch`; storage commits the batch. Cells of a
batch's rows may be an `Entity` or an `Attributes`: storage puts their ids there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

JSON = Any
"""A decoded JSON value: dict, list, str, int, float, bool or None."""


@dataclass(frozen=True, slots=True)
class Token:
    """Who is allowed to do what: the token that came with a request, without its secret.

    `hosts` is a host's name, or a pattern with `*` and `?` of the names that may report
    with it. `scopes` are `ingest`, `read`.
    """

    token_id: int
    key_id: str
    hosts: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Payload:
    """A body as it was received, and what its sender said about it.

    `time` is what the sender named; `file_time` the file's mtime, where there is a
    file. `sender` names the host when neither the sender nor the document does.
    `token` is what it was sent with, if any. `partial`: the good documents of the body are
    stored though others are refused. `backfill`: old samples are meant.
    """

    body: bytes
    received_at: datetime
    source: str | None = None
    host: str | None = None
    time: datetime | None = None
    file_time: datetime | None = None
    key: str | None = None
    replace: bool = False
    sender: str = "unknown"
    token: Token | None = None
    partial: bool = False
    backfill: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What a source may know beside the document. Every time is aware and in UTC."""

    received_at: datetime
    host: str | None = None
    time: datetime | None = None
    file_time: datetime | None = None
    sender: str = "unknown"


@dataclass(frozen=True, slots=True)
class Host:
    """The host that reports. `identity` is what makes two reports come from one host."""

    identity: str
    name: str
    tailnet: str = ""
    stable_id: str | None = None


@dataclass(frozen=True, slots=True)
class Attributes:
    """Slowly changing fields, stored once per distinct content."""

    digest: bytes
    document: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Entity:
    """A row of a dimension table, found or made by its natural key.

    `dimension` names the table; `find_<dimension>` and `add_<dimension>` in
    queries.sql are its statements, which know the columns of the key by their order.
    `fields` are other columns of a new row.
    """

    dimension: str
    key: tuple[str, ...]
    fields: Mapping[str, JSON] = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows for one hypertable, without `host_id`, `time` and `received_at`.

    Storage adds those three in front of `columns`.
    """

    table: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Changes:
    """What is true of a host, or of each of its entities, from this sample on.

    Stored in `table` only where it differs from the sample before. A row is (entity,
    digest, facts); equal facts have equal digests. `entity` names the column of the
    table that holds the entity; it is `host_id` where the facts are about the host
    itself, and the rows have None. The function `<table>_next` of the database finds
    the samples after one; `apply_<table>` in queries.sql, where there is one,
    brings the dimension up to date. `current` is False where the reporter was cut off and
    told what it knew from before: history, but no reason to change a dimension.
    """

    table: str
    entity: str
    current: bool
    rows: Sequence[tuple[Entity | None, bytes, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Batch:
    """All that one document becomes; stored whole or not at all.

    `time_known` is False where the sample time is merely the time of arrival.
    `digest` is of the document's content, so that the same document is known again
    whatever its spelling.
    """

    source: str
    host: Host
    time: datetime
    time_known: bool
    received_at: datetime
    digest: bytes
    rows: tuple[Rows, ...]
    changes: tuple[Changes, ...] = ()
    drift: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer for one document: what was committed, or found to be there already."""

    id: str
    source: str
    host: str
    time: datetime
    rows: int
    duplicate: bool = False
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, JSON]:
        return {
            "id": self.id,
            "source": self.source,
            "host": self.host,
            "time": self.time.isoformat().replace("+00:00", "Z"),
            "rows": self.rows,
            "duplicate": self.duplicate,
            "warnings": list(self.warnings),
        }


class Source(Protocol):
    """A payload format. Pure: the same document and context give the same batch."""

    @property
    def name(self) -> str:
        """The word used in routes, options and tables."""

    @property
    def title(self) -> str:
        """What it accepts, in one line."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Where it lands."""

    @property
    def example(self) -> str:
        """A command that posts one."""

    def detect(self, document: JSON) -> bool:
        """Whether the document is of this format."""

    def parse(self, document: JSON, context: Context) -> Batch:
        """Turn the document into a batch.

        Raises
        ------
        PayloadError
            where it is not of this format, or cannot be stored.
        """

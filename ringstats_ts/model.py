"""The values that travel from a payload to the database: no I/O, no clock, no driver.

A source turns one document into a `Batch`; storage commits the batch. Cells of a
batch's rows may be an `Entity` or an `Attributes`: storage puts their ids there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from ringstats_ts.lookups import EventIds, Lookups

JSON = Any
"""A decoded JSON value: dict, list, str, int, float, bool or None."""


@dataclass(frozen=True, slots=True)
class Log:
    """A body that is a log: lines of text, or of JSON. One document, however many lines it has.

    `text` is UTF-8 as far as its writer wrote UTF-8, without a byte order mark. Of a part of a
    file (`is_part`) `first_line` is the number of its first line, and none of its lines need be good.
    """

    text: bytes
    first_line: int = 1
    is_part: bool = False


@dataclass(frozen=True, slots=True)
class LogPart:
    """Where a part of a log goes on: the number of its first line, and the ids of the events before it."""

    first_line: int
    event_ids: EventIds


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
    file. `sender` names the host when neither the sender nor the document does, and
    `origin` that of a log: the machine that it came from, whatever its file is called.
    `token` is what it was sent with, if any. `partial`: the good documents of the body are
    stored though others are refused. `backfill`: old samples are meant. `part`: the body is a
    part of a log, in UTF-8. `equal_before`: it is a line out of a log, which had so many equal ones
    before it. `clock`: it arrives now, by a clock that may be so far off the database's; None where
    it was read, or came a while ago.
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
    origin: str = "unknown"
    token: Token | None = None
    partial: bool = False
    backfill: bool = False
    part: LogPart | None = None
    equal_before: int = 0
    clock: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What a source may know beside the document. Every time is aware and in UTC.

    `sender` and `origin` as in `Payload`. An event of a log that is not from between `earliest`
    and `latest` is a bad line: the clock was wrong, or the log is broken. `lookups` know of
    clients and networks; `event_ids` gives the events of a log their ids, and is to be used for
    one log only. `keep_secrets`: those in JSON of no known kind are to be stored.
    """

    received_at: datetime
    host: str | None = None
    time: datetime | None = None
    file_time: datetime | None = None
    sender: str = "unknown"
    origin: str = "unknown"
    earliest: datetime | None = None
    latest: datetime | None = None
    lookups: Lookups = field(default_factory=Lookups)
    event_ids: EventIds = field(default_factory=EventIds)
    keep_secrets: bool = False


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

    Storage adds those three in front of `columns`. `about` is the column of the entity that a row
    is about: where that may not be made, the row is left out. `beside`: they say what is beside the
    rows of the other parts, and are not worth storing without any.
    """

    table: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    about: str | None = None
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Events:
    """Rows that have a time and a key of their own, stored once whichever document brings them.

    `columns` has `time` and the other columns of the table's key; storage adds `host_id`
    and `received_at` in front. What the table has already by its key is left as it is. `about`
    and `beside` as in `Rows`.
    """

    table: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    about: str | None = None
    beside: bool = False

    @property
    def times(self) -> list[datetime]:
        """The time of each row."""
        place = self.columns.index("time")
        return [row[place] for row in self.rows]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of a log that cannot be stored, with its number and why. The others are.

    `text` is without line end. `cut` says that the log ended before the line did, or what it
    begins: more of the log may make it a good one.
    """

    number: int
    text: bytes
    reason: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What is true of a host, or of each of its entities, from this sample on.

    Stored in `table` only where it differs from the sample before. A row is (entity,
    digest, facts); equal facts have equal digests. `entity` names the column of the
    table that holds the entity; it is `host_id` where the facts are about the host
    itself, and the rows have None. The function `<table>_next` of the database finds
    the samples after one; `apply_<table>` in queries.sql, where there is one,
    brings the dimension up to date. `own` is the entity that the host itself is. `current` is
    False where the reporter was cut off and told what it knew from before: history, but no reason
    to change a dimension.
    """

    table: str
    entity: str
    current: bool
    rows: Sequence[tuple[Entity | None, bytes, Mapping[str, Any]]]
    own: Entity | None = None


@dataclass(frozen=True, slots=True)
class Shortage:
    """So many rows of a document went without what is new in them: the budget of a level ran out.

    `level` is `host`, `sender` or `all`; `what` is `series` or `attribute_bytes`.
    """

    level: str
    what: str
    rows: int


@dataclass(frozen=True, slots=True)
class Batch:
    """All that one document becomes; stored whole or not at all.

    `time_known` is False where the sample time is merely the time of arrival. A batch
    with `events` is of a log, or of what else brings times of its own: its `time` is that of
    the newest of them. `is_log`: it is a log, whose events may be of any age; of a part of one
    all lines may be bad. So many rows of each table are `left_out`, as none of their age are kept;
    `shortages` say what else is, as a budget ran out. `listed` is what a listing of an API tells of
    nodes, as facts of tailscale_node_changes.
    `digest` is of the document's content, so that the same document is known again whatever its
    spelling.
    `rollup` names the aggregates that its rows go into, as the table `policies` does; they
    are the source's own unless it says otherwise.
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
    events: tuple[Events, ...] = ()
    bad_lines: tuple[BadLine, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    shortages: tuple[Shortage, ...] = ()
    listed: Sequence[tuple[Entity, Mapping[str, Any]]] = ()
    is_log: bool = False
    rollup: str = ""

    @property
    def has_events(self) -> bool:
        """Whether it is of events, and known again by its content alone."""
        return self.is_log or bool(self.events)

    @property
    def short_rows(self) -> int:
        """How many of its rows went without what is new in them."""
        return sum(shortage.rows for shortage in self.shortages)

    @property
    def parts(self) -> tuple[Rows | Events, ...]:
        """All of it that goes into hypertables."""
        return (*self.rows, *self.events)

    @property
    def times(self) -> set[datetime]:
        """Every time that a row of it has."""
        return set().union(*(part.times for part in self.events)) or {self.time}

    @property
    def span(self) -> tuple[datetime, datetime]:
        """The first and last of its times."""
        times = self.times
        return min(times), max(times)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer for one document: what was committed, or found to be there already.

    `rows` were stored of it, so many `bad_lines` were not, and so many rows were `left_out`, as none
    of their age are kept. `span` are the first and last
    time of its rows, and `rollup` the aggregates that they go into. `shortages` as in `Batch`.
    """

    id: str
    source: str
    host: str
    time: datetime
    rows: int
    duplicate: bool = False
    warnings: tuple[str, ...] = ()
    bad_lines: int = 0
    left_out: int = 0
    span: tuple[datetime, datetime] | None = None
    rollup: str = ""
    shortages: tuple[Shortage, ...] = ()

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

    @property
    def looks(self) -> str:
        """What such a document is called when it was taken for something else."""

    def detect(self, document: JSON | Log) -> bool:
        """Whether the document is of this format."""

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn the document, which `detect` has found to be one, into a batch.

        Raises
        ------
        PayloadError
            where it is not of this format, or cannot be stored.
        """

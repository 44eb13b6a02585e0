"""What a log of ringserver tells, as rows of its three tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from typing import Any

import orjson

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.lookups import Lookups, Place
from ringstats_ts.model import JSON, Attributes, Context, Events
from ringstats_ts.sources.canonical import attributes
from ringstats_ts.sources.ringserver.streams import is_temporary, read_stream_id

_INT64 = 2**63
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_REMEMBERED_CLIENTS = 65536

_STREAM = ("network", "station", "location", "channel", "label", "format")
_PLACE = ("country", "city", "latitude", "longitude", "geohash")
_PEER = (
    "connect_time",
    "client",
    "client_name",
    "agent",
    "protocol",
    "protocol_version",
    "tls",
    "websocket",
    "server_port",
    "auth_method",
    "username",
    "service",
    "service_version",
)

TRANSFERS = (
    "time",
    "transfer_id",
    "stream_id",
    *_STREAM,
    "extended_network",
    "bytes",
    "packets",
    "direction",
    "connect_time",
    "client",
    "agent",
    *_PLACE,
)
SESSIONS = (
    "time",
    "transfer_id",
    "direction",
    "start_time",
    *_PEER,
    "streams",
    "bytes",
    "packets",
    "total_bytes",
    *_PLACE,
    "attribute_id",
)
ACCESS = ("time", "event_id", "event", "command", "detail", "match", "reject", *_PEER, "attribute_id")


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection, as the log has it."""

    connect_time: datetime | None
    address: str
    host_name: str | None = None
    agent: str | None = None
    protocol: str | None = None
    protocol_version: str | None = None
    tls: bool | None = None
    websocket: bool | None = None
    server_port: int | None = None
    auth_method: str | None = None
    username: str | None = None
    service: str | None = None
    service_version: str | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """What went to or came from one client in one interval.

    `total` is what the log says of the bytes, `unknown` are the fields that are not known here.
    """

    time: datetime
    peer: Peer
    direction: str
    streams: Iterable[tuple[str, int, int]]
    total: int | None
    start_time: datetime | None = None
    unknown: JSON = None


@dataclass(frozen=True, slots=True)
class Access:
    """One event of the access log. `content` has all of it, `unknown` the fields that are not known here."""

    time: datetime
    peer: Peer
    texts: tuple[str | None, ...]
    content: bytes
    unknown: JSON = None


@dataclass(slots=True)
class Tables:
    """Collects the rows. `mismatches` are the lines of transfers whose total is not the sum."""

    context: Context
    mismatches: list[int] = field(default_factory=list)
    _transfers: list[tuple[Any, ...]] = field(default_factory=list)
    _sessions: list[tuple[Any, ...]] = field(default_factory=list)
    _access: list[tuple[Any, ...]] = field(default_factory=list)
    _known: _Known = field(init=False)

    def __post_init__(self) -> None:
        self._known = _Known(self.context.lookups)

    def add_transfer(self, transfer: Transfer, line: int) -> None:
        """Add one, read in that line.

        Raises
        ------
        UnstorablePayload
            where a sum has no place in its column, or the time cannot be true.
        """
        self._check_time(transfer.time)
        counts = _added_up(transfer.streams)
        total_bytes, packets = _sums(counts)
        peer, known, time, direction = transfer.peer, self._known, transfer.time, transfer.direction
        transfer_id = self.context.event_ids.of(_content(transfer, counts))
        client, place = known.client(peer.address), known.place(peer.address)
        behind = (direction, peer.connect_time, client, peer.agent, *place)
        streams, day = known.streams, time.date()
        for stream_id, (size, number) in counts.items():
            cells = streams.get((stream_id, day)) or known.stream(stream_id, time)
            self._transfers.append((time, transfer_id, stream_id, *cells, size, number, *behind))
        sums = (len(counts), total_bytes, packets, transfer.total)
        start = (time, transfer_id, direction, transfer.start_time)
        self._sessions.append((*start, *known.peer(peer), *sums, *place, known.attributes(transfer.unknown)))
        if transfer.total not in (None, total_bytes):
            self.mismatches.append(line)

    def add_access(self, access: Access) -> None:
        """Add an event of the access log.

        Raises
        ------
        UnstorablePayload
            where the time cannot be true.
        """
        self._check_time(access.time)
        event_id = self.context.event_ids.of(access.content)
        cells = (*self._known.peer(access.peer), self._known.attributes(access.unknown))
        self._access.append((access.time, event_id, *access.texts, *cells))

    def events(self) -> Iterator[Events]:
        """Give what was collected, without the tables that have nothing."""
        if self._transfers:
            yield Events("ringserver_transfers", TRANSFERS, self._transfers)
        if self._sessions:
            yield Events("ringserver_sessions", SESSIONS, self._sessions)
        if self._access:
            yield Events("ringserver_access", ACCESS, self._access)

    def _check_time(self, time: datetime) -> None:
        earliest, latest = self.context.earliest, self.context.latest
        if earliest is not None and time < earliest:
            raise UnstorablePayload(f"Its time is from before {earliest.year}: {time:{_TIME}}.")
        if latest is not None and time > latest:
            raise UnstorablePayload(f"Its time lies in the future: {time:{_TIME}}.")


class _Known:
    """What was looked up already: a log names few clients and streams, but those often."""

    def __init__(self, lookups: Lookups) -> None:
        self._network = lookups.network
        self._without_addresses = lookups.without_addresses
        self.client = lru_cache(_REMEMBERED_CLIENTS)(lookups.client)
        self._find_place = lookups.place
        self.place = lru_cache(_REMEMBERED_CLIENTS)(self._place)
        self.streams: dict[tuple[str, date], tuple[str | None, ...]] = {}

    def peer(self, peer: Peer) -> tuple[Any, ...]:
        """The cells of `_PEER`."""
        name, user = peer.host_name, peer.username
        return (
            peer.connect_time,
            self.client(peer.address),
            self.client(name) if name and name != peer.address else None,
            peer.agent,
            peer.protocol,
            peer.protocol_version,
            peer.tls,
            peer.websocket,
            peer.server_port,
            peer.auth_method,
            self.client(user) if user else None,
            peer.service,
            peer.service_version,
        )

    def stream(self, stream_id: str, time: datetime) -> tuple[str | None, ...]:
        """The cells of `_STREAM` and the extended network, as of that day."""
        stream = read_stream_id(stream_id)
        network = stream.network
        extended = self._network(network, time) if network and is_temporary(network) else network
        cells = self.streams[stream_id, time.date()] = (*stream, extended)
        return cells

    def attributes(self, unknown: JSON) -> Attributes | None:
        """What is kept of fields that are not known here: they may hold a client's address."""
        return attributes(self._hashed(unknown)) if unknown else None

    def _hashed(self, value: JSON) -> JSON:
        if isinstance(value, dict):
            return {self._without_addresses(key): self._hashed(member) for key, member in value.items()}
        if isinstance(value, list):
            return [self._hashed(member) for member in value]
        return self._without_addresses(value) if isinstance(value, str) else value

    def _place(self, address: str) -> tuple[Any, ...]:
        place: Place = self._find_place(address)
        return (place.country, place.city, place.latitude, place.longitude, place.geohash)


def _added_up(streams: Iterable[tuple[str, int, int]]) -> Mapping[str, list[int]]:
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for stream_id, size, number in streams:
        count = counts[stream_id]
        count[0] += size
        count[1] += number
    return counts


def _sums(counts: Mapping[str, list[int]]) -> tuple[int, int]:
    total_bytes = sum(count[0] for count in counts.values())
    packets = sum(count[1] for count in counts.values())
    if max(total_bytes, packets) >= _INT64:
        raise UnstorablePayload("The sum of its streams takes more than 63 bits.")
    return total_bytes, packets


def _content(transfer: Transfer, counts: Mapping[str, list[int]]) -> bytes:
    """What makes the transfer the same one, whether the log is of text or of JSON."""
    peer = transfer.peer
    who = [peer.address, peer.agent, peer.protocol, peer.connect_time]
    return orjson.dumps([transfer.direction, *who, transfer.time, sorted(counts.items())])

"""The peers of a document by columns: the fast way to what `peers` reads one by one.

From one document of a host to the next hardly anything changes but counters and times.
The rest of a peer is compared with what it was, and what was read of it then is taken
again. A peer that is not written as usual is left to `peers`. So this module is only
about speed: what is remembered never changes a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from operator import itemgetter, or_
from typing import Any

import orjson

from ringstats_ts.model import JSON, Attributes, Entity
from ringstats_ts.sources.canonical import attributes, canonical, document_digest, may_hold_nul
from ringstats_ts.sources.secrets import may_hold_secrets, without_secrets
from ringstats_ts.sources.tailscale.nodes import Fields
from ringstats_ts.sources.tailscale.peers import (
    COUNTERS,
    FLAGS,
    LOCAL_TIMES,
    TEXTS,
    TIMES,
    VARYING,
    Change,
    Peer,
    Peers,
    Reporter,
    content,
    joined,
    local_zone,
    path_of,
    read_peer,
    stable_ids,
)
from ringstats_ts.sources.tailscale.split import COUNTER, integer
from ringstats_ts.sources.times import ZERO, read_time

REMEMBERED_BYTES = 10_000_000
"""JSON of all the peers that are remembered, which take some five times that in memory."""

_ZONED_BYTES = 500
"""What attributes with zones count for: most of what is in them is that of the peer."""

VIEWED_PEERS = 200_000
"""Peers in the views of all reporters together, at some 60 bytes each."""

_VIEW_ITSELF = 20
"""Peers that a view counts for beside its own."""

_LONGEST_ID = 100
"""Longer ones are not of Tailscale, nor worth remembering."""

# A value of each field that leaves no note in the attributes.
_USUAL: dict[str, JSON] = (
    dict.fromkeys(COUNTERS, 0)
    | dict.fromkeys(FLAGS, False)
    | dict.fromkeys(TEXTS, "")
    | dict.fromkeys(TIMES, ZERO)
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Peers that have the same of the varying fields.

    `reporter` is the ID of the document's own node. `steady` is each peer without what
    varies, as JSON: as dicts `1` and `true` would be equal.
    """

    reporter: str
    keys: list[str]
    values: Mapping[str, Sequence[JSON]]
    steady: list[bytes]
    content: bytes


@dataclass(frozen=True, slots=True)
class _Known:
    """A peer as it was read before, but for what varies."""

    key: str
    steady: bytes
    peer: Peer


@dataclass(frozen=True, slots=True)
class _View:
    """What a reporter saw in its last document, in columns. `around` is the digest of what else matters."""

    keys: list[str]
    around: bytes
    steady: list[bytes]
    peers: list[Peer]
    nodes: list[Entity]
    epochs: list[int]
    kept: list[Attributes]
    changes: list[Change]
    digests: bytes
    drift: frozenset[str]
    warnings: tuple[str, ...]


class Memory:
    """What was seen before. Threads may share it: whatever one loses is read again."""

    def __init__(self) -> None:
        self._peers: dict[tuple[Any, ...], _Known] = {}
        self._views: dict[str, _View] = {}
        self._zoned: dict[tuple[bytes, tuple[tuple[str, str], ...]], Attributes] = {}
        self._bytes = 0

    def clear(self) -> None:
        """Forget everything."""
        self._peers.clear()
        self._views.clear()
        self._zoned.clear()
        self._bytes = 0

    def view(self, columns: Columns) -> _View | None:
        """The last view of the reporter, if what is steady is as it was."""
        view = self._views.get(columns.reporter)
        same = view is not None and view.steady == columns.steady and view.keys == columns.keys
        return view if same else None

    def keep_view(self, reporter: str, view: _View) -> None:
        kept = (view, *list(self._views.values()))
        if sum(len(each.keys) + _VIEW_ITSELF for each in kept) > VIEWED_PEERS:
            self._views.clear()
        self._views[reporter] = view

    def peer(self, key: tuple[Any, ...]) -> _Known | None:
        return self._peers.get(key)

    def keep_peer(self, key: tuple[Any, ...], known: _Known) -> None:
        self._make_room(len(known.steady))
        self._peers[key] = known

    def zoned(self, kept: Attributes, zones: dict[str, str]) -> Attributes:
        """The attributes with the forms of times that are not in the usual one."""
        key = (kept.digest, tuple(zones.items()))
        found = self._zoned.get(key)
        if found is None:
            self._make_room(_ZONED_BYTES)
            found = self._zoned[key] = attributes({**kept.document, "$zone": zones})
        return found

    def _make_room(self, size: int) -> None:
        self._bytes += size
        if self._bytes > REMEMBERED_BYTES:
            self.clear()


MEMORY = Memory()


def screened(document: dict[str, Any]) -> tuple[dict[str, Any], Columns | None]:
    """The document without its secrets; its peers in columns, where they can be read so.

    Raises
    ------
    UnstorablePayload
    """
    columns = _columns(document)
    if columns is not None and not _is_doubtful(document, columns):
        return document, columns
    status = without_secrets(document, canonical(document))
    return status, columns if status is document else None


@dataclass(frozen=True, slots=True)
class _Cells:
    """The columns from rx_bytes to exit_node.

    `zones` are the forms of those times that are not in the usual one, by the number of
    the peer. `unusual` are the numbers of peers whose cells may be wrong.
    """

    columns: list[Sequence[Any]]
    zones: dict[int, dict[str, str]]
    unusual: set[int]

    @classmethod
    def of(cls, columns: Columns, zone: str) -> _Cells:
        values = columns.values
        unknown = [None] * len(columns.keys)
        cells: dict[str, Sequence[Any]] = dict.fromkeys(VARYING, unknown)
        found = cls([], {}, set())
        for name, read in _READERS.items():
            if name in values:
                cells[name] = read(values[name], found.unusual)
        for name in TIMES:
            if name in values:
                cells[name] = found._times(name, values[name], zone if name in LOCAL_TIMES else "Z")
        relay = cells["Relay"] if "CurAddr" in values else unknown
        paths = map(path_of, cells["Active"], cells["Online"], cells["CurAddr"], cells["PeerRelay"], relay)
        found.columns.extend(cells[name] for name in ("RxBytes", "TxBytes", "Online", "Active"))
        found.columns.append(list(paths))
        found.columns.extend(cells[name] for name in (*TEXTS, *TIMES, "InEngine", "ExitNode"))
        return found

    def _times(self, name: str, values: Sequence[JSON], form: str) -> Sequence[Any]:
        times: dict[JSON, datetime | None] = {ZERO: None}
        forms: dict[JSON, str] = {}
        for text in {value for value in values if type(value) is str and value != ZERO}:
            time, found = read_time(text) or (None, None)
            if time is not None and found is not None:
                times[text] = time
                if found != form:
                    forms[text] = found
        readable = [type(value) is str and value in times for value in values]
        if not all(readable):
            self.unusual.update(number for number, known in enumerate(readable) if not known)
            values = [value if known else ZERO for value, known in zip(values, readable, strict=True)]
        if forms:
            for number, text in enumerate(values):
                if text in forms:
                    self.zones.setdefault(number, {})[name] = forms[text]
        return [times[text] for text in values]


def read_columns(columns: Columns, status: Fields, reporter: Reporter, reporter_id: str | None) -> Peers:
    """Turn the peers of a screened document into rows, changes and drift, as `read_peers` does."""
    peers = status["Peer"]
    view = _view(columns, status, reporter, reporter_id)
    zone = local_zone(columns.values.get(name, ()) for name in LOCAL_TIMES)
    cells = _Cells.of(columns, zone)
    kept = view.kept
    if cells.zones:
        kept = list(kept)
        for number, zones in cells.zones.items():
            kept[number] = MEMORY.zoned(kept[number], zones)
    rows = list(zip(view.nodes, *cells.columns, view.epochs, kept, strict=True))
    if cells.unusual:
        ids, _ = stable_ids(peers, reporter_id)
        for number in sorted(cells.unusual):
            key, node = columns.keys[number], view.peers[number].node
            rows[number] = read_peer(key, peers[key], ids[number], reporter, zone, node).row
    as_usual = not cells.zones and not cells.unusual
    digests = view.digests if as_usual else joined(columns.keys, [row[-1] for row in rows])
    flags = columns.values.get("ExitNode", ())
    return Peers(
        zone=zone,
        rows=rows,
        changes=view.changes,
        drift=view.drift,
        exit_node=rows[flags.index(True)][0] if True in flags else None,
        warnings=view.warnings,
        content=columns.content + digests,
    )


def _columns(document: Fields) -> Columns | None:
    peers, own = document.get("Peer"), document.get("Self")
    reporter = own.get("ID") if type(own) is dict else None
    if type(peers) is not dict or not peers or type(reporter) is not str or len(reporter) > _LONGEST_ID:
        return None
    keys = list(peers)
    try:
        names = ["ID", *(name for name in VARYING if name in peers[keys[0]])]
        rows = zip(*map(itemgetter(*names), peers.values()), strict=True)
        values = dict(zip(names, rows, strict=True))
        steady = _steady(peers.values(), dict.fromkeys(names[1:]))
        columns = Columns(reporter, keys, values, steady, content(keys, values))
    except (KeyError, TypeError, ValueError):
        return None
    absent = set(VARYING).difference(names)
    are_alike = MEMORY.view(columns) is not None or all(map(absent.isdisjoint, peers.values()))
    return columns if are_alike else None


def _steady(peers: Iterable[dict[str, Any]], blank: dict[str, None]) -> list[bytes]:
    # A copy with null for what varies, and its JSON: two calls in C for each peer.
    return list(map(orjson.dumps, map(or_, peers, repeat(blank))))


def _is_doubtful(document: Fields, columns: Columns) -> bool:
    """Whether there may be a secret in the document, or what cannot be stored. A time is neither."""
    head = {key: value for key, value in document.items() if key != "Peer"}
    new = () if MEMORY.view(columns) else (orjson.dumps(columns.keys), *columns.steady)
    try:
        texts = [list(set(columns.values.get(name, ()))) for name in TEXTS]
        encoded = b"".join((orjson.dumps([head, texts]), *new))
    except TypeError:
        return True
    return may_hold_nul(encoded) or may_hold_secrets(encoded)


def _view(columns: Columns, status: Fields, reporter: Reporter, reporter_id: str | None) -> _View:
    around = document_digest(orjson.dumps([reporter_id, reporter.tailnet.name, status.get("User")]))
    view = MEMORY.view(columns)
    if view is None or view.around != around:
        view = _new_view(around, columns, status["Peer"], reporter, reporter_id)
        MEMORY.keep_view(columns.reporter, view)
    return view


def _new_view(
    around: bytes, columns: Columns, peers: Fields, reporter: Reporter, reporter_id: str | None
) -> _View:
    ids, warnings = stable_ids(peers, reporter_id)
    usual = {name: _USUAL[name] for name in VARYING if name in columns.values}
    known = [
        _known(name, peer, stable_id, steady, reporter, usual)
        for (name, peer), stable_id, steady in zip(peers.items(), ids, columns.steady, strict=True)
    ]
    read = [each.peer for each in known]
    return _View(
        keys=[each.key for each in known],
        around=around,
        steady=[each.steady for each in known],
        peers=read,
        nodes=[peer.node.entity for peer in read],
        epochs=[peer.node.key_epoch for peer in read],
        kept=[peer.kept for peer in read],
        changes=[peer.change for peer in read],
        digests=joined(columns.keys, [peer.kept for peer in read]),
        drift=frozenset().union(*(peer.drift for peer in read)),
        warnings=warnings,
    )


def _known(
    key: str, peer: dict[str, Any], stable_id: str, steady: bytes, reporter: Reporter, usual: Fields
) -> _Known:
    tailnet = reporter.tailnet
    login_name = tailnet.login_name(integer(peer, "UserID", ("Peer", key)))
    whole_key = (steady, key, stable_id, tailnet.name, login_name)
    known = MEMORY.peer(whole_key)
    if known is None:
        known = _Known(key, steady, read_peer(key, {**peer, **usual}, stable_id, reporter, "Z"))
        MEMORY.keep_peer(whole_key, known)
    return known


def _counters(values: Sequence[JSON], unusual: set[int]) -> Sequence[Any]:
    if set(map(type, values)) != {int} or min(values) < 0 or max(values) not in COUNTER:
        unusual.update(_where(values, lambda value: type(value) is not int or value not in COUNTER))
    return values


def _flags(values: Sequence[JSON], unusual: set[int]) -> Sequence[Any]:
    if not set(map(type, values)) <= {bool, type(None)}:
        unusual.update(_where(values, lambda value: value is not None and type(value) is not bool))
    return values


def _texts(values: Sequence[JSON], unusual: set[int]) -> Sequence[Any]:
    if set(map(type, values)) != {str}:
        unusual.update(_where(values, lambda value: type(value) is not str))
    return [value or None for value in values]


def _where(values: Sequence[JSON], wanted: Callable[[JSON], bool]) -> Iterable[int]:
    return (number for number, value in enumerate(values) if wanted(value))


_READERS = dict.fromkeys(COUNTERS, _counters) | dict.fromkeys(FLAGS, _flags) | dict.fromkeys(TEXTS, _texts)

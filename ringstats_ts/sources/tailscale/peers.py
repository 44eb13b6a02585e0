"""The peers of a status document to rows of tailscale_peers, one by one; `columns` is the fast way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import le
from typing import Any

import orjson

from ringstats_ts.model import JSON, Attributes, Entity
from ringstats_ts.sources.canonical import attributes
from ringstats_ts.sources.tailscale.known import PEER, unknown_peer
from ringstats_ts.sources.tailscale.nodes import Fields, Node, Tailnet, read_node
from ringstats_ts.sources.tailscale.split import Path, Split, kind, refuse, text
from ringstats_ts.sources.times import ZERO, read_time

COLUMNS = (
    "node_id",
    "rx_bytes",
    "tx_bytes",
    "online",
    "active",
    "path",
    "relay",
    "peer_relay",
    "cur_addr",
    "last_handshake",
    "last_write",
    "last_seen",
    "in_engine",
    "exit_node",
    "key_epoch",
    "attribute_id",
)
_EXIT_NODE = COLUMNS.index("exit_node")


COUNTERS = ("RxBytes", "TxBytes")
FLAGS = ("Online", "Active", "InEngine", "ExitNode")
TEXTS = ("Relay", "PeerRelay", "CurAddr")
LOCAL_TIMES = ("LastHandshake", "LastWrite")
TIMES = (*LOCAL_TIMES, "LastSeen")
VARYING = (*COUNTERS, *FLAGS, *TEXTS, *TIMES)

Change = tuple[Entity | None, bytes, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Reporter:
    """What the reporter's own state says about its view of the peers."""

    stopped: bool
    cut_off: bool
    tailnet: Tailnet

    @property
    def current(self) -> bool:
        """Whether its network map is of now."""
        return not (self.stopped or self.cut_off)

    def online(self, sent: bool | None) -> bool | None:
        """Judge a peer's Online.

        A daemon that does not run keeps the flags of its last network map; one that runs
        without its control server cannot know.
        """
        if self.stopped:
            return False
        return None if self.cut_off else sent


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: its row of tailscale_peers, and what is in it or behind it."""

    row: tuple[Any, ...]
    node: Node
    kept: Attributes
    drift: frozenset[str]

    @property
    def change(self) -> Change:
        return self.node.entity, self.node.digest, self.node.facts


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers of one document.

    `zone` is the form of the daemon's local times. `content` is equal for equal peers,
    whatever their order.
    """

    zone: str
    rows: Sequence[tuple[Any, ...]]
    changes: Sequence[Change]
    drift: frozenset[str]
    exit_node: Entity | None
    warnings: tuple[str, ...]
    content: bytes

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        index = COLUMNS.index(name)
        return [row[index] for row in self.rows]


def read_peers(peers: Mapping[str, JSON], reporter: Reporter, reporter_id: str | None) -> Peers:
    """Turn the Peer map into rows, changes and drift."""
    for key, peer in peers.items():
        if type(peer) is not dict:
            refuse(("Peer", key), f"is {kind(peer)} where an object is expected")
    ids, warnings = stable_ids(peers, reporter_id)
    zone = local_zone([peer.get(name) for peer in peers.values()] for name in LOCAL_TIMES)
    found = [
        read_peer(key, peer, stable_id, reporter, zone)
        for (key, peer), stable_id in zip(peers.items(), ids, strict=True)
    ]
    keys = list(peers)
    columns = {name: [peer.get(name) for peer in peers.values()] for name in VARYING}
    return Peers(
        zone=zone,
        rows=[peer.row for peer in found],
        changes=[peer.change for peer in found],
        drift=frozenset().union(*(peer.drift for peer in found)),
        exit_node=next((peer.row[0] for peer in found if peer.row[_EXIT_NODE]), None),
        warnings=warnings,
        content=content(keys, columns) + joined(keys, [peer.kept for peer in found]),
    )


def content(keys: list[str], columns: Mapping[str, Sequence[JSON]]) -> bytes:
    """What varies of the peers, as JSON; a column that is absent is of null."""
    absent = [None] * len(keys)
    parts = [keys, *(columns.get(name, absent) for name in VARYING)]
    order = order_of(keys)
    return orjson.dumps(parts if order is None else [[part[number] for number in order] for part in parts])


def joined(keys: list[str], kept: Sequence[Attributes]) -> bytes:
    """The digests of the peers' attributes."""
    order = order_of(keys)
    return b"".join([part.digest for part in (kept if order is None else map(kept.__getitem__, order))])


def order_of(keys: list[str]) -> list[int] | None:
    """The order of the keys; None where they are in order, as a daemon writes them."""
    return None if all(map(le, keys, keys[1:])) else sorted(range(len(keys)), key=keys.__getitem__)


def read_peer(
    key: str, peer: Fields, stable_id: str, reporter: Reporter, zone: str, node: Node | None = None
) -> Peer:
    """Read one peer. `node` is what was read of it before, where only what varies has changed."""
    path = ("Peer", key)
    drift: Iterable[str] = ()
    if not peer.keys() <= PEER or "Location" in peer:
        drift = unknown_peer(peer, "Peer.*")
    fields = Split(peer, path, PEER)
    cells = _cells(fields, reporter, zone)
    rest = fields.rest()
    if peer.get("PublicKey") != key:
        rest["$key"] = key
    kept = attributes(rest)
    if node is None:
        node = read_node(peer, path, stable_id, reporter.tailnet, None)
    return Peer((node.entity, *cells, node.key_epoch, kept), node, kept, frozenset(drift))


def _cells(fields: Split, reporter: Reporter, zone: str) -> tuple[Any, ...]:
    """Give the columns from rx_bytes to exit_node."""
    online_sent = fields.flag("Online")
    online = reporter.online(online_sent)
    if online is not online_sent:
        fields.keep("Online")
    active = fields.flag("Active")
    relay = fields.text("Relay")
    peer_relay = fields.text("PeerRelay")
    cur_addr = fields.text("CurAddr")
    says_address = fields.has("CurAddr")
    return (
        fields.counter("RxBytes"),
        fields.counter("TxBytes"),
        online,
        active,
        path_of(active, online, cur_addr, peer_relay, relay if says_address else None),
        relay,
        peer_relay,
        cur_addr,
        fields.time("LastHandshake", zone),
        fields.time("LastWrite", zone),
        fields.time("LastSeen"),
        fields.flag("InEngine"),
        fields.flag("ExitNode"),
    )


def path_of(
    active: bool | None, online: bool | None, cur_addr: str | None, peer_relay: str | None, relay: str | None
) -> str | None:
    """Classify the way to a peer as `tailscale status` does (cmd/tailscale/cli/status.go).

    `relay` counts only where the document also says CurAddr: alone it proves nothing.
    """
    if active:
        if cur_addr:
            return "direct"
        if peer_relay:
            return "peer_relay"
        return "derp" if relay else None
    if active is None or online is None:
        return None
    return "idle" if online else "offline"


def stable_ids(peers: Mapping[str, JSON], reporter_id: str | None) -> tuple[list[str], tuple[str, ...]]:
    """Name every peer: by its ID, else its key; by its map key where another node has the same.

    Only documents that somebody edited name two nodes alike; they are stored all the same.
    """
    paths: list[Path] = [("Peer", key) for key in peers]
    ids = [
        text(peer, "ID", path) or text(peer, "PublicKey", path) or path[1]
        for path, peer in zip(paths, peers.values(), strict=True)
    ]
    times = Counter(ids)
    if reporter_id is not None:
        times[reporter_id] += 1
    if times.total() == len(times):
        return ids, ()
    unique = [key if times[stable_id] > 1 else stable_id for key, stable_id in zip(peers, ids, strict=True)]
    taken = {reporter_id}
    for key, stable_id in zip(peers, unique, strict=True):
        if stable_id in taken:
            refuse(("Peer", key), f"has the name of another node, {stable_id!r}")
        taken.add(stable_id)
    return unique, ("Several nodes have the same ID; these are known by their key.",)


def local_zone(columns: Iterable[Iterable[JSON]]) -> str:
    """Find the daemon's own zone, the one that most of its local times are written in."""
    zones: Counter[str] = Counter()
    times = Counter([time for column in columns for time in column if type(time) is str])
    for time, count in times.items():
        if time != ZERO:
            zones[time[-6:]] += count
    for zone, _ in zones.most_common(1):
        if zone[:1] in "+-" and read_time(f"2000-01-01T00:00:00{zone}") is not None:
            return zone
    return "Z"

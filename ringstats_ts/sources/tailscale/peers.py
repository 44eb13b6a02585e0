"""The peers of a status document to rows of tailscale_peers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ringstats_ts.model import JSON, Entity
from ringstats_ts.sources.canonical import attributes
from ringstats_ts.sources.tailscale.known import PEER, unknown_peer
from ringstats_ts.sources.tailscale.nodes import Fields, Tailnet, read_peer_node
from ringstats_ts.sources.tailscale.split import Path, Split, kind, refuse, text
from ringstats_ts.sources.tailscale.times import ZERO, read_time

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


@dataclass(slots=True)
class Peers:
    """The peers of one document. `zone` is the form of the daemon's local times."""

    zone: str
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    changes: list[tuple[Entity | None, bytes, Mapping[str, Any]]] = field(default_factory=list)
    drift: set[str] = field(default_factory=set)
    exit_node: Entity | None = None
    warnings: tuple[str, ...] = ()

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        index = COLUMNS.index(name)
        return [row[index] for row in self.rows]


def read_peers(peers: Mapping[str, JSON], reporter: Reporter, reporter_id: str | None) -> Peers:
    """Turn the Peer map into rows, changes and drift."""
    for key, peer in peers.items():
        if type(peer) is not dict:
            refuse(("Peer", key), f"is {kind(peer)} where an object is expected")
    ids, warnings = _stable_ids(peers, reporter_id)
    found = Peers(zone=_local_zone(peers.values()), warnings=warnings)
    for (key, peer), stable_id in zip(peers.items(), ids, strict=True):
        _read_peer(key, peer, stable_id, reporter, found)
    return found


def _read_peer(key: str, peer: Fields, stable_id: str, reporter: Reporter, found: Peers) -> None:
    path = ("Peer", key)
    if not peer.keys() <= PEER or "Location" in peer:
        found.drift.update(unknown_peer(peer, "Peer.*"))
    fields = Split(peer, path, PEER)
    cells = _cells(fields, reporter, found.zone)
    rest = fields.rest()
    if peer.get("PublicKey") != key:
        rest["$key"] = key
    kept = attributes(rest)
    node = read_peer_node(peer, path, stable_id, reporter.tailnet, kept)
    found.rows.append((node.entity, *cells, node.key_epoch, kept))
    found.changes.append((node.entity, node.digest, node.facts))
    if found.exit_node is None and peer.get("ExitNode"):
        found.exit_node = node.entity


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
        _path(active, online, cur_addr, peer_relay, relay if says_address else None),
        relay,
        peer_relay,
        cur_addr,
        fields.time("LastHandshake", zone),
        fields.time("LastWrite", zone),
        fields.time("LastSeen"),
        fields.flag("InEngine"),
        fields.flag("ExitNode"),
    )


def _path(
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


def _stable_ids(peers: Mapping[str, JSON], reporter_id: str | None) -> tuple[list[str], tuple[str, ...]]:
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


def _local_zone(peers: Iterable[Fields]) -> str:
    """Find the daemon's own zone, the one that most of its local times are written in."""
    local = [peer.get(key) for peer in peers for key in ("LastHandshake", "LastWrite")]
    zones = Counter([time[-6:] for time in local if type(time) is str and time != ZERO])
    for zone, _ in zones.most_common(1):
        if zone[:1] in "+-" and read_time(f"2000-01-01T00:00:00{zone}") is not None:
            return zone
    return "Z"

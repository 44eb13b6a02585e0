"""A status document to a batch: the reporter's row, its peers' rows, and what changes slowly."""

from __future__ import annotations

from typing import Any

from ringstats_ts.model import Batch, Changes, Context, Entity, Host, Rows
from ringstats_ts.sources.canonical import attributes, canonical, document_digest, facts_digest
from ringstats_ts.sources.sampling import NO_HOST, SampleTime, sample_time
from ringstats_ts.sources.tailscale import peers as peer_rows
from ringstats_ts.sources.tailscale.columns import read_columns, screened
from ringstats_ts.sources.tailscale.known import PEER, STATUS, unknown_peer, unknown_status
from ringstats_ts.sources.tailscale.nodes import Fields, Tailnet, read_node, reporter_id, short_name
from ringstats_ts.sources.tailscale.peers import Peers, Reporter, read_peers
from ringstats_ts.sources.tailscale.split import Split, flag, members, text

COLUMNS = (
    "node_id",
    "backend_state",
    "version",
    "online",
    "health",
    "exit_node_id",
    "relay",
    "addrs",
    "peers",
    "peers_online",
    "peers_active",
    "peers_direct",
    "peers_derp",
    "peers_peer_relay",
    "attribute_id",
)


def read_status(document: dict[str, Any], context: Context) -> Batch:
    """Turn a status document into a batch."""
    status, columns = screened(document)
    tailnet = Tailnet.of(status)
    node = members(status, "Self", ()) or {}
    stable_id = reporter_id(node)
    sample = sample_time(status, context)
    host, host_warnings = _host(node, stable_id, tailnet, context)
    reporter = _reporter(status, node, tailnet)
    own = read_node(node, ("Self",), stable_id or "", tailnet, text(status, "Version", ()))
    if columns is not None and reporter.current:
        peers = read_columns(columns, status, reporter, stable_id)
    else:
        peers = read_peers(members(status, "Peer", ()) or {}, reporter, stable_id)

    exit_node = _exit_node(status, peers, tailnet) if not reporter.stopped else None
    row, facts = _status_row(status, own.entity if stable_id else None, exit_node, peers, sample)
    own_changes = [(own.entity, own.digest, own.facts)] if stable_id else []
    return Batch(
        source="tailscale",
        host=host,
        time=sample.time,
        time_known=sample.known,
        received_at=context.received_at,
        digest=_digest(status, peers),
        rows=(
            Rows("tailscale_status", COLUMNS, [row]),
            Rows("tailscale_peers", peer_rows.COLUMNS, peers.rows, about="node_id"),
        ),
        changes=(
            Changes(
                "tailscale_node_changes",
                "node_id",
                reporter.current,
                [*own_changes, *peers.changes],
                own=own.entity if stable_id else None,
            ),
            Changes("tailscale_status_changes", "host_id", True, [(None, facts_digest(facts), facts)]),
        ),
        drift=tuple(sorted({*unknown_status(status), *unknown_peer(node, "Self"), *peers.drift})),
        warnings=(*sample.warnings, *host_warnings, *peers.warnings),
    )


def _digest(status: Fields, peers: Peers) -> bytes:
    head = {**status, "Peer": {}} if status.get("Peer") else status
    return document_digest(canonical(head) + peers.content)


def _host(
    node: Fields, stable_id: str | None, tailnet: Tailnet, context: Context
) -> tuple[Host, tuple[str, ...]]:
    own_id = text(node, "ID", ("Self",))
    host_name = text(node, "HostName", ("Self",))
    if context.host:
        return Host(f"host:{context.host}", context.host, tailnet.name, stable_id), ()
    if own_id:
        identity = f"tailscale:{tailnet.scope(own_id)}/{own_id}"
        name = short_name(text(node, "DNSName", ("Self",)), host_name) or own_id
        return Host(identity, name, tailnet.name, own_id), ()
    if host_name:
        return Host(f"name:{host_name}", host_name, tailnet.name, stable_id), ()
    return Host(f"sender:{context.sender}", context.sender, tailnet.name, stable_id), (NO_HOST,)


def _reporter(status: Fields, node: Fields, tailnet: Tailnet) -> Reporter:
    state = text(status, "BackendState", ())
    running = state == "Running"
    return Reporter(
        stopped=state is not None and not running,
        cut_off=running and flag(node, "Online", ("Self",)) is False,
        tailnet=tailnet,
    )


def _exit_node(status: Fields, peers: Peers, tailnet: Tailnet) -> Entity | None:
    stable_id = text(members(status, "ExitNodeStatus", ()) or {}, "ID", ("ExitNodeStatus",))
    if peers.exit_node is not None or stable_id is None:
        return peers.exit_node
    wanted = tailnet.node(stable_id, {})
    return next((node for node in peers.column("node_id") if node == wanted), wanted)


def _status_row(
    status: Fields, node: Entity | None, exit_node: Entity | None, peers: Peers, sample: SampleTime
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    fields = Split(status, (), STATUS)
    state, version, health = fields.text("BackendState"), fields.text("Version"), fields.texts("Health")
    if fields.drop("Peer") is None:
        fields.keep("Peer")
    if sample.form is not None:
        fields.drop("_timestamp")
        fields.write("_timestamp", sample.form)
    elif "_timestamp" in status:
        fields.drop("_timestamp")
        fields.keep("_timestamp")
    if peers.zone != "Z":
        fields.write("Peer", peers.zone)
    document = fields.rest()
    online, relay, addrs = None, None, None
    if isinstance(document.get("Self"), dict):
        own = Split(document["Self"], ("Self",), PEER)
        online, relay, addrs = own.flag("Online"), own.text("Relay"), own.texts("Addrs")
        document["Self"] = own.rest()
    row = (
        node,
        state,
        version,
        online,
        health,
        exit_node,
        relay,
        addrs,
        *(_counts(peers) if "Peer" in status else [None] * 6),
        attributes(document),
    )
    facts = {
        "backend_state": state,
        "version": version,
        "health": None if health is None else sorted(set(health)),
        "exit_node_id": exit_node,
    }
    return row, facts


def _counts(peers: Peers) -> list[int | None]:
    """Count the peers: all, online, active, and by path."""
    paths = peers.column("path")
    return [
        len(peers.rows),
        _count(peers.column("online"), True),
        _count(peers.column("active"), True),
        *(_count(paths, path) for path in ("direct", "derp", "peer_relay")),
    ]


def _count(values: list[Any], wanted: Any) -> int | None:
    """Count; None where nothing is known of any."""
    known = [value for value in values if value is not None]
    return None if values and not known else known.count(wanted)

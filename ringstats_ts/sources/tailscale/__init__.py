"""`tailscale status --json`: one document in, one batch out.

The format is `ipn/ipnstate/ipnstate.go` of tailscale/tailscale; every version since
0.97 is read, in every state.
"""

from __future__ import annotations

from ringstats_ts.model import JSON, Batch, Context, Log
from ringstats_ts.sources.tailscale.known import PEER, STATUS
from ringstats_ts.sources.tailscale.status import read_status

# Fields whose names alone tell nothing are not enough to know a node by.
_TELLING = PEER - {
    "ID",
    "HostName",
    "OS",
    "UserID",
    "Tags",
    "Created",
    "Online",
    "Active",
    "Expired",
    "Location",
    "Capabilities",
}
_ENOUGH = 3


class TailscaleSource:
    """The source `tailscale`."""

    name = "tailscale"
    title = "Status of a Tailscale node and its peers, as `tailscale status --json` prints it"
    tables = ("tailscale_status", "tailscale_peers", "tailscale_node_changes", "tailscale_status_changes")
    example = "tailscale status --json | curl --data-binary @- localhost:8000"
    looks = "what `tailscale status --json` prints"

    def detect(self, document: JSON | Log) -> bool:
        """Whether the document is a status, whole or trimmed."""
        if not isinstance(document, dict):
            return False
        if "BackendState" in document:
            return len(document.keys() & STATUS) > 1 or len(document) == 1
        peers = document.get("Peer")
        nodes = [document.get("Self"), *(peers.values() if isinstance(peers, dict) else ())]
        return any(_is_node(node) for node in nodes)

    def parse(self, document: JSON, context: Context) -> Batch:
        """Turn a status document into a batch: see `ringstats_ts.model.Source`."""
        return read_status(document, context)


def _is_node(fields: JSON) -> bool:
    return (
        isinstance(fields, dict) and len(fields.keys() & PEER) >= _ENOUGH and bool(fields.keys() & _TELLING)
    )


TAILSCALE = TailscaleSource()

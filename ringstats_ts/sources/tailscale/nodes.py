"""Who a node is, and what is true of it until it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ringstats_ts.model import JSON, Entity
from ringstats_ts.sources.canonical import facts_digest
from ringstats_ts.sources.tailscale.split import Path, flag, integer, members, text, texts, time
from ringstats_ts.sources.times import write_time

Fields = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Node:
    """A node, what is true of it until it changes, and the digest of that."""

    entity: Entity
    key_epoch: int
    digest: bytes
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tailnet:
    """What nodes take from the document around them."""

    name: str
    users: Fields

    @classmethod
    def of(cls, status: Fields) -> Tailnet:
        current = members(status, "CurrentTailnet", ()) or {}
        reporter = members(status, "Self", ()) or {}
        name = (
            text(status, "MagicDNSSuffix", ())
            or text(current, "MagicDNSSuffix", ("CurrentTailnet",))
            or (text(reporter, "DNSName", ("Self",)) or "").rstrip(".").partition(".")[2]
            or text(current, "Name", ("CurrentTailnet",))
            or ""
        )
        return cls(name, members(status, "User", ()) or {})

    def scope(self, stable_id: str) -> str:
        """Where the id is unique: the ids of Headscale are small numbers, used again by every tailnet."""
        return self.name if stable_id.isdecimal() else ""

    def node(self, stable_id: str, facts: Mapping[str, Any]) -> Entity:
        """Name a node, of which `facts` are known."""
        name = short_name(facts.get("dns_name"), facts.get("host_name")) or stable_id
        fields = {"tailnet": self.name, "name": name}
        return Entity("tailscale_nodes", (self.scope(stable_id), stable_id), fields)

    def login_name(self, user_id: int | None) -> str | None:
        """Look up the login name of a user."""
        user = str(user_id)
        if user not in self.users:
            return None
        return text(members(self.users, user, ("User",)) or {}, "LoginName", ("User", user))


def short_name(dns_name: str | None, host_name: str | None) -> str | None:
    """The name to show for a node: the first label of its DNS name, else its host name."""
    return (dns_name and dns_name.partition(".")[0]) or host_name


def public_key(node: Fields, path: Path) -> str | None:
    """The node key; None for the all-zero key of a node that never logged in."""
    key = text(node, "PublicKey", path)
    return None if key is None or not key.removeprefix("nodekey:").strip("0A=") else key


def reporter_id(node: Fields) -> str | None:
    """The stable id of Self: its ID; for clients before 1.10, which have none, its key; None before login."""
    if "ID" in node:
        return text(node, "ID", ("Self",))
    return public_key(node, ("Self",))


def read_node(node: Fields, path: Path, stable_id: str, tailnet: Tailnet, version: str | None) -> Node:
    """Read a node. The facts are the columns of tailscale_node_changes, ready for JSON."""
    user_id = integer(node, "UserID", path)
    key_expiry = time(node, "KeyExpiry", path)
    facts = {
        "host_name": text(node, "HostName", path),
        "dns_name": text(node, "DNSName", path),
        "os": text(node, "OS", path),
        "version": version,
        "user_id": user_id,
        "user_name": tailnet.login_name(user_id),
        "tags": _sorted(texts(node, "Tags", path)),
        "public_key": public_key(node, path),
        "key_expiry": key_expiry and write_time(key_expiry),
        "expired": flag(node, "Expired", path),
        "exit_node_option": flag(node, "ExitNodeOption", path),
        "tailscale_ips": _addresses(node, path),
        "allowed_ips": _sorted(texts(node, "AllowedIPs", path)),
        "primary_routes": _sorted(texts(node, "PrimaryRoutes", path)),
    }
    key = text(node, "PublicKey", path) or path[-1]
    return Node(tailnet.node(stable_id, facts), _key_epoch(key), facts_digest(facts), facts)


def _key_epoch(key: str) -> int:
    """Map a node key to a number of 63 bits: counters start anew when it changes."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def _sorted(found: list[str] | None) -> list[str] | None:
    return found and sorted(found)


def _addresses(node: Fields, path: Path) -> list[str] | None:
    """TailscaleIPs since 1.8; before that there was one address, TailAddr."""
    found = texts(node, "TailscaleIPs", path)
    if found is not None:
        return sorted(found)
    address = text(node, "TailAddr", path)
    return [address] if address else None

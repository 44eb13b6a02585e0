"""Nodes as Headscale tells them: its API in camelCase, `headscale nodes list -o json` in snake_case.

The command line has Go's encoding/json write the messages of protobuf: an empty field is
left out, ids are numbers, and times are objects with `seconds` and `nanos`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ringstats_ts.model import JSON
from ringstats_ts.sources.devices.fields import Fields, unknown
from ringstats_ts.sources.devices.known import NODE, PRE_AUTH_KEY, USER, camel
from ringstats_ts.sources.devices.listing import Listing

_OWNER = ("user", "namespace")
_KEYS = ("pre_auth_key", "preAuthKey")


def read_node(fields: Fields) -> dict[str, Any]:
    """The columns of a node but those of its identity."""
    return {
        "name": fields.text(*_names("given_name")),
        "hostname": fields.text("name"),
        "user_name": _owner(fields),
        "connected": _online(fields),
        "last_seen": fields.time(*_names("last_seen")),
        "created": fields.time(*_names("created_at")),
        "expires": fields.time("expiry"),
        "ephemeral": _ephemeral(fields),
        "addresses": fields.texts(*_names("ip_addresses")),
        "tags": _tags(fields),
        "advertised_routes": fields.texts(*_names("available_routes")),
        "enabled_routes": fields.texts(*_names("approved_routes")),
        "node_key": fields.text(*_names("node_key")),
        "machine_key": fields.text(*_names("machine_key")),
    }


def without_keys(listing: Listing) -> Listing:
    """The listing without the keys that nodes were registered with: whoever has one may register more."""
    return replace(listing, devices={path: _without_key(node) for path, node in listing.devices.items()})


def _without_key(node: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        name: {part: value for part, value in member.items() if part != "key"}
        if name in _KEYS and isinstance(member, dict)
        else member
        for name, member in node.items()
    }


def unknown_fields(node: Mapping[str, JSON], where: str) -> Iterator[str]:
    """Yield the paths of the unknown fields of a node."""
    yield from unknown(node, NODE, where)
    for name in _OWNER:
        yield from unknown(node.get(name), USER, f"{where}.{name}")
    for name in _KEYS:
        key = node.get(name)
        yield from unknown(key, PRE_AUTH_KEY, f"{where}.{name}")
        if isinstance(key, dict):
            yield from unknown(key.get("user"), USER, f"{where}.{name}.user")


def _names(name: str) -> tuple[str, str]:
    return name, camel(name)


def _owner(fields: Fields) -> str | None:
    """The name of the user, called a namespace before 0.19; the rest of it stays in the attributes."""
    owner = fields.look(*_OWNER)
    name = owner.get("name") if isinstance(owner, dict) else owner
    return name if name and type(name) is str else None


def _online(fields: Fields) -> bool | None:
    online = fields.flag("online")
    # Left out by encoding/json it is false. The prefix is of 0.23, which surely has the field.
    machine_key = fields.look("machine_key")
    tells = type(machine_key) is str and machine_key.startswith("mkey:")
    return False if tells and not fields.has("online") else online


def _ephemeral(fields: Fields) -> bool | None:
    """Whether it goes when it is offline: it does where the key that it was registered with says so."""
    key = fields.look(*_KEYS)
    if not isinstance(key, dict):
        return None
    left_out = False if fields.has("pre_auth_key") else None
    ephemeral = key.get("ephemeral", left_out)
    return ephemeral if type(ephemeral) is bool else None


def _tags(fields: Fields) -> list[str] | None:
    """The tags; before 0.28 those of the operator and those of the node that the policy allows."""
    tags = fields.texts("tags")
    old = [fields.look(*_names(name)) for name in ("forced_tags", "valid_tags")]
    found = [tag for part in old if isinstance(part, list) for tag in part if type(tag) is str]
    return tags if tags is not None or not found else sorted(set(found))

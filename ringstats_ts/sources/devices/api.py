"""Devices as the Tailscale API tells them: `GET /api/v2/tailnet/-/devices`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ringstats_ts.model import JSON
from ringstats_ts.sources.devices.fields import Fields, unknown
from ringstats_ts.sources.devices.known import CLIENT_SUPPORTS, DEVICE, DEVICE_OBJECTS, REGION

_MILLISECONDS = 1000
_NAME_LENGTH = 255
"""No DNS name is longer."""


def read_device(fields: Fields) -> dict[str, Any]:
    """The columns of a device but those of its identity."""
    derp, latency = _home(fields.look("clientConnectivity"))
    return {
        "name": fields.text("name"),
        "hostname": fields.text("hostname"),
        "user_name": fields.text("user"),
        "os": fields.text("os"),
        "client_version": fields.text("clientVersion"),
        "update_available": fields.flag("updateAvailable"),
        "connected": fields.flag("connectedToControl"),
        "last_seen": fields.time("lastSeen"),
        "created": fields.time("created"),
        "expires": fields.time("expires"),
        "key_expiry_disabled": fields.flag("keyExpiryDisabled"),
        "authorized": fields.flag("authorized"),
        "external": fields.flag("isExternal"),
        "ephemeral": fields.flag("isEphemeral"),
        "blocks_incoming": fields.flag("blocksIncomingConnections"),
        "ssh_enabled": fields.flag("sshEnabled"),
        "addresses": fields.texts("addresses"),
        "tags": fields.texts("tags"),
        "advertised_routes": fields.texts("advertisedRoutes", "advertiseRoutes", "AdvertisedRoutes"),
        "enabled_routes": fields.texts("enabledRoutes"),
        "derp": derp,
        "latency_seconds": latency,
        "multiple_connections": fields.flag("multipleConnections"),
        "node_key": fields.text("nodeKey"),
        "machine_key": fields.text("machineKey"),
        "tailnet_lock_error": fields.text("tailnetLockError"),
    }


def tailnet_of(devices: Iterable[Mapping[str, Any]]) -> str:
    """The DNS suffix of most devices that are not shared in from elsewhere; empty where there is none."""
    names = [str(device["name"] or "") for device in devices if not device["external"]]
    suffixes = Counter(name.rstrip(".").partition(".")[2] for name in names if len(name) <= _NAME_LENGTH)
    del suffixes[""]
    return min(suffixes, key=lambda suffix: (-suffixes[suffix], suffix), default="")


def unknown_fields(device: Mapping[str, JSON], where: str) -> Iterator[str]:
    """Yield the paths of the unknown fields of a device."""
    yield from unknown(device, DEVICE, where)
    for name, known in DEVICE_OBJECTS.items():
        yield from unknown(device.get(name), known, f"{where}.{name}")
    connectivity = device.get("clientConnectivity")
    if isinstance(connectivity, dict):
        where = f"{where}.clientConnectivity"
        yield from unknown(connectivity.get("clientSupports"), CLIENT_SUPPORTS, f"{where}.clientSupports")
        for region in _regions(connectivity).values():
            yield from unknown(region, REGION, f"{where}.latency.*")


def _home(connectivity: JSON) -> tuple[str | None, float | None]:
    """The preferred DERP region and the latency to it [s]. All of it stays in the attributes as well."""
    if not isinstance(connectivity, dict):
        return None, None
    regions = _regions(connectivity).items()
    name, region = next(((name, one) for name, one in regions if one.get("preferred") is True), (None, {}))
    derp = connectivity.get("derp")
    return derp if derp and type(derp) is str else name, _seconds(region.get("latencyMs"))


def _seconds(latency: JSON) -> float | None:
    is_number = isinstance(latency, int | float) and not isinstance(latency, bool)
    return float(latency) / _MILLISECONDS if is_number else None


def _regions(connectivity: Mapping[str, JSON]) -> dict[str, dict[str, JSON]]:
    latency = connectivity.get("latency")
    regions = latency.items() if isinstance(latency, dict) else ()
    return {name: region for name, region in regions if isinstance(region, dict)}

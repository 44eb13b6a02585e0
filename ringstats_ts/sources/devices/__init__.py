"""Devices as the control server lists them: Tailscale's API, and Headscale's.

Both become rows of tailscale_devices, and the listing itself, which may be empty, a row of
tailscale_device_lists. A single device or node is no listing: it has no row there. An array of
them is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ringstats_ts.model import JSON, Batch, Context, Log
from ringstats_ts.sources.canonical import document_digest
from ringstats_ts.sources.devices import api, headscale
from ringstats_ts.sources.devices.known import names
from ringstats_ts.sources.devices.listing import Format, Listing, read_listing
from ringstats_ts.sources.sampling import STAMP
from ringstats_ts.sources.secrets import screened
from ringstats_ts.sources.tailscale.split import Path, kind, refuse

TABLES = ("tailscale_devices", "tailscale_device_lists")

_ENOUGH = 2
_DEVICE = names(
    """nodeId nodeKey machineKey clientVersion updateAvailable connectedToControl keyExpiryDisabled isExternal
    isEphemeral blocksIncomingConnections tailnetLockError tailnetLockKey clientConnectivity"""
)
_NODE_ALONE = names("givenName discoKey ipAddresses registerMethod preAuthKey")
_NODE = _NODE_ALONE | {"nodeKey", "machineKey"}
_SNAKE_NODE = names("given_name disco_key ip_addresses register_method pre_auth_key node_key machine_key")
_WRAPPER = frozenset(("status", "body", STAMP))

PathIn = Callable[[dict[str, JSON]], Path | None]


class DevicesSource:
    """The source `devices`."""

    name = "devices"
    title = "Devices of a tailnet, as the Tailscale API lists them"
    tables = TABLES
    example = (
        'curl -H "Authorization: Bearer $KEY" "https://api.tailscale.com/api/v2/tailnet/-/devices?fields=all"'
        " | curl --data-binary @- localhost:8000"
    )
    looks = "an answer of the Tailscale devices API"

    def detect(self, document: JSON | Log) -> bool:
        """Whether the document is a listing, or a device alone."""
        if isinstance(document, list):
            return _is_listing(document, _device_path)
        return isinstance(document, dict) and _device_path(document) is not None

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn a listing into a batch: see `ringstats_ts.model.Source`."""
        cleaned, encoded = screened(document)
        path = _path_in(cleaned, _device_path)
        listing = _listing(cleaned, path)
        drift = (
            key for device in listing.devices.values() for key in api.unknown_fields(device, "devices.*")
        )
        return read_listing(
            listing, _API, context, document_digest(encoded), {*drift, *_unknown_around(listing, path)}
        )


class HeadscaleSource:
    """The source `headscale`."""

    name = "headscale"
    title = "Nodes of a Headscale server, as its API or `headscale nodes list -o json` lists them"
    tables = TABLES
    example = "headscale nodes list -o json | curl --data-binary @- 'localhost:8000?host=headscale'"
    looks = "an answer of the Headscale API"

    def detect(self, document: JSON | Log) -> bool:
        """Whether the document is a listing, or a node, alone or in a member that says so."""
        if isinstance(document, list):
            return _is_listing(document, _node_path)
        return isinstance(document, dict) and _node_path(document) is not None

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn a listing into a batch: see `ringstats_ts.model.Source`."""
        cleaned, encoded = screened(document)
        path = _path_in(cleaned, _node_path)
        listing = headscale.without_keys(_listing(cleaned, path))
        drift = (
            key for node in listing.devices.values() for key in headscale.unknown_fields(node, "nodes.*")
        )
        return read_listing(
            listing, _HEADSCALE, context, document_digest(encoded), {*drift, *_unknown_around(listing, path)}
        )


_API = Format(
    source=DevicesSource.name,
    kind="tailscale",
    ids=("nodeId", "id"),
    keys=("nodeKey", "machineKey"),
    node_id="nodeId",
    read=api.read_device,
    tailnet=api.tailnet_of,
)
_HEADSCALE = Format(
    source=HeadscaleSource.name,
    kind="headscale",
    ids=("id",),
    keys=("node_key", "nodeKey", "machine_key", "machineKey"),
    node_id=None,
    read=headscale.read_node,
    tailnet=lambda _: "",
)


def _is_listing(elements: list[JSON], path_in: PathIn) -> bool:
    """Whether the elements of an array are devices, none of which has a time of its own."""
    return bool(elements) and all(
        isinstance(element, dict) and STAMP not in element and path_in(element) == () for element in elements
    )


def _path_in(document: JSON, path_in: PathIn) -> Path:
    """Where the devices of a document are that was detected; an array holds them itself."""
    return () if isinstance(document, list) else path_in(document) or ()


def _device_path(document: dict[str, JSON]) -> Path | None:
    """Where the devices are: in a member, or () for a document that is one; None where there are none."""
    return _path(document, ("devices",), (), _is_device)


def _node_path(document: dict[str, JSON]) -> Path | None:
    """Where the nodes are. Headscale's own tests keep answers with their status, in `body`."""
    body = document.get("body")
    if isinstance(body, dict) and document.keys() <= _WRAPPER:
        path = _path(body, ("nodes", "machines"), ("node", "machine"), _is_node)
        return ("body", *path) if path else None
    return _path(document, ("nodes", "machines"), ("node", "machine"), _is_node)


def _path(
    body: dict[str, JSON], many: Iterable[str], one: Iterable[str], is_device: Callable[[JSON], bool]
) -> Path | None:
    for key in many:
        if key in body:
            members = body[key]
            # Of a listing the first tells what it is of, and an empty one its name alone.
            if members in (None, []):
                return (key,) if body.keys() <= {key, STAMP} else None
            return (key,) if isinstance(members, list) and is_device(members[0]) else None
    for key in one:
        if is_device(body.get(key)):
            return (key,)
    return () if is_device(body) else None


def _is_device(device: JSON) -> bool:
    return (
        isinstance(device, dict)
        and len(device.keys() & _DEVICE) >= _ENOUGH
        and device.keys().isdisjoint(_NODE_ALONE)
    )


def _is_node(node: JSON) -> bool:
    if not isinstance(node, dict):
        return False
    camel = len(node.keys() & _NODE) >= _ENOUGH and not node.keys().isdisjoint(_NODE_ALONE)
    return camel or len(node.keys() & _SNAKE_NODE) >= _ENOUGH


def _listing(document: JSON, path: Path) -> Listing:
    """Take the devices at the path out of the document."""
    if isinstance(document, list):
        return Listing(_numbered(document, ()), {})
    if not path:
        device = {key: value for key, value in document.items() if key != STAMP}
        around = {key: document[key] for key in (STAMP,) if key in document}
        return Listing({(): device}, around, alone=True)
    *outer, key = path
    body = document["body"] if outer else document
    around = {name: value for name, value in body.items() if name != key}
    if outer:
        rest = {"body": around} if around else {}
        around = {name: value for name, value in document.items() if name != "body"} | rest
    if isinstance(body[key], dict):
        return Listing({path: body[key]}, around, alone=True)
    return Listing(_numbered(body[key] or (), path), around)


def _numbered(devices: Iterable[JSON], path: Path) -> dict[Path, dict[str, JSON]]:
    """The devices of the array at the path, each by its own path."""
    numbered = {(*path, str(number)): device for number, device in enumerate(devices)}
    for place, device in numbered.items():
        if not isinstance(device, dict):
            refuse(place, f"is {kind(device)} where an object is expected")
    return numbered


def _unknown_around(listing: Listing, path: Path) -> Iterable[str]:
    """The paths of the unknown fields around the devices."""
    known = _WRAPPER - {"body"} if path[:1] == ("body",) else {STAMP}
    for key, value in listing.around.items():
        if key == "body" and path[:1] == ("body",):
            yield from (f"body.{name}" for name in value)
        elif key not in known:
            yield key


DEVICES = DevicesSource()
HEADSCALE = HeadscaleSource()

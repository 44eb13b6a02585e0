"""The fields of devices and nodes that are known, by who writes them.

Those of the Tailscale API are in its OpenAPI description (api.tailscale.com) and in
`publicapi/device.md` of tailscale/tailscale; those of Headscale, 0.12 to 0.29, in
`proto/headscale/v1` of juanfont/headscale: `machine.proto` at first, `node.proto` since
0.23. A field that is not here is kept all the same, and reported as drift.
"""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def camel(name: str) -> str:
    """The name that protobuf's JSON has for a field of a .proto file."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _both(text: str) -> frozenset[str]:
    snake = names(text)
    return snake | {camel(name) for name in snake}


DEVICE = names(
    """addresses id nodeId user name hostname clientVersion updateAvailable os created connectedToControl
    lastSeen keyExpiryDisabled expires authorized isExternal isEphemeral multipleConnections machineKey
    nodeKey blocksIncomingConnections tags tailnetLockError tailnetLockKey enabledRoutes advertisedRoutes
    advertiseRoutes AdvertisedRoutes clientConnectivity postureIdentity sshEnabled distro"""
)
DEVICE_OBJECTS = {
    "clientConnectivity": names("endpoints derp mappingVariesByDestIP latency clientSupports"),
    "postureIdentity": names("serialNumbers hardwareAddresses disabled"),
    "distro": names("name version codeName"),
}
CLIENT_SUPPORTS = names("hairPinning ipv6 pcp pmp udp upnp")
REGION = names("latencyMs preferred")

NODE = _both(
    """id machine_key node_key disco_key ip_addresses name user namespace last_seen last_successful_update
    expiry pre_auth_key created_at register_method forced_tags invalid_tags valid_tags given_name online
    approved_routes available_routes subnet_routes tags"""
)
USER = _both("id name created_at display_name email provider_id provider profile_pic_url")
PRE_AUTH_KEY = _both(
    "user namespace id key reusable ephemeral used expiration created_at acl_tags pre_approved"
)

"""The fields that tailscaled has ever put into a status document, 0.97 to 1.103.

Their definition is `ipn/ipnstate/ipnstate.go` of tailscale/tailscale. A field that is
not here is kept all the same, and reported as drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ringstats_ts.model import JSON


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


STATUS = _names(
    """Version TUN BackendState HaveNodeKey AuthURL TailscaleIPs Self ExitNodeStatus Health MagicDNSSuffix
    CurrentTailnet CertDomains ExtraRecords Peer User ClientVersion _timestamp"""
)
PEER = _names(
    """ID NodeID PublicKey HostName DNSName OS UserID AltSharerUserID TailscaleIPs AllowedIPs Tags
    PrimaryRoutes Addrs CurAddr Relay PeerRelay RxBytes TxBytes Created LastWrite LastSeen LastHandshake
    Online KeepAlive ExitNode ExitNodeOption Active PeerAPIURL TaildropTarget NoFileSharingReason
    Capabilities CapMap sshHostKeys ShareeNode InNetworkMap InMagicSock InEngine Expired KeyExpiry
    Location TailAddr"""
)
_LOCATION = _names("Country CountryCode City CityCode Latitude Longitude Priority")
_USER = _names("ID LoginName DisplayName ProfilePicURL Groups Roles")
_OBJECTS = {
    "ExitNodeStatus": _names("ID Online TailscaleIPs"),
    "CurrentTailnet": _names("Name MagicDNSSuffix MagicDNSEnabled"),
    "ClientVersion": _names("RunningLatest LatestVersion UrgentSecurityUpdate Notify NotifyURL NotifyText"),
}
_RECORD = _names("Name Type Value")


def unknown_status(status: Mapping[str, JSON]) -> Iterator[str]:
    """Yield the paths of the unknown fields of a status document, but for those of Self and Peer."""
    yield from status.keys() - STATUS
    for name, known in _OBJECTS.items():
        yield from _unknown(status.get(name), known, name)
    users = status.get("User")
    for user in users.values() if isinstance(users, dict) else ():
        yield from _unknown(user, _USER, "User.*")
    records = status.get("ExtraRecords")
    for record in records if isinstance(records, list) else ():
        yield from _unknown(record, _RECORD, "ExtraRecords.*")


def unknown_peer(peer: Mapping[str, JSON], where: str) -> Iterator[str]:
    """Yield the paths of the unknown fields of Self (`where` is Self) or of a peer (`Peer.*`)."""
    for key in peer.keys() - PEER:
        yield f"{where}.{key}"
    if "Location" in peer:
        yield from _unknown(peer["Location"], _LOCATION, f"{where}.Location")


def _unknown(fields: JSON, known: frozenset[str], where: str) -> Iterator[str]:
    if isinstance(fields, dict):
        for key in fields.keys() - known:
            yield f"{where}.{key}"

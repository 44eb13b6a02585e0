"""Who may report as which host: the text of a token, and the hosts that it is for.

No database and no HTTP: `storage.tokens` keeps tokens, `webapp.auth` asks for them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from ringstats_ts.errors import ConfigError, Forbidden, Unauthorized
from ringstats_ts.model import Batch, Token

SCOPES = ("ingest", "read")
ANY_HOST = "*"

# Letters and digits alone: nothing to escape, and a double click selects the whole.
_ALPHABET = string.digits + string.ascii_letters
_KEY_LENGTH = 8
# 62 ** 43 > 2 ** 256
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
_TOKEN = re.compile(
    rf"(tss_([0-9A-Za-z]{{{_KEY_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}}))_([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})"
)
_NAME_LENGTH = 253


@dataclass(frozen=True, slots=True)
class Credential:
    """What a token's text says: which token it is, and the SHA-256 of its secret."""

    key_id: str
    digest: bytes


def new_token() -> str:
    """Make the text of a token, `tss_<key id>_<secret>_<checksum>`, with 256 bits of secret."""
    head = f"tss_{_random(_KEY_LENGTH)}_{_random(_SECRET_LENGTH)}"
    return f"{head}_{_checksum(head)}"


def read_token(text: str) -> Credential:
    """Take the text of a token apart. Its checksum tells a slip of the pen without a look-up.

    Raises
    ------
    Unauthorized
    """
    match = _TOKEN.fullmatch(text)
    if match is None or match[4] != _checksum(match[1]):
        raise Unauthorized(
            "What was sent is no token, or not a whole one.", "Send it as `tsstats token create` printed it."
        )
    return Credential(match[2], hashlib.sha256(match[3].encode()).digest())


def parse_hosts(text: str) -> str:
    """Check a host's name, or a pattern of names with `*` and `?`."""
    hosts = text.strip()
    if not hosts or len(hosts) > _NAME_LENGTH or not hosts.isprintable():
        raise ValueError("write a host's name such as web-1, or a pattern such as 'web-*'")
    return hosts


def own_host(token: Token | None) -> str | None:
    """The one host that the token is for; None where that is for the sender to say."""
    return None if token is None or "*" in token.hosts or "?" in token.hosts else token.hosts


def check_host(token: Token | None, batch: Batch) -> Batch:
    """The batch, of a host that the token is for.

    What a document says of its host cannot be trusted beyond the name that was checked: an
    id in it may be another host's. So that name becomes the identity, unless the token is
    for any host. Nor is a listing of the nodes of others its to tell.

    Raises
    ------
    Forbidden
    """
    if token is None or token.hosts == ANY_HOST:
        return batch
    name = batch.host.name
    _check_name(token, name)
    return replace(batch, host=replace(batch.host, identity=f"host:{name}"), listed=())


def check_open(auth: bool | None, address: Any, proxy_hops: int) -> None:
    """Refuse to serve everybody by oversight. `address` is a socket's own, as getsockname gives it.

    Raises
    ------
    ConfigError
        TSSTATS_AUTH is not set, and it is neither loopback nor a Unix socket, or a proxy
        brings others there.
    """
    if auth is not None:
        return
    if proxy_hops:
        place = "the proxy in front (TSSTATS_PROXY_HOPS)"
    elif isinstance(address, tuple) and not is_loopback(address[0]):
        place = str(address[0])
    else:
        return
    raise ConfigError(
        f"Anybody who can reach {place} could send and read, since TSSTATS_AUTH is not set.",
        "Set TSSTATS_AUTH=on and make tokens with `tsstats token create`, "
        "or TSSTATS_AUTH=off where all who can reach it may.",
    )


def is_loopback(address: str) -> bool:
    """Whether it is an IP address of this machine alone."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback


def network_of(address: str) -> str:
    """The addresses that one sender may choose from: of IPv6 the first 64 bits, else the address."""
    try:
        found = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return str(ip_network((found.packed, 64), strict=False))
    return address


def _check_name(token: Token, name: str) -> None:
    # Letter by letter: names that only look or fold alike are other hosts.
    if len(name) > _NAME_LENGTH or not fnmatchcase(name, token.hosts.replace("[", "[[]")):
        shown = name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}…"
        raise Forbidden(f"The token {token.key_id} is for {token.hosts!r}, not for the host {shown!r}.")


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(text: str) -> str:
    rest, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits

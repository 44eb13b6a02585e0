"""What sources look up without leaving the process: pseudonyms of clients, places, network codes.

Pure: `ringstats_ts.references` reads the files that this is made from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import blake2b
from ipaddress import ip_address

_PSEUDONYM_BYTES = 8
_NAME_LENGTH = 255
_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address is, as far as it is known. `country` is its ISO 3166-1 alpha-2 code."""

    country: str | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    geohash: str | None = None


UNKNOWN_PLACE = Place()

# Behind a colon too, where what is before it is a word: `xff:203.0.113.9`.
_ADDRESSES = re.compile(
    r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9])"
    r"|(?:(?<![0-9A-Za-z.:])|(?<=[g-zG-Z_]:))[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:(?:[0-9A-Fa-f:.]*[0-9A-Fa-f:])?"
)


@dataclass(frozen=True, slots=True)
class Network:
    """A network that used a code from `start` to `end`, both included; `end` None is still."""

    extended: str
    start: date
    end: date | None = None


@dataclass(frozen=True, slots=True)
class Lookups:
    """What is known of clients and networks.

    Parameters
    ----------
    keys
        of pseudonyms. The first makes them; the last, which is never exchanged, makes the
        ids of events.
    raw
        whether clients are stored as they are.
    find_place
        gives the place of an address.
    networks
        by code, those that have used it.
    """

    keys: Sequence[bytes] = (b"",)
    raw: bool = False
    find_place: Callable[[str], Place] | None = None
    networks: Mapping[str, Sequence[Network]] | None = None

    def client(self, address: str) -> str:
        """The client as it is stored: 16 hexadecimal digits, or the address or name itself if asked for."""
        if self.raw:
            return address[:_NAME_LENGTH]
        return blake2b(address.encode(), digest_size=_PSEUDONYM_BYTES, key=self.keys[0][:64]).hexdigest()

    def without_addresses(self, text: str) -> str:
        """The text, the addresses in it as clients are stored."""
        return _ADDRESSES.sub(lambda found: self.client(found[0]) if is_address(found[0]) else found[0], text)

    def place(self, address: str) -> Place:
        """Where the address is."""
        return UNKNOWN_PLACE if self.find_place is None else self.find_place(address)

    def network(self, code: str, at: datetime) -> str | None:
        """The code with the year in which its network began, as of that day in UTC; None where unknown."""
        day = at.date()
        for network in (self.networks or {}).get(code, ()):
            if network.start <= day and (network.end is None or day <= network.end):
                return network.extended
        return None

    @property
    def event_key(self) -> bytes:
        """The key of event ids."""
        return self.keys[-1][:64]


def is_address(text: str) -> bool:
    """Whether it is an address, without a zone (fe80::1%eth0)."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


class EventIds:
    """Gives the events of a log their ids: 63 bits, the same for the same content.

    Equal events are told apart by their order, so that the same log gives the same ids again,
    and so does a longer one for what it begins with. For one log; its parts come in order.

    Parameters
    ----------
    key
        of the hash: without it nobody can try which client an id was made of.
    equal_before
        how many equal ones an event had before it, where it is taken out of its log.
    """

    def __init__(self, key: bytes = b"", equal_before: int = 0) -> None:
        self._key = key
        self._first = equal_before
        self._seen: dict[bytes, int] = {}
        self._before: dict[bytes, int] = {}

    def of(self, content: bytes) -> int:
        """The id of an event. `content` has all that tells it from others, its time too."""
        digest = blake2b(content, digest_size=_ID_BYTES, key=self._key).digest()
        number = self._seen.get(digest) or self._before.get(digest, self._first)
        self._seen[digest] = number + 1
        if number:
            digest = blake2b(b"%s %d" % (digest, number), digest_size=_ID_BYTES, key=self._key).digest()
        return int.from_bytes(digest, "big") >> 1

    def next_part(self) -> None:
        """Begin a part of the log. Equal events are near each other: two parts are remembered."""
        self._seen, self._before = {}, self._seen

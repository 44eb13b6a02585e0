"""Where addresses are, by a file in MaxMind's format.

The format is https://maxmind.github.io/MaxMind-DB/, the fields are those of MaxMind's City and
Country databases (https://dev.maxmind.com/geoip/docs/databases/city-and-country); DB-IP and
IP2Location publish files with the same.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_address
from itertools import islice
from pathlib import Path
from typing import Any

import maxminddb

from ringstats_ts.errors import ConfigError
from ringstats_ts.lookups import UNKNOWN_PLACE, Place

GEOHASH_LENGTH = 7
"""A cell of 153 m: the smallest that no database claims to beat, MaxMind's best radius being 1 km."""

_BASE32 = "0123456789bcdefghjkmnpqrstuvwxyz"
_COUNTRY = re.compile(r"(?!ZZ)[A-Z]{2}")
_LONGEST_ADDRESS = 45
# At 500 bytes each, 8 MB a process; reading a record takes 30 µs.
_REMEMBERED = 16_384
_TRIED = 1000
# What the reader raises for bytes that are no such file, found by changing bytes of one.
_BROKEN = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, struct.error)


def read_places(path: Path) -> Callable[[str], Place]:
    """Read the file whole; what it gives may be called from any thread.

    In memory, because a mapped file that is overwritten in place, not replaced, would end the
    process with SIGBUS.

    Raises
    ------
    ConfigError
        where it is no such file, or tells no places, as one of network owners does.
    OSError
    """
    with path.open("rb") as file:
        try:
            reader = maxminddb.open_database(file, maxminddb.MODE_FD)
            known = any(_place(record) != UNKNOWN_PLACE for _, record in islice(reader, _TRIED))
        except _BROKEN:
            raise ConfigError(
                f"{path} is not a whole file in MaxMind's format.",
                "Download it again, and unpack it: its name ends in .mmdb.",
            ) from None
    if not known:
        kind = reader.metadata().database_type
        raise ConfigError(
            f"{path} tells no places: it is of the kind {kind!r}.", "Take one of City or Country."
        )
    find = lru_cache(_REMEMBERED)(partial(_find, reader))
    # Names of any length come here, and would be remembered.
    return lambda address: find(address) if len(address) <= _LONGEST_ADDRESS else UNKNOWN_PLACE


def geohash(latitude: float, longitude: float, length: int = GEOHASH_LENGTH) -> str:
    """The cell that a point is in, as https://en.wikipedia.org/wiki/Geohash writes it."""
    number = 0
    (south, north), (west, east) = (-90.0, 90.0), (-180.0, 180.0)
    for bit in range(5 * length):
        number <<= 1
        if bit % 2:
            middle = (south + north) / 2
            south, north, upper = (middle, north, 1) if latitude >= middle else (south, middle, 0)
        else:
            middle = (west + east) / 2
            west, east, upper = (middle, east, 1) if longitude >= middle else (west, middle, 0)
        number |= upper
    return "".join(_BASE32[number >> shift & 31] for shift in range(5 * length - 5, -1, -5))


def _find(reader: maxminddb.Reader, text: str) -> Place:
    try:
        address = ip_address(text)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return _place(reader.get(address))
    # No address, or one of IPv6 in a file of IPv4 alone; or its record is damaged.
    except _BROKEN:
        return UNKNOWN_PLACE


def _place(record: Any) -> Place:
    # Not `registered_country`: that is where the owner of the address is, not who uses it.
    country = _text(_at(record, "country", "iso_code"))
    latitude, longitude = _point(_at(record, "location", "latitude"), _at(record, "location", "longitude"))
    return Place(
        country=country if country and _COUNTRY.fullmatch(country) else None,
        city=_text(_at(record, "city", "names", "en")),
        latitude=latitude,
        longitude=longitude,
        geohash=None if latitude is None or longitude is None else geohash(latitude, longitude),
    )


def _at(record: Any, *keys: str) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _text(value: Any) -> str | None:
    # IP2Location writes `-` for what it does not know. PostgreSQL takes no NUL.
    return value if isinstance(value, str) and value.strip() not in ("", "-") and "\0" not in value else None


def _point(latitude: Any, longitude: Any) -> tuple[float, float] | tuple[None, None]:
    # By type: true is no number here.
    if type(latitude) not in (int, float) or type(longitude) not in (int, float):
        return None, None
    # 0, 0 is in the sea: what files say that have a number for everything.
    if (latitude, longitude) == (0, 0) or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return None, None
    # To 1 m: some files have single precision, which shows behind that.
    return round(float(latitude), 5), round(float(longitude), 5)

"""The FDSN's registry of network codes, to tell apart those that used a temporary code in turn.

Two forms are read: JSON of https://www.fdsn.org/ws/networks/1/query, and the text of
fdsnws-station at the level of networks (https://www.fdsn.org/webservices/).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import orjson

from ringstats_ts.errors import ConfigError
from ringstats_ts.lookups import Network

# Given to one deployment after another:
# https://docs.fdsn.org/projects/source-identifiers/en/v1.0/network-codes.html
_TEMPORARY = re.compile(r"[0-9XYZ][0-9A-Z]")
_COLUMNS = 5
_HINT = (
    "Save https://www.fdsn.org/ws/networks/1/query, or "
    "`/fdsnws/station/1/query?level=network&format=text` of a data centre."
)


def read_networks(path: Path) -> Mapping[str, Sequence[Network]]:
    """The networks that have used each temporary code, the one that began last first.

    Raises
    ------
    ConfigError
        naming the line or element that cannot be read.
    OSError
    """
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    rows = _json_rows(path, text) if text.lstrip()[:1] in (b"{", b"[") else _text_rows(path, text)
    networks = defaultdict(list)
    for code, network in rows:
        if network is not None:
            networks[code].append(network)
    return {code: sorted(found, key=lambda one: one.start, reverse=True) for code, found in networks.items()}


def _json_rows(path: Path, text: bytes) -> Iterator[tuple[str, Network | None]]:
    try:
        elements = orjson.loads(text)["networks"]
    except (ValueError, LookupError, TypeError):
        elements = None
    if not isinstance(elements, list) or not elements:
        raise ConfigError(f"{path} is no JSON with an array `networks`, or not the whole of it.", _HINT)
    for number, element in enumerate(elements):
        try:
            code = element["fdsn_code"]
            yield code, _network(code, element)
        except (ValueError, LookupError, TypeError):
            raise ConfigError(f"The element /networks/{number} of {path} is no network.", _HINT) from None


def _text_rows(path: Path, text: bytes) -> Iterator[tuple[str, Network | None]]:
    number = 0
    for number, line in enumerate(text.decode(errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        # From the end: a description may have a bar in it.
        fields = [field.strip() for field in line.split("|")]
        try:
            if len(fields) < _COLUMNS:
                raise ValueError
            yield fields[0], _network(fields[0], {"start_date": fields[-3], "end_date": fields[-2]})
        except ValueError:
            raise ConfigError(f"Line {number} of {path} is no network.", _HINT) from None
    if not number:
        raise ConfigError(f"{path} is empty.", _HINT)


def _network(code: str, row: Mapping[str, Any]) -> Network | None:
    """The network, or None where its code is its own."""
    if not _TEMPORARY.fullmatch(code):
        return None
    start, end = _day(row["start_date"]), row.get("end_date")
    # `<2-character code><4-digit start year>`, such as XA2002: the FDSN's transitional mapping of
    # these codes (docs.fdsn.org, above).
    return Network(f"{code}{start.year:04}", start, _day(end) if end else None)


def _day(text: str) -> date:
    return datetime.fromisoformat(text).date()

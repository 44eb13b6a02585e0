"""Stream ids of a ringserver, taken apart.

`NET_STA_LOC_CHA/FORMAT` is what ringserver writes before version 4, and
`FDSN:NET_STA_LOC_BAND_SOURCE_SUBSOURCE/FORMAT`, the FDSN source identifier, since then; either may
have `/LABEL` behind it. A DataLink client may give its streams any other id.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_CODE = r"[0-9A-Za-z-]"
_SEED = re.compile(rf"({_CODE}{{1,8}})_({_CODE}{{1,8}})_({_CODE}{{0,8}})_({_CODE}{{3}})")
_FDSN = re.compile(
    rf"FDSN:({_CODE}{{1,8}})_({_CODE}{{1,8}})_({_CODE}{{0,8}})_((?:{_CODE}*+_){{2}}{_CODE}*+)",
)
_SHORT_CHANNEL = re.compile(rf"({_CODE})_({_CODE})_({_CODE})")
_TEMPORARY = re.compile(r"[0-9XYZ][0-9A-Z]")


class Stream(NamedTuple):
    """The parts of a stream id, in the order of the columns; None where the id does not have it."""

    network: str | None = None
    station: str | None = None
    location: str | None = None
    channel: str | None = None
    label: str | None = None
    format: str | None = None


@lru_cache(maxsize=65536)
def read_stream_id(stream_id: str) -> Stream:
    """Take a stream id apart; of one in another form only what is behind the first `/` is known."""
    name, _, rest = stream_id.partition("/")
    form, _, label = rest.partition("/")
    match = _FDSN.fullmatch(name) or _SEED.fullmatch(name)
    if match is None:
        return Stream(label=label or None, format=form or None)
    network, station, location, channel = match.groups()
    return Stream(network, station, location, _seed_channel(channel), label or None, form or None)


def is_temporary(network: str) -> bool:
    """Whether the code is one that the FDSN gives to one network after the other."""
    return _TEMPORARY.fullmatch(network) is not None


def _seed_channel(channel: str) -> str:
    """Write band, source and subsource as a SEED channel where there is one: codes of one character each."""
    match = _SHORT_CHANNEL.fullmatch(channel)
    return "".join(match.groups()) if match else channel

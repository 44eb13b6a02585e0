"""A listing of devices to a batch, whoever wrote it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.limits import pointer
from ringstats_ts.model import JSON, Batch, Context, Entity, Host, Rows
from ringstats_ts.sources.canonical import attributes
from ringstats_ts.sources.devices.fields import AROUND, Fields
from ringstats_ts.sources.sampling import NO_HOST, STAMP, SampleTime, sample_time
from ringstats_ts.sources.tailscale.nodes import Tailnet
from ringstats_ts.sources.tailscale.split import Path, refuse

COLUMNS = (
    "device_id",
    "kind",
    "node_id",
    "name",
    "hostname",
    "user_name",
    "os",
    "client_version",
    "update_available",
    "connected",
    "last_seen",
    "created",
    "expires",
    "key_expiry_disabled",
    "authorized",
    "external",
    "ephemeral",
    "blocks_incoming",
    "ssh_enabled",
    "addresses",
    "tags",
    "advertised_routes",
    "enabled_routes",
    "derp",
    "latency_seconds",
    "multiple_connections",
    "node_key",
    "machine_key",
    "tailnet_lock_error",
    "attribute_id",
)
LIST_COLUMNS = ("kind", "devices", "connected", "external", "attribute_id")

_READ = COLUMNS[3:-1]
_DIGITS = 6
_ID_LENGTH = 200
"""Longer ones are of nobody, and an index has no room for the longest."""
_LAST = datetime.max.replace(tzinfo=UTC)
_SAME_ID = "Several devices have the same ID; those behind the first have a number added to it."

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """The devices of a document by their paths, and what is around them.

    `alone`: it is one device that was asked for by itself, which is no listing.
    """

    devices: Mapping[Path, dict[str, JSON]]
    around: Mapping[str, JSON]
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """How devices are written.

    `ids` are the keys of a device's id, `keys` those that stand in for it; `node_id` is the
    one that status documents have as well. `read` gives the columns of a device, but for
    those of its identity, and `tailnet` the one that they are in.
    """

    source: str
    kind: str
    ids: tuple[str, ...]
    keys: tuple[str, ...]
    node_id: str | None
    read: Callable[[Fields], Row]
    tailnet: Callable[[Sequence[Row]], str]


def read_listing(
    listing: Listing, form: Format, context: Context, digest: bytes, drift: Iterable[str]
) -> Batch:
    """Turn the listing of a screened document into a batch."""
    found = [Fields(device, path) for path, device in listing.devices.items()]
    ids, id_warnings = _device_ids(found, form)
    devices = [form.read(fields) for fields in found]
    tailnet = form.tailnet(devices)
    host, host_warnings = _host(tailnet, context)
    sample = sample_time(listing.around, context)
    beside = _beside(listing, sample)
    rows = [
        (
            device_id,
            form.kind,
            _node(fields, device, tailnet, form),
            *map(device.get, _READ),
            attributes(fields.rest() | beside),
        )
        for device_id, fields, device in zip(ids, found, devices, strict=True)
    ]
    lists = [] if listing.alone else [_list_row(devices, listing.around, form, sample)]
    return Batch(
        source=form.source,
        host=host,
        time=_apart(sample.time, ids[0]) if listing.alone and sample.known else sample.time,
        time_known=sample.known,
        received_at=context.received_at,
        digest=digest,
        rows=(
            Rows("tailscale_devices", COLUMNS, rows),
            Rows("tailscale_device_lists", LIST_COLUMNS, lists),
        ),
        listed=_listed(rows, devices),
        drift=tuple(sorted(set(drift))),
        warnings=(*sample.warnings, *host_warnings, *id_warnings, *_no_times(found)),
    )


def _listed(rows: Sequence[tuple[Any, ...]], devices: Sequence[Row]) -> list[tuple[Entity, Row]]:
    """What the listing tells of the nodes that status documents name."""
    return [(row[2], _facts(device)) for row, device in zip(rows, devices, strict=True) if row[2] is not None]


def _facts(device: Row) -> Row:
    """A device in the words of status documents."""
    name, expires = device["name"], None if device["key_expiry_disabled"] else device["expires"]
    return {
        "host_name": device["hostname"],
        "dns_name": name and f"{name.rstrip('.')}.",
        "os": device["os"],
        "version": device["client_version"],
        "user_name": device["user_name"],
        "tags": sorted(device["tags"]) if device["tags"] else None,
        "public_key": device["node_key"],
        "key_expiry": expires,
        "tailscale_ips": device["addresses"] and sorted(device["addresses"]),
    }


def _device_ids(found: Sequence[Fields], form: Format) -> tuple[list[str], tuple[str, ...]]:
    """Name every device. Only documents that somebody edited name two alike."""
    ids: dict[str, None] = {}
    warnings: tuple[str, ...] = ()
    for fields in found:
        key, name = _device_id(fields, form)
        if len(name) > _ID_LENGTH:
            refuse((*fields.path, key), "is too long to be an id")
        unique = name
        count = itertools.count(2)
        while unique in ids:
            unique = f"{name} ({next(count)})"
        if unique != name:
            fields.keep(key)
            warnings = (_SAME_ID,)
        ids[unique] = None
    return list(ids), warnings


def _device_id(fields: Fields, form: Format) -> tuple[str, str]:
    """The id of a device, with the key that it stands under."""
    for key in form.ids:
        if name := fields.identifier(key):
            return key, name
    for key in form.keys:
        name = fields.look(key)
        if name and type(name) is str:
            return key, name
    raise UnstorablePayload(
        "A device has no id. Send the answer of the server unchanged.", pointer=pointer(fields.path)
    )


def _node(fields: Fields, device: Row, tailnet: str, form: Format) -> Entity | None:
    """The node as status documents name it, where they do."""
    node_id = fields.look(form.node_id) if form.node_id else None
    if not node_id:
        return None
    names = {"dns_name": device["name"], "host_name": device["hostname"]}
    return Tailnet(tailnet, {}).node(str(node_id), names)


def _beside(listing: Listing, sample: SampleTime) -> dict[str, JSON]:
    """What the attributes of a device alone hold of what is around it, but for its time."""
    rest = {key: value for key, value in listing.around.items() if key != sample.key}
    return {AROUND: rest} if listing.alone and rest else {}


def _list_row(
    devices: Sequence[Row], around: Mapping[str, JSON], form: Format, sample: SampleTime
) -> tuple[Any, ...]:
    """The listing itself: how many devices it has, how many of them are connected, or from elsewhere."""
    rest = Fields(around, ())
    if sample.form is not None:
        rest.note_time(STAMP, sample.form)
    return (
        form.kind,
        len(devices),
        _count(devices, "connected"),
        _count(devices, "external"),
        attributes(rest.rest()),
    )


def _count(devices: Sequence[Row], column: str) -> int | None:
    """Count those of which it is true; None where nothing is known of any."""
    told = [device.get(column) for device in devices]
    return None if told and all(value is None for value in told) else told.count(True)


def _apart(time: datetime, device_id: str) -> datetime:
    """The time of a device alone, some microseconds later by its id.

    The others of its body, or file, have the same time, and a host has one document at a time.
    Of two ids that come to the same microsecond the second is refused, as it would be without.
    """
    digest = blake2b(device_id.encode(), digest_size=8).digest()
    is_small = device_id.isdecimal() and len(device_id) <= _DIGITS
    number = int(device_id) if is_small else int.from_bytes(digest, "big") % 10**_DIGITS
    return time + min(timedelta(microseconds=number), _LAST - time)


def _host(tailnet: str, context: Context) -> tuple[Host, tuple[str, ...]]:
    if context.host:
        return Host(f"host:{context.host}", context.host, tailnet), ()
    if tailnet:
        return Host(f"tailnet:{tailnet}", tailnet, tailnet), ()
    return Host(f"sender:{context.sender}", context.sender), (NO_HOST,)


def _no_times(found: Sequence[Fields]) -> tuple[str, ...]:
    places = [place for fields in found for place in fields.no_times]
    if not places:
        return ()
    more = f" and {len(places) - 1} more are no times" if len(places) > 1 else " is no time"
    return (f"{places[0]}{more}; what was sent is kept in the attributes.",)

"""A line of a transfer log or an access log in JSON Lines, as ringserver writes them since 4.3 and 4.4.

Its writers are `WriteTransferLog` and `WriteAccessLog` in `src/logging.c` of EarthScope/ringserver.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.model import JSON
from ringstats_ts.sources.accesslog.fields import mask
from ringstats_ts.sources.ringserver.tables import Access, Peer, Transfer
from ringstats_ts.sources.secrets import screened
from ringstats_ts.sources.tailscale.split import COUNTER, flag, integer, kind, members, refuse, text, time

Fields = dict[str, Any]

_COMMON = frozenset({"log_time", "connect_time", "client", "auth", "service"})
_TRANSFER = _COMMON | {
    "log_start_time",
    "transfer_protocol",
    "transfer_direction",
    "streams",
    "transfer_bytes",
}
_EVENT = ("event", "command", "detail", "match", "reject")
_ACCESS = _COMMON.union(_EVENT, {"protocol"})
_PROTOCOL = frozenset({"name", "version", "is_tls", "is_websocket"})
_PARTS = {
    "client": frozenset({"ip", "server_port", "hostname", "user_agent"}),
    "auth": frozenset({"method", "username"}),
    "transfer_protocol": _PROTOCOL,
    "protocol": _PROTOCOL,
    "service": frozenset({"name", "version"}),
}
_STREAM = frozenset({"stream_id", "bytes", "packets"})
_LONGEST_ID = 255
_PORTS = range(2**16)


def load(line: bytes) -> JSON:
    """Decode a line of JSON, in latin-1 where it is not in UTF-8.

    Raises
    ------
    orjson.JSONDecodeError
    """
    try:
        line.decode()
    except UnicodeDecodeError:
        line = line.decode("latin-1").encode()
    return orjson.loads(line)


def is_entry(document: JSON) -> bool:
    """Whether this is an object of one of the two logs, by its keys."""
    return isinstance(document, dict) and (
        "log_time" in document
        and "client" in document
        and ("transfer_direction" in document or "event" in document)
    )


def read_entry(document: JSON) -> tuple[Transfer | Access, list[str]]:
    """Read the object of a line, and name what in it is not known here.

    Raises
    ------
    UnstorablePayload
    """
    if not is_entry(document):
        raise UnstorablePayload("The line is JSON, but of no log of ringserver. Remove it.")
    entry, encoded = screened(document)
    if "transfer_direction" in entry:
        return _transfer(entry)
    return _access(entry, encoded)


def normal_agent(agent: str | None) -> str | None:
    """The agent; None where the client named none, for which logs in text have `Client`."""
    return None if agent == "Client" else agent or None


def normal_protocol(protocol: str | None) -> str | None:
    """The protocol; None where the client had not spoken yet, for which logs in text have `Unknown`."""
    return None if protocol == "Unknown" else protocol or None


def _transfer(entry: Fields) -> tuple[Transfer, list[str]]:
    direction = text(entry, "transfer_direction", ())
    if direction not in ("TX", "RX"):
        refuse(("transfer_direction",), "is neither TX nor RX")
    total = _count(entry, "transfer_bytes", ()) if entry.get("transfer_bytes") is not None else None
    unknown = _unknown(entry, _TRANSFER)
    transfer = Transfer(
        _log_time(entry),
        _peer(entry, "transfer_protocol"),
        direction.lower(),
        list(_streams(entry.get("streams"), unknown)),
        total,
        time(entry, "log_start_time", ()),
        unknown,
    )
    return transfer, _paths(unknown)


def _access(entry: Fields, encoded: bytes) -> tuple[Access, list[str]]:
    if text(entry, "event", ()) is None:
        refuse(("event",), "is missing")
    # A path may have a query with a token in it.
    texts = tuple(mask(text(entry, key, ())) for key in _EVENT)
    unknown = _unknown(entry, _ACCESS)
    peer = _peer(entry, "protocol")
    return Access(_log_time(entry), peer, texts, encoded, unknown), _paths(unknown)


def _log_time(entry: Fields) -> datetime:
    return time(entry, "log_time", ()) or refuse(("log_time",), "is no time that can be stored")


def _peer(entry: Fields, protocol_key: str) -> Peer:
    client = members(entry, "client", ()) or {}
    auth = members(entry, "auth", ()) or {}
    protocol = members(entry, protocol_key, ()) or {}
    service = members(entry, "service", ()) or {}
    at, name = ("client",), (protocol_key,)
    return Peer(
        connect_time=time(entry, "connect_time", ()),
        address=text(client, "ip", at) or refuse(("client", "ip"), "is missing"),
        host_name=text(client, "hostname", at),
        agent=normal_agent(text(client, "user_agent", at)),
        protocol=normal_protocol(text(protocol, "name", name)),
        protocol_version=text(protocol, "version", name),
        # ringserver writes these two only where they are true.
        tls=flag(protocol, "is_tls", name) or False,
        websocket=flag(protocol, "is_websocket", name) or False,
        server_port=_port(client),
        auth_method=text(auth, "method", ("auth",)),
        username=text(auth, "username", ("auth",)),
        service=text(service, "name", ("service",)),
        service_version=text(service, "version", ("service",)),
    )


def _port(client: Any) -> int | None:
    port = integer(client, "server_port", ("client",))
    if port is not None and port not in _PORTS:
        refuse(("client", "server_port"), "is no port")
    # ringserver writes 0 where it does not know.
    return port or None


def _streams(streams: JSON, unknown: Fields) -> Iterator[tuple[str, int, int]]:
    if type(streams) is not list:
        refuse(("streams",), f"is {kind(streams)} where an array is expected")
    for index, stream in enumerate(streams):
        path = ("streams", str(index))
        if type(stream) is not dict:
            refuse(path, f"is {kind(stream)} where an object is expected")
        stream_id = text(stream, "stream_id", path)
        if stream_id is None or len(stream_id.encode()) > _LONGEST_ID:
            refuse((*path, "stream_id"), "is no id of a stream")
        if not stream.keys() <= _STREAM:
            rest = {key: stream[key] for key in stream.keys() - _STREAM}
            unknown.setdefault("streams", {})[stream_id] = rest
        yield stream_id, _count(stream, "bytes", path), _count(stream, "packets", path)


def _count(fields: Fields, key: str, path: tuple[str, ...]) -> int:
    value = fields.get(key)
    if type(value) is not int or value not in COUNTER:
        refuse((*path, key), "is no count of 63 bits")
    return value


def _unknown(entry: Fields, known: frozenset[str]) -> Fields:
    """The fields that are not known here, in their objects."""
    unknown = {key: entry[key] for key in entry.keys() - known}
    for name, names in _PARTS.items():
        part = entry.get(name)
        if name in known and type(part) is dict and not part.keys() <= names:
            unknown[name] = {key: part[key] for key in part.keys() - names}
    return unknown


def _paths(unknown: Fields) -> list[str]:
    paths: list[str] = []
    for name, value in unknown.items():
        if name == "streams":
            paths.extend(f"streams.*.{key}" for stream in value.values() for key in stream)
        elif name in _PARTS and isinstance(value, dict):
            paths.extend(f"{name}.{key}" for key in value)
        else:
            paths.append(name)
    return paths

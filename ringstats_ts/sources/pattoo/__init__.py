"""Posts of pattoo agents, in every form from 2019-11-21 on.

A post holds the values of one poll, each with a time of its own. They come late and again:
an agent sends what it could not send before behind what is new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.model import JSON, Batch, Context, Entity, Events, Host, Log
from ringstats_ts.sources.canonical import canonical, document_digest
from ringstats_ts.sources.pattoo.forms import HOSTNAME, TARGET, Point, points_key, read_points
from ringstats_ts.sources.pattoo.values import (
    ABOUT,
    is_known,
    is_number,
    labels,
    read_series,
    read_time,
    read_value,
    text,
)
from ringstats_ts.sources.samples import (
    DOCUMENTS,
    HOST_LENGTH,
    ROLLUP,
    SAMPLES,
    TABLES,
    kept,
    named_host,
)
from ringstats_ts.sources.secrets import screened
from ringstats_ts.sources.tailscale.split import refuse

_STAMPS = ("pattoo_agent_timestamp", "pattoo_source_timestamp")
_AGENT_IDS = ("pattoo_agent_id", "pattoo_source", "source")
_KNOWN = frozenset(
    (*_STAMPS, *_AGENT_IDS, "pattoo_agent_polling_interval", "pattoo_polling_interval", "polling_interval")
)
_ENCRYPTED = {"encrypted_data"}


class PattooSource:
    """The source `pattoo`."""

    name = "pattoo"
    title = "Posts of pattoo agents"
    tables = TABLES
    example = "curl --data-binary @post.json localhost:8000"
    looks = "a post of a pattoo agent"

    def detect(self, document: JSON | Log) -> bool:
        """Whether the document is a post, even one that cannot be read for its encryption."""
        return isinstance(document, dict) and (
            points_key(document) is not None or document.keys() == _ENCRYPTED
        )

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn a post into a batch: see `ringstats_ts.model.Source`."""
        post: dict[str, JSON]
        post, encoded = screened(document)
        key = points_key(post)
        if key is None:
            raise UnstorablePayload("The post is encrypted.", "Let the agent send it as it is, over HTTPS.")
        return _batch(post, key, context, document_digest(encoded))


def _batch(post: Mapping[str, JSON], key: str, context: Context, digest: bytes) -> Batch:
    points = read_points(post, key)
    hostnames = {text(point.fields[HOSTNAME]) for point in points if HOSTNAME in point.fields}
    several = len(hostnames) > 1
    at = _own_time(post)
    samples = _samples(points, at, hostname=several)
    times = [row[0] for row in samples]
    at = at or max(times, default=None)
    if at is None:
        raise UnstorablePayload("The post has no datapoints, and no time.", "There is nothing to store.")
    host, warnings = _host(post, None if several else next(iter(hostnames), None), context)
    if context.time is not None:
        warnings = (*warnings, "Each value of the post has a time of its own; `time` was not used.")
    rest = {name: value for name, value in post.items() if name not in (key, *_STAMPS)}
    document = (at, _agent(post) or "", "pattoo", len(samples), kept(rest | _notes(points, hostname=several)))
    unknown_types = () if all(map(is_known, points)) else ("pattoo_data_type",)
    return Batch(
        source="pattoo",
        host=host,
        time=max([at, *times]),
        time_known=True,
        received_at=context.received_at,
        digest=digest,
        rows=(),
        events=(
            Events("samples", ("time", *SAMPLES), samples, about="series_id"),
            Events("documents", ("time", "agent", *DOCUMENTS), [document], beside=True),
        ),
        drift=tuple(sorted({*(rest.keys() - _KNOWN), *unknown_types})),
        warnings=warnings,
        rollup=ROLLUP,
    )


def _own_time(post: Mapping[str, JSON]) -> datetime | None:
    key = next((key for key in _STAMPS if post.get(key) is not None), None)
    return None if key is None else read_time(post[key], (key,))


def _samples(points: Sequence[Point], at: datetime | None, *, hostname: bool) -> list[tuple[Any, ...]]:
    """The rows of what is a number; one that stands there twice is one.

    Raises
    ------
    UnstorablePayload
        where two values are of one series and time.
    """
    seen: dict[tuple[Entity, datetime], Decimal] = {}
    for point in filter(is_number, points):
        stamp = point.fields.get("pattoo_timestamp")
        time = at if stamp is None else read_time(stamp, point.path)
        if time is None:
            refuse(point.path, "has no pattoo_timestamp")
        value = read_value(point)
        if seen.setdefault((read_series(point, hostname=hostname), time), value) != value:
            refuse(point.path, "has another value than a datapoint before it of the same series and time")
    return [(time, "pattoo", entity, value) for (entity, time), value in seen.items()]


def _host(post: Mapping[str, JSON], hostname: str | None, context: Context) -> tuple[Host, tuple[str, ...]]:
    """The host that the sender names, else the agent's; else the agent itself, by its id."""
    agent = _agent(post)
    if not context.host and not hostname and agent is not None:
        return Host(f"pattoo:{agent}", agent), ()
    return named_host(hostname, context)


def _agent(post: Mapping[str, JSON]) -> str | None:
    """The id of the agent that sent the post."""
    agent = next((post[key] for key in _AGENT_IDS if key in post), None)
    return agent if isinstance(agent, str) and 0 < len(agent) <= HOST_LENGTH else None


def _notes(points: Sequence[Point], *, hostname: bool) -> dict[str, JSON]:
    """What is said of each target, and the values that are no numbers, in an order of their own."""
    targets: dict[str, dict[str, set[str]]] = {}
    texts = []
    for point in points:
        about = targets.setdefault(text(point.fields.get(TARGET, "")), {})
        for key in sorted(point.fields.keys() & ABOUT):
            about.setdefault(key, set()).add(text(point.fields[key]))
        if not is_number(point):
            own = ("pattoo_key", "pattoo_value", "pattoo_data_type")
            told = {key: point.fields[key] for key in own if key in point.fields}
            texts.append(labels(point, hostname=hostname) | told)
    notes: dict[str, JSON] = {}
    if any(targets.values()):
        notes["$targets"] = {
            target: {key: sorted(values) for key, values in about.items()}
            for target, about in targets.items()
        }
    if texts:
        notes["$texts"] = sorted(texts, key=canonical)
    return notes


PATTOO = PattooSource()

"""What sources whose numbers have names share: series, exact values, and the batch of a document.

Their tables are `series`, `samples`, and `documents` for what is said beside the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.limits import pointer
from ringstats_ts.model import JSON, Attributes, Batch, Context, Entity, Host, Rows
from ringstats_ts.sources.canonical import attributes, canonical
from ringstats_ts.sources.flatten import Number, dotted
from ringstats_ts.sources.sampling import NO_HOST, SampleTime

TABLES = ("series", "samples", "documents")
SAMPLES = ("source", "series_id", "value")
DOCUMENTS = ("source", "samples", "attribute_id")
ROLLUP = "samples"

MOST_SAMPLES = 10_000
"""Numbers of one document: each is a row, and each that is new a series for ever."""

_SERIES_BYTES = 2_000
"""Name and labels together; the index of `series` takes a third of a page of 8 KiB."""

HOST_LENGTH = 255
"""No host has a longer name (RFC 1035)."""

_UNIT = re.compile(r"(?:^|_)(bytes|seconds|ratio|celsius)(?:_total)?$")


def series(
    source: str,
    name: str,
    labels: Mapping[str, str],
    *,
    kind: str = "gauge",
    unit: str | None = None,
    path: Sequence[str] = (),
) -> Entity:
    """Name a number. `path` is where it stands in the document.

    Raises
    ------
    UnstorablePayload
        where name and labels are too long.
    """
    labels_key = canonical(dict(labels)).decode()
    if len(name.encode()) + len(labels_key.encode()) > _SERIES_BYTES:
        raise UnstorablePayload(
            f"The name of a number and its labels take more than {_SERIES_BYTES:,} bytes.",
            "Send it with shorter keys, or less deep.",
            pointer=pointer(path),
        )
    return Entity("series", (source, name, labels_key), {"kind": kind, "unit": unit})


def exact(value: float | Decimal) -> Decimal:
    """The number as the database gives it back: every digit that was written, and no exponent above zero."""
    found = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not found:
        return found.copy_abs()
    exponent = found.as_tuple().exponent
    return Decimal(format(found, "f")) if isinstance(exponent, int) and exponent > 0 else found


def kind_of(key: str) -> str:
    """Whether a number is a counter by its key, as OpenMetrics has it, or a gauge."""
    return "counter" if key.endswith("_total") else "gauge"


def unit_of(key: str) -> str | None:
    """The unit that a key ends in, as far as it is one of Prometheus' base units."""
    match = _UNIT.search(key)
    return match and match[1]


def sample_rows(
    source: str, numbers: Sequence[Number], known: Mapping[str, tuple[str, str | None]]
) -> list[tuple[Any, ...]]:
    """The rows of a document's numbers; `known` has kind and unit by name, the key tells those of others.

    Raises
    ------
    UnstorablePayload
        where they are too many.
    """
    if len(numbers) > MOST_SAMPLES:
        raise UnstorablePayload(
            f"The document holds {len(numbers):,} numbers; {MOST_SAMPLES:,} are taken.",
            "Send only what is worth keeping, or parts of it with a `host` or a `time` of their own.",
        )
    rows = []
    for number in numbers:
        name, key = dotted(number.keys), number.keys[-1]
        kind, unit = known.get(name) or (kind_of(key), unit_of(key))
        entity = series(source, name, number.labels, kind=kind, unit=unit, path=number.path)
        rows.append((source, entity, exact(number.value)))
    return rows


def named_host(name: JSON, context: Context) -> tuple[Host, tuple[str, ...]]:
    """The host that the sender names, else the document; else its address, with a warning."""
    if context.host:
        return Host(f"host:{context.host}", context.host), ()
    if isinstance(name, str) and 0 < len(name) <= HOST_LENGTH:
        return Host(f"name:{name}", name), ()
    return Host(f"sender:{context.sender}", context.sender), (NO_HOST,)


def document_batch(
    source: str,
    found: tuple[Host, tuple[str, ...]],
    sample: SampleTime,
    rows: Sequence[tuple[Any, ...]],
    rest: Mapping[str, JSON],
    *,
    digest: bytes,
    context: Context,
    drift: Sequence[str] = (),
) -> Batch:
    """The batch of a document that is of one time: `rows` are its numbers, `rest` is all else."""
    host, warnings = found
    return Batch(
        source=source,
        host=host,
        time=sample.time,
        time_known=sample.known,
        received_at=context.received_at,
        digest=digest,
        rows=(
            Rows("samples", SAMPLES, rows, about="series_id"),
            Rows("documents", DOCUMENTS, [(source, len(rows), kept(rest))], beside=True),
        ),
        drift=tuple(drift),
        warnings=(*sample.warnings, *warnings),
        rollup=ROLLUP,
    )


def kept(rest: Mapping[str, JSON]) -> Attributes | None:
    """The attributes of what is left of a document, if anything is."""
    return attributes(rest) if rest else None

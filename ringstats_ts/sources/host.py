"""The status of a host in the service's own format: psutil's names, with units in them.

`docs/sources/host.md` defines it. A document says by `"tsstats_host": 1` that it is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.limits import pointer
from ringstats_ts.model import JSON, Batch, Context, Log
from ringstats_ts.sources.canonical import document_digest
from ringstats_ts.sources.flatten import Number, dotted, take_numbers
from ringstats_ts.sources.samples import (
    TABLES,
    document_batch,
    named_host,
    sample_rows,
)
from ringstats_ts.sources.sampling import STAMP, sample_time
from ringstats_ts.sources.secrets import screened
from ringstats_ts.sources.tailscale.split import kind, text

MARKER = "tsstats_host"
VERSION = 1

_TIMES = ("time", STAMP)
_TEXTS = ("hostname", "boot_time", "system", "release", "version", "machine")

# What tells the elements of an array apart, and names the label.
_ID_KEYS = {
    "disk_usage_bytes": "mountpoint",
    "disk_io": "device",
    "network_io": "interface",
    "temperatures_celsius": "sensor",
}


def _under(parent: str, kind: str, unit: str | None, keys: str) -> dict[str, tuple[str, str | None]]:
    return {f"{parent}.{key}" if parent else key: (kind, unit) for key in keys.split()}


_NUMBERS = (
    _under("", "gauge", None, "cpu_count process_count users")
    | _under("", "gauge", "percent", "cpu_percent")
    | _under(
        "cpu_times_seconds",
        "counter",
        "seconds",
        "user nice system idle iowait irq softirq steal guest guest_nice interrupt dpc",
    )
    | _under("cpu_stats", "counter", None, "ctx_switches interrupts soft_interrupts syscalls")
    | _under("load_average", "gauge", None, "1m 5m 15m")
    | _under(
        "virtual_memory_bytes",
        "gauge",
        "bytes",
        "total available used free active inactive buffers cached shared slab wired",
    )
    | _under("swap_memory_bytes", "gauge", "bytes", "total used free")
    | _under("swap_memory_bytes", "counter", "bytes", "sin sout")
    | _under("disk_usage_bytes", "gauge", "bytes", "total used free")
    | _under("disk_io", "counter", None, "read_count write_count read_merged_count write_merged_count")
    | _under("disk_io", "counter", "bytes", "read_bytes write_bytes")
    | _under("disk_io", "counter", "seconds", "read_time_seconds write_time_seconds busy_time_seconds")
    | _under("network_io", "counter", "bytes", "bytes_sent bytes_recv")
    | _under("network_io", "counter", None, "packets_sent packets_recv errin errout dropin dropout")
    | _under("temperatures_celsius", "gauge", "celsius", "current high critical")
)
"""Kind and unit of every number of the format, by its name."""

_KNOWN = frozenset((MARKER, *_TIMES, *_TEXTS, *(name.split(".")[0] for name in _NUMBERS)))


class HostSource:
    """The source `host`."""

    name = "host"
    title = "Status of a host: CPU, memory, disks and network, as psutil counts them"
    tables = TABLES
    example = "curl --data-binary @samples/host/status.json localhost:8000"
    looks = "the status of a host"

    def detect(self, document: JSON | Log) -> bool:
        """Whether the document says that it is one, of whatever version."""
        return isinstance(document, dict) and MARKER in document

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn a status into a batch: see `ringstats_ts.model.Source`."""
        status: dict[str, JSON]
        status, encoded = screened(document)
        _check(status)
        sample = sample_time(status, context, _TIMES)
        about = {key: status[key] for key in (MARKER, *_TIMES) if key in status and key != sample.key}
        numbers, rest = take_numbers(
            {key: value for key, value in status.items() if key not in (MARKER, *_TIMES)}, _ID_KEYS
        )
        return document_batch(
            self.name,
            named_host(status.get("hostname"), context),
            sample,
            sample_rows(self.name, numbers, _NUMBERS),
            about | rest,
            digest=document_digest(encoded),
            context=context,
            drift=_drift(status, numbers),
        )


def _drift(document: Mapping[str, JSON], numbers: Sequence[Number]) -> list[str]:
    """The members that the format does not define, and the numbers in those that it does."""
    named = {dotted(number.keys) for number in numbers if number.keys[0] in _KNOWN}
    return sorted((document.keys() - _KNOWN) | (named - _NUMBERS.keys()))


def _check(document: Mapping[str, JSON]) -> None:
    if type(document[MARKER]) is not int or document[MARKER] != VERSION:
        raise UnstorablePayload(
            f"{MARKER} is not {VERSION}, the only version of the format that is known.",
            "Write it so, or upgrade the service.",
            pointer=f"/{MARKER}",
        )
    for key in _TEXTS:
        text(document, key, ())
    for key, id_key in _ID_KEYS.items():
        _check_array(document.get(key), key, id_key)


def _check_array(elements: JSON, key: str, id_key: str) -> None:
    """Refuse what is no array of objects with ids: its numbers would have other names, or none that stay."""
    hint = f"Write {key} as an array of objects, each with its `{id_key}`."
    if elements is None:
        return
    if not isinstance(elements, list):
        complaint = f"{key} is {kind(elements)} where an array of objects with `{id_key}` is expected."
        raise UnstorablePayload(complaint, hint, pointer=pointer((key,)))
    for index, element in enumerate(elements):
        if not _has_id(element, id_key):
            complaint = f"An element of {key} is no object with a string or an integer `{id_key}`."
            raise UnstorablePayload(complaint, hint, pointer=pointer((key, str(index))))


def _has_id(element: JSON, id_key: str) -> bool:
    found = element.get(id_key) if isinstance(element, dict) else None
    return type(found) is int or (type(found) is str and found != "")


HOST = HostSource()

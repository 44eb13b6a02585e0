"""How fast each source turns bodies into rows: detection, decoding and parsing, without a database.

Bodies are made from the samples that the project ships, repeated with times and sizes that
differ. The figures are medians of the runs, of one process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

import orjson

from ringstats_ts.config import Config
from ringstats_ts.ingest import parse
from ringstats_ts.model import Payload

SAMPLES = Path(__file__).parent.parent / "samples"
START = datetime(2026, 11, 21, 22, 1, 13, tzinfo=UTC)
BODY_BYTES = 4 * 1024 * 1024
CONFIG = Config.from_env({"TSSTATS_CLIENT_KEY": "a key for benchmarks alone"}, database_uri="")

Bodies = dict[str, tuple[str, bytes]]


def repeated(make: Callable[[int], bytes], most: int = 10**9) -> bytes:
    """Pieces, each with its number, up to the size of a body or `most` of them."""
    pieces: list[bytes] = []
    size = 0
    while size < BODY_BYTES and len(pieces) < most:
        pieces.append(make(len(pieces)))
        size += len(pieces[-1])
    return b"".join(pieces)


def stamped(name: str, form: str) -> Callable[[int], bytes]:
    """The sample with its log times moved on by a second for each repetition."""
    sample = (SAMPLES / name).read_bytes()
    old = f"{START:{form}}".encode()[:-1]

    def piece(number: int) -> bytes:
        new = f"{START + timedelta(seconds=10 * number):{form}}".encode()[:-1]
        return sample.replace(old, new)

    return piece


def combined(number: int) -> bytes:
    time = START + timedelta(milliseconds=37 * number)
    return (
        f"203.0.113.{number % 251} - - [{time:%d/%b/%Y:%H:%M:%S} +0000] "
        f'"GET /api/item/{number % 997}?page={number % 13} HTTP/1.1" 200 {number % 65536} '
        '"https://example.org/start" "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101"\n'
    ).encode()


def compact(name: str) -> bytes:
    return orjson.dumps(orjson.loads((SAMPLES / name).read_bytes())) + b"\n"


def devices() -> bytes:
    device = orjson.loads((SAMPLES / "devices/fields-all.json").read_bytes())["devices"][0]
    many = [device | {"nodeId": f"n{number}CNTRL", "id": str(number)} for number in range(2000)]
    return orjson.dumps({"devices": many})


def nodes() -> bytes:
    node = orjson.loads((SAMPLES / "headscale/NodeList_all_parity.json").read_bytes())["body"]["nodes"][0]
    return orjson.dumps({"nodes": [node | {"id": str(number)} for number in range(2000)]})


def bodies() -> Bodies:
    """A body for each format: its source, and its bytes."""
    return {
        "tailscale status": ("tailscale", compact("linux-13-peers.json") * 200),
        "devices, all fields": ("devices", devices()),
        "headscale nodes": ("headscale", nodes()),
        "host status": ("host", compact("host/status.json") * 500),
        "pattoo, generation 8": ("pattoo", compact("pattoo/autonomous-post.json")),
        "ringserver, text": (
            "ringserver",
            repeated(stamped("ringserver/v4.5.3-txlog.txt", "%Y-%m-%dT%H:%M:%S")),
        ),
        "ringserver, transfer JSON": (
            "ringserver",
            repeated(stamped("ringserver/v4.5.3-txlog.jsonl", "%Y-%m-%dT%H:%M:%S")),
        ),
        "ringserver, access JSON": (
            "ringserver",
            repeated(stamped("ringserver/v4.5.3-accesslog.jsonl", "%Y-%m-%dT%H:%M:%S")),
        ),
        "access log, common": ("accesslog", repeated(lambda n: combined(n).partition(b' "https')[0] + b"\n")),
        "access log, combined": ("accesslog", repeated(combined)),
        "any JSON": ("json", b'{"hostname":"a","queue":{"jobs":3,"late":1.5},"ok":true}\n' * 5000),
    }


def measured(source: str, body: bytes, runs: int) -> tuple[float, int]:
    """Seconds of a run, the median, and the rows that the body becomes."""
    payload = Payload(body, datetime.now(UTC), backfill=True)
    seconds, rows = [], 0
    for _ in range(runs + 1):
        begin = perf_counter()
        batches = parse(payload, CONFIG).batches
        seconds.append(perf_counter() - begin)
        rows = sum(len(part.rows) for batch in batches.values() for part in batch.parts)
        assert {batch.source for batch in batches.values()} == {source}
    return statistics.median(seconds[1:]), rows


def figures(runs: int) -> Iterator[dict[str, str | float]]:
    for name, (source, body) in bodies().items():
        seconds, rows = measured(source, body, runs)
        yield {
            "body": name,
            "source": source,
            "megabytes": round(len(body) / 1e6, 2),
            "megabytes_per_second": round(len(body) / seconds / 1e6, 1),
            "rows_per_second": round(rows / seconds, -2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = list(figures(options.runs))
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return
    print("| body | source | MB | MB/s | rows/s |\n|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row['body']} | {row['source']} | {row['megabytes']} | {row['megabytes_per_second']} "
            f"| {row['rows_per_second']:,.0f} |"
        )


if __name__ == "__main__":
    main()

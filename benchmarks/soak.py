"""Half the peak for an hour: does the memory of the workers grow?

Starts the service as it is shipped on a database of its own (DATABASE_URI's server, or an embedded
one), measures how much it takes, posts half of that, and samples the memory of each worker.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import count
from pathlib import Path

import click
import orjson
from documents import documents
from http_ingest import own_database

# The tools of the fault tests lie in the tree; behind everything, so that the installed package is used.
sys.path.append(str(Path(__file__).parent.parent))

from tests.faults.load import Client
from tests.service import Server, memory

PEAK_SECONDS = 15
WARM_UP_RATIO = 0.1
"""Of the time, at the beginning, that the slope does not count: caches fill."""


@dataclass
class Sender:
    """Posts documents over one connection, each as a new host sample; how many, at most, by a schedule."""

    port: int
    host: str
    body: bytes
    answers: Counter[str] = field(default_factory=Counter)

    def post_until(self, end: float, rate: float | None) -> None:
        """Post until then: `rate` a second, or one after the other."""
        client, began = Client(self.port), time.monotonic()
        for number in count():
            if rate is not None:
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
            if time.monotonic() > end:
                break
            key = {"Idempotency-Key": f"{self.host}-{began}-{number}"}
            try:
                status, _ = client.post(f"/v1/ingest/tailscale?host={self.host}", self.body, key)
                self.answers[str(status)] += 1
            except (OSError, HTTPException) as error:
                self.answers[type(error).__name__] += 1
        client.close()


class Load:
    """Senders side by side."""

    def __init__(self, port: int, senders: int, peers: int) -> None:
        bodies = [orjson.dumps(next(documents(number, peers, 1))[1]) for number in range(senders)]
        self._senders = [Sender(port, f"reporter{number}", body) for number, body in enumerate(bodies)]

    @property
    def answers(self) -> Counter[str]:
        return sum((sender.answers for sender in self._senders), Counter())

    def run(self, seconds: float, rate: float | None = None) -> list[threading.Thread]:
        """Begin to post for so long, `rate` a second in all."""
        end = time.monotonic() + seconds
        each = None if rate is None else rate / len(self._senders)
        threads = [threading.Thread(target=sender.post_until, args=(end, each)) for sender in self._senders]
        for thread in threads:
            thread.start()
        return threads

    def peak(self) -> float:
        """Documents that are stored in a second where each sender sends as fast as it is answered."""
        for thread in self.run(PEAK_SECONDS):
            thread.join()
        return self.answers["200"] / PEAK_SECONDS


@dataclass
class Memory:
    """Samples of one worker: minutes since the beginning, MiB."""

    minutes: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)

    def report(self, after: float) -> dict[str, float]:
        """Smallest, middle and largest value; growth by the hour, from `after` minutes on."""
        late = [pair for pair in zip(self.minutes, self.mebibytes, strict=True) if pair[0] >= after]
        slope = statistics.linear_regression(*zip(*late, strict=True)).slope * 60 if len(late) > 2 else 0.0
        return {
            "samples": len(self.mebibytes),
            "min_mib": round(min(self.mebibytes), 1),
            "median_mib": round(statistics.median(self.mebibytes), 1),
            "max_mib": round(max(self.mebibytes), 1),
            "last_mib": round(self.mebibytes[-1], 1),
            "mib_an_hour": round(slope, 2),
        }


def watch(server: Server, threads: list[threading.Thread], every: float) -> dict[int, Memory]:
    """Sample the workers until the load ends. One that is replaced, as after many requests, is another."""
    found: dict[int, Memory] = defaultdict(Memory)
    began = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        for pid in server.workers():
            try:
                mebibytes = memory(pid) / 1024
            except (OSError, StopIteration):
                continue  # It has ended since.
            found[pid].minutes.append((time.monotonic() - began) / 60)
            found[pid].mebibytes.append(mebibytes)
        time.sleep(every)
    return found


@click.command()
@click.option("--minutes", default=60.0, show_default=True, help="Length of the load.")
@click.option("--every", default=10.0, show_default=True, help="Between two samples of the memory [s].")
@click.option("--senders", default=8, show_default=True, help="Connections.")
@click.option("--peers", default=10, show_default=True, help="Peers in each document.")
@click.option("--rate", type=float, help="Documents a second; half the measured peak unless given.")
@click.option(
    "--recycle", is_flag=True, help="Let gunicorn replace workers after 10,000 requests, as shipped."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    *,
    minutes: float,
    every: float,
    senders: int,
    peers: int,
    rate: float | None,
    recycle: bool,
    as_json: bool,
) -> None:
    """Post half the peak, and report the memory of each worker."""
    # A worker that is replaced begins anew, and hides what leaks.
    settings = {} if recycle else {"GUNICORN_CMD_ARGS": "--max-requests 0"}
    with (
        own_database(os.environ.get("DATABASE_URI")) as uri,
        tempfile.TemporaryDirectory() as folder,
        Server(uri, folder, TSSTATS_UPKEEP="on", **settings) as server,
    ):
        peak = Load(server.port, senders, peers).peak() if rate is None else None
        load = Load(server.port, senders, peers)
        posted = rate or (peak or 0) / 2
        workers = watch(server, load.run(minutes * 60, posted), every)
    report = {
        "minutes": minutes,
        "peak_documents_per_second": peak and round(peak, 1),
        "posted_per_second": round(posted, 1),
        "answers": dict(load.answers),
        "workers": {
            str(pid): found.report(after=minutes * WARM_UP_RATIO) for pid, found in sorted(workers.items())
        },
    }
    click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2) if as_json else shown(report))


def shown(report: dict[str, object]) -> str:
    workers: dict[str, dict[str, float]] = report.pop("workers")  # type: ignore[assignment]
    lines = [f"{name.replace('_', ' '):26} {value}" for name, value in report.items()]
    lines += [
        f"worker {pid:19} {', '.join(f'{name} {value}' for name, value in figures.items())}"
        for pid, figures in workers.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

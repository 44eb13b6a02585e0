"""Kills the database and the web workers at random under load, then counts what is missing or twice.

Starts the service as it is shipped on a PostgreSQL of its own (the machine's binaries, in a temporary
directory; with TimescaleDB where it is installed) or on the embedded database. Exits with 1 where
anything that was acknowledged is missing, partial or stored twice.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from heapq import merge
from itertools import count
from pathlib import Path

import click
import orjson

# The tools of the fault tests lie in the tree; behind everything, so that the installed package is used.
sys.path.append(str(Path(__file__).parent.parent))

from tests.faults.load import Load, verify
from tests.faults.targets import Embedded, Native, Target
from tests.postgres import PostgresCluster, directories, why_not
from tests.service import Server

WORKER_SHARE = 2
RECOVERY_SECONDS = 60
SHOWN = 10
"""Of each kind of fault."""


class Storm:
    """Strikes one after the other: a pause, a kill, and when the first document after it was taken."""

    def __init__(self, target: Target, server: Server, load: Load, pause: tuple[float, float]) -> None:
        self.kills: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self._target, self._server, self._load, self._pause = target, server, load, pause
        self._strikes = target.strikes | {"worker": (WORKER_SHARE, self._kill_worker)}

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        kinds = self._dealt()
        while time.monotonic() < end:
            time.sleep(random.uniform(*self._pause))
            kind = next(kinds)
            self._strikes[kind][1]()
            self.kills[kind] += 1
            self._target.wait()
            self.recoveries.append(self._until_acknowledged())

    def _dealt(self) -> Iterator[str]:
        """Every kind by its share, at random but evenly spread: none is rare by chance."""
        moments = (_moments(kind, share) for kind, (share, _) in self._strikes.items())
        return (kind for _, kind in merge(*moments))

    def _kill_worker(self) -> None:
        workers = self._server.workers()
        if workers:
            with suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGKILL)

    def _until_acknowledged(self) -> float:
        before, began = self._load.acknowledged, time.monotonic()
        while self._load.acknowledged == before:
            if time.monotonic() - began > RECOVERY_SECONDS:
                raise click.ClickException(f"Nothing was taken any more: {self._server.log[-2000:]}")
            time.sleep(0.02)
        return time.monotonic() - began


def _moments(kind: str, share: float) -> Iterator[tuple[float, str]]:
    """One at random in each of the stretches that time is cut into, `share` of them to a unit."""
    return (((stretch + random.random()) / share, kind) for stretch in count())


@contextmanager
def target_of(embedded: bool) -> Iterator[Target]:
    if embedded:
        with tempfile.TemporaryDirectory() as folder:
            made: Target = Embedded(Path(folder) / "data")
            try:
                yield made
            finally:
                made.stop()
        return
    if reason := why_not():
        raise click.ClickException(f"It {reason}. --embedded needs none.")
    with directories() as folder, PostgresCluster(folder / "storm") as cluster:
        yield Native(cluster)


def load_of(port: int, writers: int, without_receipts: bool) -> Load:
    """The load; without receipts only what nothing else protects, and what was posted once unless it must."""
    return Load(port, writers, own_times=not without_receipts, repeat=not without_receipts)


@click.command()
@click.option("--seconds", default=300.0, show_default=True, help="Length of the storm.")
@click.option("--writers", default=6, show_default=True, help="Hosts that post at the same time.")
@click.option("--shortest-pause", default=0.5, show_default=True, help="Between two kills [s].")
@click.option("--longest-pause", default=2.0, show_default=True, help="Between two kills [s].")
@click.option("--embedded", is_flag=True, help="On the embedded database.")
@click.option("--without-receipts", is_flag=True, help="Take the protection away: it must find duplicates.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    *,
    seconds: float,
    writers: int,
    shortest_pause: float,
    longest_pause: float,
    embedded: bool,
    without_receipts: bool,
    as_json: bool,
) -> None:
    """Kill database and workers under load; report what was acknowledged and what is wrong."""
    with target_of(embedded) as target, tempfile.TemporaryDirectory() as folder:
        if without_receipts:
            target.forget_receipts()
        with (
            Server(target.uri, folder, TSSTATS_UPKEEP="on") as server,
            load_of(server.port, writers, without_receipts) as load,
        ):
            storm = Storm(target, server, load, (shortest_pause, longest_pause))
            storm.run(seconds)
            load.stop(settle=60)
        verdict = verify(target.uri, load)
        report = {
            "database": target.name,
            "seconds": seconds,
            "kills": dict(storm.kills),
            "answers": {str(status): number for status, number in load.answers.items()},
            "slowest_answer_seconds": round(load.slowest, 2),
            "slowest_recovery_seconds": round(max(storm.recoveries), 2),
            **verdict.counts,
        }
    click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2) if as_json else shown(report))
    for name, found in verdict.faults.items():
        click.echo(f"{name}: {', '.join(map(str, found[:SHOWN]))}", err=True)
    if not verdict.good:
        raise SystemExit(1)


def shown(report: dict[str, object]) -> str:
    return "\n".join(f"{name.replace('_', ' '):26} {value}" for name, value in report.items())


if __name__ == "__main__":
    main()

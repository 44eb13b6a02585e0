"""What becomes of the documents that a worker was at when it was killed.

The master judges them: a body that kept the interpreter busy until the heartbeat stopped, or that
was being read for seconds when the worker died otherwise (the kernel was out of memory, a library
crashed), is refused for an hour; who was there by chance is not. The master parses no body, and
asks no database. The next worker does that at its start: it counts them all, and keeps the
refused ones as rejects.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ringstats_ts.config import Config
from ringstats_ts.errors import KilledWorker
from ringstats_ts.rejects import keep_killer
from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database
from webapp import log, notes
from webapp.metrics import count_killed
from webapp.notes import READING, REFUSED_SECONDS, Left

BUSY_SECONDS = 0.1
"""Processor time below which a thread has not stopped the heartbeat: little, where the machine is busy."""

READING_SECONDS = 3.0
"""Longer than any body takes that ends."""

STRIKES = 3
"""So often within an hour may a body be at hand for a shorter time when a worker dies."""

MOST_REFUSED = 1000

CLEAN_SECONDS = 20.0
"""For blanking the secrets of such a body, in a process of its own."""

ATTEMPTS = 10
AGAIN_SECONDS = 10.0

_CLEAN = """
import sys
from ringstats_ts.rejects import keepable_body
kept = keepable_body(sys.stdin.buffer.read())
sys.exit(3) if kept is None else sys.stdout.buffer.write(kept)
"""


class Judge:
    """That of one master."""

    def __init__(self) -> None:
        self._used: dict[int, dict[Path, float]] = {}
        self._strikes: dict[str | None, list[float]] = {}

    def watch(self, arbiter: Any) -> None:
        """Look at a worker that has no heartbeat before it is killed: later it has no threads to look at."""
        kill: Callable[[int, int], None] = arbiter.kill_worker

        def kill_worker(pid: int, number: int) -> None:
            if number == signal.SIGABRT:
                self._used[pid] = _used(pid)
            kill(pid, number)

        arbiter.kill_worker = kill_worker

    def bury(self, pid: int) -> list[Left]:
        """Judge what the dead worker was at; those that are refused from now on."""
        found = list(_left(pid, body=True))
        guilty = self._guilty(found, self._used.pop(pid, {}))
        for digest in {one.digest for one in guilty} - {None}:
            _refuse(digest)
        for one in found:
            outcome = "rejected" if one in guilty else "failed"
            target = notes.directory("killed")
            assert target is not None
            one.path.rename(target / f"{outcome}-{one.path.name}")
        return guilty

    def _guilty(self, found: list[Left], used: dict[Path, float]) -> list[Left]:
        most = max(used.values(), default=0.0)
        if most >= BUSY_SECONDS:
            return [one for one in found if used.get(one.path, 0.0) >= most / 2]
        now, reading = time.monotonic(), [one for one in found if one.phase == READING]
        # Without a heartbeat, all that a stuck interpreter held up look as if they were read.
        slow = [] if used else [one for one in reading if now - one.since >= READING_SECONDS]
        return slow or [one for one in reading if self._strike(one.digest, now) >= STRIKES]

    def _strike(self, digest: str | None, now: float) -> int:
        struck = [*self._strikes.pop(digest, ()), now]
        self._strikes[digest] = [at for at in struck if now - at < REFUSED_SECONDS]
        while len(self._strikes) > MOST_REFUSED:
            self._strikes.pop(next(iter(self._strikes)))
        return len(self._strikes[digest])


def _left(pid: int, *, body: bool = False) -> Iterator[Left]:
    """The notes of a worker that say something; the others are removed."""
    shared = notes.directory("notes")
    for path in shared.glob(f"{pid}-*") if shared is not None else ():
        try:
            found = notes.left(path, body=body)
        except (OSError, ValueError):
            found = None
        if found is None:
            path.unlink(missing_ok=True)
        else:
            yield found


def _used(pid: int) -> dict[Path, float]:
    """Processor seconds of each thread that runs since its document began; others wait for that one."""
    return {one.path: _processor_seconds(pid, one.thread) - one.cpu for one in _left(pid)}


def _processor_seconds(pid: int, thread: int) -> float:
    try:
        # The name of a thread may hold anything, but for what follows the last bracket.
        fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    running = fields[0] == "R"
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if running else 0.0


def _refuse(digest: str | None) -> None:
    refused = notes.directory("refused")
    assert refused is not None
    (refused / str(digest)).touch()
    by_age = sorted(refused.iterdir(), key=lambda file: file.stat().st_mtime)
    for file in by_age[:-MOST_REFUSED]:
        file.unlink()


def start_recording(config: Config) -> None:
    """Record what is left of dead workers, in a thread, if there is anything. Call it after the fork."""
    killed = notes.directory("killed")
    if killed is not None and any(killed.iterdir()):
        threading.Thread(target=_record_all, args=(killed, config), name="killed", daemon=True).start()


def _record_all(killed: Path, config: Config) -> None:
    for path in sorted(killed.iterdir()):
        # Whoever has the lock sees to it; where that one dies, the next worker does.
        with suppress(OSError, ValueError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = notes.left(path, body=True)
            if found is not None and path.exists():
                _record(found, path.name.partition("-")[0], config)
            path.unlink()


def _record(found: Left, outcome: str, config: Config) -> None:
    source = found.told["source"]
    count_killed(source, outcome, found.size)
    fields = {"digest": found.digest, "bytes": found.size, "source": source, "sender": found.told["sender"]}
    log.write(logging.WARNING, "killed", error=KilledWorker.code, outcome=outcome, **fields)
    if outcome == "rejected":
        _keep(found, config)


def _keep(found: Left, config: Config) -> None:
    """Keep it as a reject, with its body if that can be cleaned of secrets in time."""
    if config.database_uri is None:
        return
    body = None if found.body is None else _cleaned(found.body)
    with Database(config.database_uri, config.database_timeout, check=schema.check_texts) as database:
        for _ in range(ATTEMPTS):
            if keep_killer(found.payload(), found.size, body, database, config):
                return
            time.sleep(AGAIN_SECONDS)


def _cleaned(body: bytes) -> bytes | None:
    command = [sys.executable, "-c", _CLEAN]
    try:
        done = subprocess.run(command, input=body, capture_output=True, timeout=CLEAN_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None

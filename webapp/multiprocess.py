"""Where the worker processes of one gunicorn keep their counts: a directory of its own, in memory.

`prometheus_client` gives each process files in `PROMETHEUS_MULTIPROC_DIR`, sums them when they
are read, and decides when it is first imported whether it does so. So the master makes the
directory before it forks, and everything here and in `webapp.metrics` imports the library late.

It leaves the files of dead processes for good, and reads all of them for every scrape: after
1,000 workers that was 190 MiB and 4 s. Workers are replaced every 10,000 requests, so what
the dead have counted is added up in one file of each kind: 3 ms for the master.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ringstats_ts.config import SHARED_NEEDED

MEMORY = Path("/dev/shm")
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "tsstats-metrics-"
KINDS = ("counter", "histogram", "gauge_max")
"""The files that say something after their process is gone."""

_owned: list[int] = []
_dead: set[int] = set()


def parent_directory() -> Path:
    """Where files are never on a disk; that of temporary files where there is no such place, or no room."""
    return MEMORY if _has_room(MEMORY) else Path(tempfile.gettempdir())


def begin() -> None:
    """Make the directory. What a killed master left behind is removed."""
    for left in MEMORY.glob(f"{PREFIX}*"):
        _remove_unowned(left)
    parent = parent_directory()
    for left in parent.glob(f"{PREFIX}*"):
        _remove_unowned(left)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    # Held as long as any process of this gunicorn lives, since they share it by the fork.
    _owned.append(_lock(directory / "owner", fcntl.LOCK_EX))
    (directory / "files").touch()
    os.environ[VARIABLE] = str(directory)


def end() -> None:
    """Remove the directory."""
    if _owned:
        shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True)
        os.close(_owned.pop())


def forget(pid: int) -> None:
    """Take a dead process out of the gauges, and add its counts to those of the dead before it."""
    directory = os.environ.get(VARIABLE)
    if not _owned or directory is None:
        return
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, directory)
    _dead.add(pid)
    # The master never waits for a worker: where one reads just now, the next death does it.
    with suppress(BlockingIOError), _files_locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
        while _dead:
            _bury(Path(directory), _dead.pop())


@contextmanager
def reading() -> Iterator[str | None]:
    """The directory, in which no counts move from one file to another meanwhile; None for none."""
    directory = os.environ.get(VARIABLE)
    if directory is None:
        yield None
        return
    with _files_locked(fcntl.LOCK_SH):
        yield directory


def _has_room(parent: Path) -> bool:
    """Whether files can be made there, and as much be written as a service needs."""
    try:
        with tempfile.TemporaryFile(dir=parent):
            return shutil.disk_usage(parent).free >= SHARED_NEEDED
    except OSError:
        return False


def _bury(directory: Path, pid: int) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    from webapp import reserved

    for kind in KINDS:
        file = directory / f"{kind}_{pid}.db"
        if not file.exists():
            continue
        total = reserved.counts(directory / f"{kind}_0.db")
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):
            before, _ = total.read_value(key)
            total.write_value(key, max(before, value) if kind == "gauge_max" else before + value, 0.0)
        # Where there was no room for them, they stay where they are.
        if getattr(total, "shared", True):
            file.unlink()
        total.close()


@contextmanager
def _files_locked(how: int) -> Iterator[None]:
    descriptor = _lock(Path(os.environ[VARIABLE]) / "files", how)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(file: Path, how: int) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_unowned(directory: Path) -> None:
    """Remove the directory of another master if that is dead; another user's is left alone."""
    with suppress(OSError):
        # One that was made this minute may not be locked yet.
        # A link is whoever's made it, not its target's: the directory is everybody's.
        found = directory.lstat()
        if found.st_uid == os.geteuid() and found.st_mtime < time.time() - 60:
            os.close(_lock(directory / "owner", fcntl.LOCK_EX | fcntl.LOCK_NB))
            shutil.rmtree(directory)

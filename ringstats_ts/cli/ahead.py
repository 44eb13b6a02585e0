"""Many files are read and parsed ahead, by other processes than the one that stores them.

Those know no database. What they hand over comes in the order of the files: samples of a
host are stored fastest one after the other.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

from ringstats_ts.cli.files import STANDARD_INPUT, parse_files
from ringstats_ts.config import Config
from ringstats_ts.errors import PayloadError, RingstatsError
from ringstats_ts.ingest import Parsed
from ringstats_ts.model import Payload

READERS = 2
"""Two read as fast as one stores."""

WORTH = 4
"""Groups of files from which on it is worth the third of a second that a process takes to start."""

OBJECTS = 100_000
"""Made between two searches for garbage in cycles. By itself Python searches after every few
peers, which takes a fifth of the time, and there hardly is any."""


@dataclass(frozen=True, slots=True)
class Group:
    """Files that go in together, and what is in each, or why it is refused."""

    paths: Sequence[str]
    parsed: Sequence[Parsed | PayloadError]


def parsed_groups(groups: Sequence[Sequence[str]], template: Payload, config: Config) -> Generator[Group]:
    """Each group of files with what is in them, in order; `template` is what is said about all of them."""
    alone = len(groups) < WORTH or os.cpu_count() == 1
    if alone or any(STANDARD_INPUT in group for group in groups):
        for group in groups:
            yield Group(group, parse_files(group, template, config))
    else:
        yield from _parsed_ahead(groups, template, config)


def _parsed_ahead(groups: Sequence[Sequence[str]], template: Payload, config: Config) -> Generator[Group]:
    gc.set_threshold(OBJECTS)
    # Not forked: a copy of this process would hold its connection, and locks of its threads.
    pool = ProcessPoolExecutor(READERS, multiprocessing.get_context("spawn"), _be_a_reader)
    ahead: deque[tuple[Sequence[str], Future[list[Parsed | PayloadError]]]] = deque()
    left = iter(groups)
    try:
        while True:
            while len(ahead) < 2 * READERS and (group := next(left, None)) is not None:
                with _interrupts_held():
                    ahead.append((group, pool.submit(parse_files, group, template, config)))
            if not ahead:
                return
            group, parsed = ahead.popleft()
            yield Group(group, parsed.result())
    except BrokenProcessPool:
        raise RingstatsError(
            "A process that reads the files was ended from outside.",
            "What was stored stays; run it again for the others.",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C away from processes that start in the block: they are not ready for it yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_a_reader() -> None:
    # Ctrl-C goes to all processes of the terminal; the one that stores ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(OBJECTS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Killed, it could not end us."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

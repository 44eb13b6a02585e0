"""Who may come in: bounds on what one worker process does at a time, checked before a body is read.

gunicorn gives a request to a thread as soon as one is free, and a thread that waits answers
nobody. So two gates stand in the way of a document. A *seat* is for the whole of its stay in a
thread: there are fewer seats than threads, and without one it stays in a line of sockets, which
costs no thread (`webapp.worker`). A *turn* is for the costly part, decoding and storing. A body
that arrives slowly holds a seat, never a turn; memory is bounded by the seats times a body and
the turns times a document.

A burst is queued, not refused. Half of `queue_timeout` is for the seat and half for the turn:
whoever waits longer would have his answer too late.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import Generic, TypeVar

from ringstats_ts.config import Config
from ringstats_ts.errors import Busy, TooManyRequests
from ringstats_ts.model import Token
from webapp.metrics import metrics

T = TypeVar("T")

BURST_SECONDS = 10.0
"""A token may make this many seconds' worth of requests at once."""

RATES_KEPT = 10_000
"""Tokens whose rate is known; the one that was seen least lately is forgotten, and begins anew."""


def reserve(threads: int) -> int:
    """How many of a worker's threads are never taken by documents: health checks and pages have them."""
    return min(max(threads // 4, 2), threads - 1)


def seats(threads: int) -> int:
    """How many of a worker's threads documents may have."""
    return threads - reserve(threads)


def looks(threads: int) -> int:
    """How many of them pages, metrics and the like may have; what is left is for health checks."""
    return max(reserve(threads) - 1, 1)


def patience(config: Config) -> float:
    """Seconds to wait at each of the two gates."""
    return config.queue_timeout.total_seconds() / 2


class Admission:
    """What is asked of a document that has a seat."""

    def __init__(self, config: Config) -> None:
        self._wait = patience(config)
        self.turns = Turns(min(config.writers, seats(config.threads)))
        self._rates = Rates(config.rate)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be one of the writers.

        Raises
        ------
        Busy
            where it has not come to that in time.
        """
        with metrics().waiting.track_inprogress():
            taken = self.turns.take(self._wait)
        if not taken:
            raise Busy(f"The service is busy: the document has waited {self._wait:g} s for its turn.")
        try:
            with metrics().storing.track_inprogress():
                yield
        finally:
            self.turns.give()

    def check_rate(self, token: Token | None) -> None:
        """Count a request of the token, if there is one.

        Raises
        ------
        TooManyRequests
            with `retry_after`: the seconds until the next one is taken.
        """
        wait = 0.0 if token is None else self._rates.take(token.key_id, monotonic())
        if wait > 0:
            error = TooManyRequests()
            error.retry_after = wait
            raise error


class Line(Generic[T]):
    """Who has a seat, and who waits for one, first come, first served.

    It waits for nothing and is for one thread, which has to ask `late` when the first one is `due`.
    """

    def __init__(self, seats: int, places: int, wait: float) -> None:
        self._free = seats
        self._places = places
        self._wait = wait
        self._seated: set[T] = set()
        self._waiting: deque[tuple[float, T]] = deque()

    @property
    def due(self) -> float:
        """When the time of the first in the line is over."""
        return self._waiting[0][0] if self._waiting else inf

    def sit(self, guest: T) -> bool:
        """Take a seat, if there is one."""
        if not self._free:
            return False
        self._free -= 1
        self._seated.add(guest)
        return True

    def wait(self, guest: T, now: float) -> bool:
        """Join the line, if there is room."""
        if len(self._waiting) == self._places:
            return False
        self._waiting.append((now + self._wait, guest))
        return True

    def leave(self, guest: T) -> T | None:
        """Give the seat up, if it has one; who has it now."""
        if guest not in self._seated:
            return None
        self._seated.remove(guest)
        if not self._waiting:
            self._free += 1
            return None
        following = self._waiting.popleft()[1]
        self._seated.add(following)
        return following

    def late(self, now: float) -> list[T]:
        """Those whose time is over; they leave the line."""
        found = []
        while self.due <= now:
            found.append(self._waiting.popleft()[1])
        return found


class Turns:
    """A semaphore that is given on in the order of asking, which `threading.Semaphore` does not promise."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Event] = deque()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    def take(self, timeout: float) -> bool:
        """Take a turn, or give up after `timeout` seconds."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            given = threading.Event()
            self._waiting.append(given)
        if given.wait(timeout):
            return True
        with self._lock:
            if not given.is_set():
                self._waiting.remove(given)
        return given.is_set()

    def give(self) -> None:
        """Give the turn to who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class Rates:
    """How fast each key may ask: `rate` a second, with ten seconds' worth at once; 0 for any speed.

    A token bucket, kept as the one time at which it would be full again.
    """

    def __init__(self, rate: int, kept: int = RATES_KEPT) -> None:
        self._rate = rate
        self._kept = kept
        self._lock = threading.Lock()
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, now: float) -> float:
        """Count one request at the time `now`, or give the seconds until it would be taken."""
        if not self._rate:
            return 0.0
        with self._lock:
            full_at = max(self._full_at.get(key, now), now) + 1 / self._rate
            if full_at - now > BURST_SECONDS:
                return full_at - now - BURST_SECONDS
            self._full_at[key] = full_at
            self._full_at.move_to_end(key)
            if len(self._full_at) > self._kept:
                self._full_at.popitem(last=False)
        return 0.0

"""Who may come in: bounds on what one worker process does at a time, checked before a body is read.

gunicorn gives a request to a thread as soon as one is free, and a thread that waits answers
nobody. So two gates stand in the way of a document. A *seat* is for the whole of its stay:
there are fewer seats than threads, and who gets none is answered 503 with its body unread.
A *turn* is for the costly part, decoding and storing. A body that arrives slowly holds a
seat, never a turn; memory is bounded by the seats times a body and the turns times a document.

A burst is queued, not refused: while documents are stored, a seat is waited for. Only when
nothing moves, as with a database that hangs, those without one are refused at once, and
their threads answer health checks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from ringstats_ts.config import Config
from ringstats_ts.errors import Busy, PayloadError, TooManyRequests
from ringstats_ts.model import Token
from webapp.metrics import metrics

BURST_SECONDS = 10.0
"""A token may make this many seconds' worth of requests at once."""

RATES_KEPT = 10_000
"""Tokens whose rate is known; the one that was seen least lately is forgotten, and begins anew."""


def reserve(threads: int) -> int:
    """How many of a worker's threads are never taken by documents: health checks and refusals have them."""
    return min(max(threads // 4, 2), threads - 1)


STILL_SECONDS = 1.0
"""When no document was taken or refused for so long, nothing moves."""


class Admission:
    """The gates of one worker process."""

    def __init__(self, config: Config) -> None:
        seats = config.threads - reserve(config.threads)
        self.seats = Turns(seats)
        self._moved_at = monotonic()
        self._wait = config.queue_timeout.total_seconds()
        self.turns = Turns(min(config.writers, seats))
        self._rates = Rates(config.rate)

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Be one of those whose body is read, waits or is stored.

        Raises
        ------
        Busy
            where all seats are taken, and nothing moves.
        """
        if self.seats.idle:
            self._moved_at = monotonic()
        if not self.seats.take(max(self._moved_at + STILL_SECONDS - monotonic(), 0.0)):
            raise Busy
        try:
            yield
        finally:
            self.seats.give()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be one of the writers.

        Raises
        ------
        Busy
            where it has not come to that within `queue_timeout`.
        """
        with metrics().waiting.track_inprogress():
            taken = self.turns.take(self._wait)
        if not taken:
            raise Busy(f"The service is busy: the document has waited {self._wait:g} s for its turn.")
        try:
            with metrics().storing.track_inprogress():
                yield
            self._moved_at = monotonic()
        except PayloadError:
            self._moved_at = monotonic()
            raise
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


class Turns:
    """A semaphore that is given on in the order of asking, which `threading.Semaphore` does not promise."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._count = self._free = count
        self._waiting: deque[threading.Event] = deque()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether none is taken."""
        return self._free == self._count

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

"""Whether this machine's clock is that of the database, by which rows are refreshed, pruned and silent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ringstats_ts.errors import WrongClock
from ringstats_ts.storage.database import Database

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


def skew(database: Database, clock: Clock = _now) -> timedelta:
    """How far this machine's clock is ahead of the database's."""
    before = clock()
    ((server,),) = database.rows("clock")
    after: datetime = clock()
    ahead: timedelta = before + (after - before) / 2 - server
    return ahead


def check_clock(database: Database, tolerance: timedelta, clock: Clock = _now) -> None:
    """Refuse to go on with a clock that is farther off.

    Raises
    ------
    WrongClock
    """
    check_skew(skew(database, clock), tolerance)


def check_skew(found: timedelta, tolerance: timedelta | None) -> None:
    """Refuse what is farther off the database's clock; None is any.

    Raises
    ------
    WrongClock
    """
    if tolerance is not None and abs(found) > tolerance:
        machine = socket.gethostname()
        raise WrongClock(f"The clock of {machine} is {told(found)} of the database's.")


def told(found: timedelta) -> str:
    """Say how far a clock is off."""
    length = timedelta(seconds=round(abs(found).total_seconds()))
    return f"{length} {'ahead' if found > timedelta(0) else 'behind'}"


def note_clock(database: Database, tolerance: timedelta, clock: Clock = _now) -> None:
    """Note that this machine's clock is off, for `tsstats doctor`, or forget that it was."""
    found = skew(database, clock)
    name = "note_clock" if abs(found) > tolerance else "forget_clock"
    database.rows(name, {"machine": socket.gethostname(), "ahead": found})

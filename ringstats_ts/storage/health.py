"""How the database fares: one finding a subject, for `tsstats doctor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ringstats_ts.errors import RingstatsError, UnsuitableDatabase
from ringstats_ts.storage import boundary, clock, policies, schema
from ringstats_ts.storage.database import Database
from ringstats_ts.words import counted

CLOCK_TOLERANCE = timedelta(seconds=5)
"""Skew that matters: samples carry this machine's time, policies run by the server's."""

CLOCK_LOOKS = 5

OVERDUE = timedelta(minutes=15)
"""How late a job may be before it is worth a look; nothing runs for a while after a start."""


SHOWN = 5
"""Senders that are named in one line."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, whether it is well, and what was found."""

    subject: str
    ok: bool
    detail: str


def examine(database: Database, overrides: Mapping[str, str]) -> Iterator[Finding]:
    """Look at everything in turn; where the database does not answer, only that is said."""
    try:
        started = time.monotonic()
        database.run("SELECT 1")
        elapsed = time.monotonic() - started
        yield Finding("database", True, f"answers in {elapsed * 1000:.0f} ms")
        server = schema.check_server(database)
        detail = f"{server.timescaledb} Community on PostgreSQL {server.postgresql}"
        yield Finding("timescaledb", True, detail)
    except RingstatsError as error:
        yield Finding("database", False, str(error))
        return
    try:
        schema.check_texts(database)
    except UnsuitableDatabase as error:
        yield Finding("migrations", False, str(error))
        return
    missing = schema.pending(database)
    yield Finding("migrations", not missing, _migrations(missing))
    if not missing:
        for subject, look in _LOOKS.items():
            ok, detail = look(database)
            yield Finding(subject, ok, detail)
        yield _policies(database, overrides)


def _migrations(missing: list[str]) -> str:
    if missing:
        return f"{len(missing)} pending, from {missing[0]} on. Run `tsstats migrate`."
    return f"all {len(schema.shipped())} applied"


def _policies(database: Database, overrides: Mapping[str, str]) -> Finding:
    """A policy that is missing is bad; another value may well be that of the service's environment."""
    try:
        missing = policies.missing(database)
        different = policies.differing(database, overrides)
    except RingstatsError as error:
        return Finding("policies", False, str(error))
    if missing:
        return Finding("policies", False, f"missing: {_named(missing)}. Run `tsstats migrate`.")
    if different:
        return Finding("policies", True, f"differs from this environment's settings: {_named(different)}")
    return Finding("policies", True, "registered as configured")


def _named(listed: list[policies.Policy]) -> str:
    return ", ".join(f"{policy.kind} of {policy.relation}" for policy in listed)


def _reader(database: Database) -> tuple[bool, str]:
    said = boundary.warning(database)
    return said is None, said or "a login in tsstats_reader can only read"


def _jobs(database: Database) -> tuple[bool, str]:
    failing = database.rows("failing_jobs")
    if failing:
        job, error = failing[0]
        return False, f"{len(failing)} failing; {job}: {error}"
    overdue = database.rows("overdue_jobs", {"overdue": OVERDUE})
    if overdue:
        return (
            False,
            f"{overdue[0][0]} is overdue since {overdue[0][1]:%Y-%m-%d %H:%M}Z. Does the server run?",
        )
    return True, "none failing, none overdue"


def _late(database: Database) -> tuple[bool, str]:
    ((count,),) = database.rows("count_late_windows")
    return True, (
        f"{counted(count, 'window')} to refresh for late documents" if count else "no window to refresh"
    )


def _clock(database: Database) -> tuple[bool, str]:
    """The smallest difference that the quickest of a few answers allows: a queue is not a skew."""
    if found := database.rows("wrong_clocks"):
        shown = "; ".join(f"{machine}, {clock.told(ahead)}" for machine, ahead, _ in found[:SHOWN])
        return False, f"the clock of a service is off the database's: {shown}. Set both by NTP."
    differences = [_difference(database) for _ in range(CLOCK_LOOKS)]
    earliest, latest = min(differences, key=lambda bounds: bounds[1] - bounds[0])
    skew = max(earliest, min(latest, timedelta()))
    if abs(skew) > CLOCK_TOLERANCE:
        return False, f"the server is {skew.total_seconds():+.1f} s off this machine. Set both by NTP."
    within = max(abs(earliest), abs(latest)).total_seconds()
    return True, f"the server is within {within:.3f} s of this machine"


def _difference(database: Database) -> tuple[timedelta, timedelta]:
    """By how much the server's clock may be ahead: at least and at most."""
    before = datetime.now(UTC)
    ((server,),) = database.run("SELECT clock_timestamp()")
    return server - datetime.now(UTC), server - before


def _size(database: Database) -> tuple[bool, str]:
    ((size,),) = database.rows("database_size")
    return True, f"the database takes {size / 1e6:,.0f} MB"


def _checksums(database: Database) -> tuple[bool, str]:
    ((state,),) = database.run("SHOW data_checksums")
    if state == "on":
        return True, "on: a damaged page is an error"
    return True, "off: a damaged page may be read as it is. A new database has them"


def _drift(database: Database) -> tuple[bool, str]:
    found = database.rows("drift")
    if not found:
        return True, "no field that this version does not know"
    shown = ", ".join(path for _, path in found[:5])
    fields = counted(len(found), "field")
    return True, f"{fields} that this version does not know, kept in attributes: {shown}"


def _reporters(database: Database) -> tuple[bool, str]:
    ((total, silent),) = database.rows("count_reporters")
    return True, f"{counted(total, 'host')} known, {silent} of them not heard within the last hour"


def _budgets(database: Database) -> tuple[bool, str]:
    found = database.rows("spent_budgets")
    if not found:
        return True, "nothing new was turned away today"
    shown = "; ".join(_short(*row) for row in found[:SHOWN])
    more = f"; and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return False, f"spent today (UTC): {shown}{more}. Is it meant? Then raise TSSTATS_NEW_*."


def _short(level: str, sender: str, host: str, hosts: int, series: int, attributes: int) -> str:
    who = {"all": "all senders", "sender": sender}.get(level, f"{host} from {sender}")
    lacks = {"new host": hosts, "new series": series, "set of attributes": attributes}
    told = ", ".join(f"{number:,} x {what}" for what, number in lacks.items() if number)
    return f"{who} (left out: {told})"


def _rejects(database: Database) -> tuple[bool, str]:
    ((count, latest),) = database.rows("count_rejects")
    if count:
        return True, f"{counted(count, 'payload')} refused within the last day, the latest as {latest}"
    return True, "nothing refused within the last day"


_LOOKS: dict[str, Callable[[Database], tuple[bool, str]]] = {
    "reader": _reader,
    "jobs": _jobs,
    "late data": _late,
    "clock": _clock,
    "size": _size,
    "checksums": _checksums,
    "drift": _drift,
    "reporters": _reporters,
    "budgets": _budgets,
    "rejects": _rejects,
}

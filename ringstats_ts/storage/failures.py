"""What a failure of the database means: one table, from what the driver raises to our errors.

`store` runs a transaction again where the error says `retried`; everything else goes to
the sender, who tries again where it says `retryable`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg2

from ringstats_ts.errors import (
    OutdatedSchema,
    PayloadError,
    QueryError,
    RingstatsError,
    StatementTimeout,
    StorageError,
    StorageUnavailable,
    UnstorablePayload,
)


class NoAccess(StorageError):
    """The database does not let us in."""

    code = "no-access"
    hint = "Check DATABASE_URI."


class ConnectionLost(StorageUnavailable):
    """The connection to the database was lost."""

    retried = True
    may_have_committed = True
    """Whether COMMIT was under way."""


class DeadlinePassed(ConnectionLost):
    """The database did not answer in time."""

    code = "deadline-passed"
    retried = False


class Contended(StorageUnavailable):
    """Another transaction was in the way."""

    retried = True


class OutOfMemory(StorageUnavailable):
    """The database has no memory, or no locks, left for this."""

    code = "out-of-memory"


class Conflict(StorageError):
    """A row with this key is stored already, or one that was there is gone."""

    code = "conflict"
    retried = True


@dataclass(frozen=True, slots=True)
class Failure:
    """A row of the table.

    Parameters
    ----------
    key
        a SQLSTATE, its class (two characters), or one of the words below for what has none.
    error
        what it is to us.
    words
        its message; `{detail}` is the server's or the driver's first line.
    usable
        whether the connection is good for the next transaction.
    retry_after
        seconds that a sender should wait at least; None where any moment is as good.
    """

    key: str
    error: type[StorageError | PayloadError]
    words: str = "The database cannot take this now: {detail}."
    usable: bool = True
    retry_after: int | None = None

    @property
    def retried(self) -> bool:
        """Whether `store` runs the transaction again."""
        return issubclass(self.error, StorageError) and self.error.retried


LOST = "lost"
OVERDUE = "overdue"
UNREACHED = "unreached"
NO_ACCESS = "no access"
BAD_ADDRESS = "bad address"
NUL = "nul"
SURROGATE = "surrogate"
OTHER = "other"

_BUSY = "The database is busy with another statement: {detail}."
_SLOW = "The database took too long: {detail}."
_UNSTORABLE = "A value cannot be stored: {detail}."
_MISSING = "The database lacks what this version needs: {detail}."

FAILURES = {
    failure.key: failure
    for failure in (
        # psycopg2 has no SQLSTATE for a connection that was lost or never made.
        Failure(LOST, ConnectionLost, "The connection to the database was lost: {detail}.", usable=False),
        Failure(OVERDUE, DeadlinePassed, "The database did not answer in time.", usable=False),
        Failure(UNREACHED, StorageUnavailable, "The database cannot be reached: {detail}.", usable=False),
        Failure(NO_ACCESS, NoAccess, "The database cannot be used: {detail}.", usable=False),
        # libpq's own words quote the address, and with it the password.
        Failure(BAD_ADDRESS, NoAccess, "The database address cannot be used.", usable=False),
        # Nor for what the driver itself refuses to send.
        Failure(NUL, UnstorablePayload, "A text holds the character NUL, which cannot be stored."),
        Failure(SURROGATE, UnstorablePayload, "A text has a lone surrogate, which cannot be stored."),
        Failure("08", StorageUnavailable),
        # The same key twice in one INSERT ... ON CONFLICT DO UPDATE.
        Failure("21000", UnstorablePayload, "A row stands there twice: {detail}."),
        Failure("22", UnstorablePayload, _UNSTORABLE),
        Failure("23503", Conflict, "{detail}."),
        Failure("23505", Conflict, "{detail}."),
        Failure("25006", StorageUnavailable, "The database is read-only now: {detail}."),
        Failure("25P03", StorageUnavailable),
        Failure("40", Contended, "Another transaction was in the way: {detail}."),
        Failure("42703", OutdatedSchema, _MISSING),
        Failure("42883", OutdatedSchema, _MISSING),
        Failure("42P01", OutdatedSchema, _MISSING),
        Failure("53", StorageUnavailable),
        Failure("53100", StorageUnavailable, "The database's disk is full: {detail}.", retry_after=60),
        Failure("53200", OutOfMemory),
        Failure("54", UnstorablePayload, _UNSTORABLE),
        Failure("55", StorageUnavailable),
        Failure("55P03", StatementTimeout, _BUSY),
        Failure("57", StorageUnavailable),
        Failure("57014", StatementTimeout, _SLOW),
        Failure("58", StorageUnavailable),
        Failure(OTHER, QueryError, "The database refused: {detail}."),
    )
}

_QUOTED = re.compile(r'"([^"]*)"')
_NAME = re.compile(r"[\w./:-]*", re.ASCII)

_NO_ACCESS_WORDS = (
    "does not exist",
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "is not permitted to log in",
    "permission denied for database",
)
"""In the words of a server that answers, and will say the same again. It sends no SQLSTATE."""


def translate(error: Exception, *, lost: bool = False, overdue: bool = False) -> RingstatsError:
    """Turn what the driver raised into an error of ours.

    A lost connection has no SQLSTATE in psycopg2, so the caller asks the connection itself:
    `lost` says that it is gone, `overdue` that the watchdog cut it.
    """
    if lost or isinstance(error, psycopg2.InterfaceError):
        return _made(FAILURES[OVERDUE if overdue else LOST], error)
    return _made(_failure(error), error)


def translate_connect(error: Exception) -> RingstatsError:
    """Turn what the driver raised while connecting into an error of ours.

    What libpq quotes of the address may be a part of a password: names alone are shown.
    """
    if not isinstance(error, psycopg2.OperationalError) or str(error).startswith("invalid "):
        return _made(FAILURES[BAD_ADDRESS], error)
    error = psycopg2.OperationalError(_QUOTED.sub(_names_alone, str(error)))
    refused = any(words in str(error) for words in _NO_ACCESS_WORDS)
    return _made(FAILURES[NO_ACCESS if refused else UNREACHED], error)


def _names_alone(match: re.Match[str]) -> str:
    return match[0] if _NAME.fullmatch(match[1]) else '"..."'


def first_line(error: Exception) -> str:
    """The first line of the server's or the driver's message, to stand in a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix("ERROR:").strip().rstrip(".")


def _failure(error: Exception) -> Failure:
    if isinstance(error, UnicodeEncodeError):
        return FAILURES[SURROGATE]
    if isinstance(error, ValueError) and "NUL" in str(error):
        return FAILURES[NUL]
    state = getattr(error, "pgcode", None) or ""
    return FAILURES.get(state) or FAILURES.get(state[:2]) or FAILURES[OTHER]


def _made(failure: Failure, error: Exception) -> RingstatsError:
    made = failure.error(failure.words.format(detail=first_line(error)))
    if isinstance(made, StorageUnavailable):
        made.retry_after = failure.retry_after
    return made

"""Every error that ringstats-ts raises on purpose, in one tree.

A class's docstring is its default message. Nothing here knows HTTP or exit
codes: `webapp.errors` and `ringstats_ts.cli.errors` hold those tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ringstats_ts.shapes import redact_text


class RingstatsError(Exception):
    """Something went wrong."""

    code = "error"
    hint: str | None = None
    retryable = False
    retry_after: float | None = None
    """Seconds after which trying again may be worth it, where that is known."""
    documents = 1
    """How many documents were not stored because of it."""

    def __init__(self, message: str | None = None, hint: str | None = None) -> None:
        # A message may quote what was sent, or what the database said of it.
        self.message = redact_text(message) if message else (type(self).__doc__ or "").strip().splitlines()[0]
        if hint is not None:
            self.hint = hint
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigError(RingstatsError):
    """A setting cannot be used."""

    code = "config"


class ClientKeyError(ConfigError):
    """The key of client pseudonyms cannot be used."""


class PayloadError(RingstatsError):
    """The payload was refused; nothing of it was stored.

    `pointer` (RFC 6901) and `line` (1-based) say where, as far as it is known.
    """

    code = "payload"

    def __init__(
        self,
        message: str | None = None,
        hint: str | None = None,
        *,
        pointer: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.pointer = pointer and redact_text(pointer)
        self.line = line


class EmptyPayload(PayloadError):
    """The body is empty."""

    code = "empty-payload"
    hint = "Is the daemon running? `tailscale status --json` prints nothing when tailscaled is down."


class MalformedPayload(PayloadError):
    """The body is not valid JSON."""

    code = "malformed-payload"
    hint = "Send the tool's output unchanged, with `curl --data-binary @-`."


class TruncatedPayload(MalformedPayload):
    """The JSON document ends in the middle."""

    code = "truncated-payload"
    hint = "Send the whole document again; was the file still being written?"


class PayloadTooLarge(PayloadError):
    """The body is larger than this service takes."""

    code = "payload-too-large"
    hint = "Split it, or raise TSSTATS_MAX_BODY_BYTES or TSSTATS_MAX_DOCUMENT_BYTES."


class UnsupportedEncoding(PayloadError):
    """The Content-Encoding is not supported."""

    code = "unsupported-encoding"
    hint = "Send the body as it is, or with one layer of gzip."


class BadParameter(PayloadError):
    """A parameter or header cannot be used."""

    code = "bad-parameter"


class UnknownSource(PayloadError):
    """The document is valid, but of no kind that this service knows."""

    code = "unknown-source"
    hint = "`tsstats sources` lists what is accepted."


class UnstorablePayload(PayloadError):
    """The document is valid, but a value in it cannot be stored."""

    code = "unstorable-payload"


class TimestampOutOfRange(PayloadError):
    """The sample time is outside the accepted window."""

    code = "timestamp-out-of-range"
    hint = "Give the time of the observation with `time`, and check the clock of the host."


class KilledWorker(PayloadError):
    """A worker of the service died when it read this body, which is therefore refused for an hour."""

    code = "killed-worker"
    hint = "Look at it with `tsstats rejects list`, and please report it."


class ConflictingPayload(PayloadError):
    """Another document is stored for this host and time."""

    code = "conflicting-payload"
    hint = "Send it with `replace=1` if it is a correction."


class Unauthorized(RingstatsError):
    """No valid token was sent."""

    code = "unauthorized"
    hint = "Send `Authorization: Bearer <token>`; `tsstats token create` makes one."


class Forbidden(PayloadError):
    """The token does not allow this."""

    code = "forbidden"
    hint = "`tsstats token list` shows what each token is for."


class Misdirected(RingstatsError):
    """The request names another host than this machine; without tokens the service answers to no other."""

    code = "misdirected"
    hint = (
        "Call it by `localhost` or 127.0.0.1, or name the host in TSSTATS_HOSTS; for others than this "
        "machine set TSSTATS_AUTH=on and make tokens with `tsstats token create`."
    )


class BodyTimeout(RingstatsError):
    """The body did not arrive in time."""

    code = "body-timeout"
    hint = "Nothing was stored. Send it again, or raise TSSTATS_BODY_TIMEOUT where the network is that slow."
    retryable = True


class Busy(RingstatsError):
    """The service is busy; the body was not read."""

    code = "busy"
    hint = "Nothing was stored; try again."
    retryable = True


class TooManyRequests(RingstatsError):
    """The sender posts faster than it may; the body was not read."""

    code = "too-many-requests"
    hint = "Try again later, or raise TSSTATS_RATE."
    retryable = True


class BudgetSpent(PayloadError):
    """The sender has named more that is new than it may in one day."""

    code = "budget-spent"
    hint = "Values of what is known already are still taken."
    retryable = True

    def __init__(
        self, message: str | None = None, hint: str | None = None, *, level: str = "all", what: str = "hosts"
    ) -> None:
        super().__init__(message, hint)
        self.level = level
        self.what = what


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused document of a body: its number, from 0, its text and what is wrong with it."""

    number: int
    text: bytes
    error: PayloadError


class PartlyRefused(PayloadError):
    """Some documents of the body were refused; the others are stored.

    `receipts` are of those that are stored, `refusals` are the others.
    """

    code = "partly-refused"
    hint = "Correct those that `errors` names and send them again; the others need not be sent."

    def __init__(
        self,
        message: str | None = None,
        hint: str | None = None,
        *,
        receipts: Sequence[Any] = (),
        refusals: Sequence[Refusal] = (),
    ) -> None:
        super().__init__(message, hint)
        self.receipts = receipts
        self.refusals = refusals


class StorageError(RingstatsError):
    """The database refused."""

    code = "storage"
    retried = False
    """Whether the transaction is worth running again here and now."""


class StorageUnavailable(StorageError):
    """The database cannot be reached or cannot take writes now."""

    code = "storage-unavailable"
    hint = "Nothing was stored; try again."
    retryable = True


class StorageFull(StorageUnavailable):
    """The database has too little disk space left to take documents."""

    code = "storage-full"
    hint = "Nothing was stored; free some space, and send it again."
    retry_after = 60


class StatementTimeout(StorageUnavailable):
    """The database took too long."""

    code = "statement-timeout"
    hint = "Nothing was changed; try again."


class OutcomeUnknown(StorageUnavailable):
    """The connection to the database was lost while the document was being stored."""

    code = "outcome-unknown"
    hint = (
        "It may be stored or not. Send it again with the same `time` or Idempotency-Key: it is stored once."
    )


class WrongClock(StorageUnavailable):
    """The clock of the service's machine and that of the database's differ."""

    code = "wrong-clock"
    hint = "Nothing was stored; try again when both are set, by NTP. `tsstats doctor` names the machine."


class LostClientKey(StorageUnavailable):
    """The logs in this database were stored with another client key."""

    code = "lost-client-key"
    hint = (
        "Nothing was stored, since logs that are there already would be counted again. Use the first key: "
        "the last line of TSSTATS_CLIENT_KEY, or of `client-key` in the TSSTATS_DATA of who came first."
    )


class NoClientKey(StorageUnavailable):
    """There is no key to hash the clients of a log with."""

    code = "no-client-key"
    hint = (
        "Nothing was stored; send it again when the service has one: set TSSTATS_CLIENT_KEY or "
        "TSSTATS_CLIENT_KEY_FILE, or let it write to the directory TSSTATS_DATA."
    )


class UnsuitableDatabase(StorageError):
    """The database is not a TimescaleDB that ringstats-ts can use."""

    code = "unsuitable-database"


class OutdatedSchema(StorageError):
    """The database lacks migrations."""

    code = "outdated-schema"
    hint = "Run `tsstats migrate`."


class QueryError(StorageError):
    """The query is not valid."""

    code = "query"


class NotFound(RingstatsError):
    """Nothing is stored for that."""

    code = "not-found"


class EmbeddedDatabaseError(RingstatsError):
    """The embedded database does not run."""

    code = "embedded-database"


class ExportError(RingstatsError):
    """The export could not be written."""

    code = "export"

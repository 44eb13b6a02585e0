"""What becomes of a refused payload: it is kept, and can be sent the same way in again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from ringstats_ts import sources
from ringstats_ts.config import Config
from ringstats_ts.decode import GZIP_MAGIC, inflate
from ringstats_ts.errors import (
    BadParameter,
    KilledWorker,
    NotFound,
    PartlyRefused,
    PayloadError,
    Refusal,
    RingstatsError,
)
from ringstats_ts.identity import own_host
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Log, Payload, Receipt
from ringstats_ts.shapes import redact_text
from ringstats_ts.sources.secrets import keepable, redact
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.receipts import key_of
from ringstats_ts.storage.rejects import BAD_LINE, KEPT_BYTES, Reject, add_reject, settle

logger = logging.getLogger(__name__)

DETAIL_LENGTH = 2000
"""What is kept of a message: it may quote the body."""


def reject(payload: Payload, error: PayloadError, database: Database, config: Config) -> bool:
    """Keep a refused payload with its reason; whether it is kept.

    Where it is not, the log tells: the database is away, or there are too many rejects.
    """
    # What killed a worker may do so again while it is cleaned.
    may_be_kept = len(payload.body) <= KEPT_BYTES and not isinstance(error, KilledWorker)
    body = _keepable(payload.body) if may_be_kept else None
    return _kept(payload, error, body, len(payload.body), database, config)


def keep_killer(payload: Payload, size: int, body: bytes | None, database: Database, config: Config) -> bool:
    """Keep what killed the worker that read it, with as much of its `body` as may be kept; whether it is."""
    return _kept(payload, KilledWorker(), body, size, database, config)


def keepable_body(sent: bytes) -> bytes | None:
    """What may be kept of a body as it was sent, which may be compressed. It may take any time.

    Raises
    ------
    PayloadError
    """
    return _keepable(inflate([sent], KEPT_BYTES) if sent.startswith(GZIP_MAGIC) else sent)


def _kept(
    payload: Payload,
    error: PayloadError,
    body: bytes | None,
    size: int,
    database: Database,
    config: Config,
) -> bool:
    payload = replace(payload, host=payload.host or own_host(payload.token))
    try:
        kept = add_reject(database, payload, reason=_reason(error), body=body, size=size, config=config)
    except RingstatsError as failure:
        logger.warning("A refused payload could not be kept: %s", failure.message)
        return False
    if not kept:
        logger.warning("A refused payload was not kept: there are too many (%s).", error.code)
    return kept


def reject_each(payload: Payload, refusals: Sequence[Refusal], database: Database, config: Config) -> None:
    """Keep refused documents of a payload whose others are stored, each as a payload of its own."""
    try:
        with database.transaction():
            for refusal in refusals:
                # The key of the whole would be that of its first document.
                key = key_of(payload.key, refusal.number)
                alone = replace(payload, body=refusal.text, key=key, partial=False)
                reject(alone, refusal.error, database, config)
    except RingstatsError as failure:
        logger.warning("Refused documents could not be kept: %s", failure.message)


def retry(
    refused: Reject,
    database: Database,
    config: Config,
    *,
    now: datetime,
    host: str | None = None,
    time: datetime | None = None,
    source: str | None = None,
) -> list[Receipt]:
    """Store a kept payload as if it were still at the door it was refused at; then it is no reject any more.

    It arrives when it first did, from whom it did. `host`, `time` and `source` take the
    place of what the sender said; who names the host answers for it, whatever the token is for.
    Safe to repeat: what is stored already is answered as a duplicate.

    Raises
    ------
    NotFound
        the body was not kept.
    PayloadError
        it is refused again, and kept with this reason. As PartlyRefused it has the receipts of
        what is stored of it.
    StorageUnavailable
        it is kept as it was.
    """
    _check(refused, told=any((host, time, source)))
    payload = refused.payload
    payload = replace(
        payload,
        host=host or payload.host,
        token=None if host else payload.token,
        time=time or payload.time,
        source=source or payload.source,
    )
    if refused.reason == BAD_LINE:
        # Its content is no key: there may have been equal ones. No sender's key has a space.
        payload = replace(payload, key=f" reject {refused.reject_id}")
    try:
        receipts = ingest(payload, database, config, now=now)
    except PayloadError as error:
        stored = error.receipts if isinstance(error, PartlyRefused) else ()
        reason = _reason(error)
        if refused.reason == BAD_LINE:
            # By which it is known when its log comes again.
            reason |= {"reason": BAD_LINE, "line": refused.line}
        settle(database, refused.reject_id, stored, now=now, reason=reason)
        raise
    settle(database, refused.reject_id, receipts, now=now)
    return receipts


def why_not_kept(refused: Reject) -> str | None:
    """Why a reject has no body, or None where it has."""
    if refused.kept_bytes is not None:
        return None
    if refused.size_bytes > KEPT_BYTES:
        return f"it is {refused.size_bytes:,} bytes, and at most {KEPT_BYTES:,} are kept"
    if refused.reason == KilledWorker.code:
        return "it killed the worker that read it, and could not be cleaned of secrets in time"
    return "it is neither JSON nor a log that could be read, so that secrets in it could not be blanked"


def _keepable(body: bytes) -> bytes | None:
    """What may be kept of a body: JSON, whole or broken, and logs, without their secrets."""
    return redact(body) if sources.detect_log(Log(body)) is not None else keepable(body)


def _check(refused: Reject, *, told: bool) -> None:
    if why := why_not_kept(refused):
        raise NotFound(f"The payload was not kept: {why}.", "Ask for it to be sent again.")
    if refused.reason == BadParameter.code and not told:
        # Without what the sender said it would be stored, but for another time or host.
        raise BadParameter(
            f"What was said beside the body could not be used: {refused.detail}",
            "Say what it should have been with --host, --time or --source.",
        )


def _reason(error: PayloadError) -> dict[str, Any]:
    return {
        "reason": error.code,
        "detail": _storable(str(error)),
        "pointer": error.pointer and _storable(error.pointer),
        "line": error.line,
    }


def _storable(text: str) -> str:
    """The message as it may be kept: it may quote the body, as sent or percent-encoded."""
    return redact_text(unquote(text)).replace("\0", "\\u0000")[:DETAIL_LENGTH]

"""The one way in: payload -> documents -> source -> batches -> one transaction -> receipts.

A log is one document, however long: its lines become events, and those that cannot be read are
kept as rejects, each with its number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic

from ringstats_ts import sources
from ringstats_ts.bodies import Refusals, documents_of
from ringstats_ts.config import Config
from ringstats_ts.decode import Document, refuse_rounded
from ringstats_ts.errors import (
    BadParameter,
    BudgetSpent,
    ClientKeyError,
    NoClientKey,
    PayloadError,
    RingstatsError,
    UnstorablePayload,
)
from ringstats_ts.identity import check_host, own_host
from ringstats_ts.lookups import EventIds, Lookups
from ringstats_ts.model import BadLine, Batch, Context, Log, Payload, Receipt, Source
from ringstats_ts.references import fingerprint, references
from ringstats_ts.shapes import redact_text
from ringstats_ts.sources.secrets import redact
from ringstats_ts.storage.budget import Allowance, note_refused
from ringstats_ts.storage.clientkey import check_client_key
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.receipts import Task, tasks
from ringstats_ts.storage.rejects import bad_lines_told, sent_with
from ringstats_ts.storage.store import RefusedTask, store
from ringstats_ts.storage.window import FILE_DAYS, OLDEST_EVENT, check_span, check_time, without_outdated

Place = tuple[int, int]
"""The number of a payload and that of a document in it, from 0."""

BAD_LINES = 10_000
"""Most lines of one log that are kept as rejects; a log with more of them is refused as a whole."""

REFUSED_TOGETHER = 3
"""So many payloads are left out of what is stored together before the others go in one by one."""


def ingest(
    payload: Payload,
    database: Database,
    config: Config,
    *,
    now: datetime | None = None,
    parsed: Callable[[], None] = lambda: None,
) -> list[Receipt]:
    """Store every document of the payload, or none; with `partial`, those that are good.

    `now` is the present, where a payload that arrived before is sent in again. That is an
    operator's doing, as a backfill is: no budget bounds what they name that is new. `parsed` is
    called when the payload has been read, before the database is asked.

    Returns one receipt a document, in order; when it returns, they are committed.

    Raises
    ------
    PartlyRefused
        with `partial`, some of several documents were refused; those of its receipts are committed.
    PayloadError
        the payload was refused, nothing of it is stored.
    StorageUnavailable
        the database did not take it now; trying again is safe.
    """
    found = documents_of(payload, config)
    refusals = Refusals(found, go_on=payload.partial and len(found) > 1)
    try:
        batches = _parsed(refusals, payload, config, now)
        parsed()
        bounded = not payload.backfill and now is None
        allowance = Allowance.of(payload, config) if bounded else None
        # One for all of it: each step with a deadline of its own could take as long again.
        with database.deadline():
            todo = _checked(refusals, batches, payload, database, config, now=now or payload.received_at)
            receipts = _stored(refusals, todo, database, config, allowance)
    except RingstatsError as error:
        error.documents = len(found)
        raise
    if refusals.errors:
        raise refusals.summed_up(receipts)
    return receipts


@dataclass(frozen=True, slots=True)
class Parsed:
    """A payload and its documents, without what they were read from, and their batches by number."""

    payload: Payload
    found: list[Document]
    batches: dict[int, Batch]


def parse(payload: Payload, config: Config) -> Parsed:
    """Decode the body and turn each of its documents into a batch. Touches no database.

    Raises
    ------
    PayloadError
    """
    found = documents_of(payload, config)
    batches = _parsed(Refusals(found, go_on=False), payload, config)
    places = [replace(document, value=None) for document in found]
    return Parsed(replace(payload, body=b""), places, batches)


def ingest_parsed(
    parsed: Sequence[Parsed], database: Database, config: Config
) -> list[list[Receipt] | PayloadError]:
    """Store several payloads in one transaction, but for those that are refused.

    Returns for each its receipts, when they are committed, or why nothing of it is stored.

    Raises
    ------
    StorageUnavailable
        the database did not take them now; trying again is safe.
    """
    refused: dict[int, PayloadError] = {}
    todo: dict[Place, Task] = {}
    for index, one in enumerate(parsed):
        refusals, now = Refusals(one.found, go_on=False), one.payload.received_at
        try:
            own = _checked(refusals, one.batches, one.payload, database, config, now=now)
        except PayloadError as error:
            refused[index] = error
        else:
            todo |= {(index, number): task for number, task in own.items()}
    receipts = _stored_together(parsed, refused, _in_order(todo), database)
    return [
        refused.get(index) or [receipts[index, number] for number in one.batches]
        for index, one in enumerate(parsed)
    ]


def _parsed(
    refusals: Refusals, payload: Payload, config: Config, now: datetime | None = None
) -> dict[int, Batch]:
    """The batches of the good documents, by number."""
    source = sources.by_name(payload.source) if payload.source else None
    batches = {}
    for number, document in enumerate(refusals.found):
        with refusals.of(number):
            batches[number] = _apart(
                number, _parse_one(document, payload, source, _context(document, payload, config, now))
            )
    if not payload.partial and not any(batch.is_log for batch in batches.values()):
        # Behind the sources, which name the field where it is one that they know.
        refuse_rounded(payload.body)
    return batches


def _parse_one(document: Document, payload: Payload, source: Source | None, context: Context) -> Batch:
    if document.error is not None:
        raise document.error
    if source is None:
        source = sources.detect(document.value)
    elif payload.part is None:
        sources.check(source, document.value)
    batch = source.parse(document.value, context)
    if document.text is not None:
        refuse_rounded(document.text)
    _check_bad_lines(batch)
    return check_host(payload.token, batch)


def _context(document: Document, payload: Payload, config: Config, now: datetime | None) -> Context:
    # What names no client needs no key, which would be made for it.
    lookups = _lookups(config) if isinstance(document.value, Log) else Lookups()
    event_ids = EventIds(lookups.event_key, payload.equal_before)
    return Context(
        received_at=payload.received_at,
        host=payload.host or own_host(payload.token),
        time=payload.time,
        file_time=payload.file_time,
        sender=payload.sender,
        origin=payload.origin,
        earliest=OLDEST_EVENT,
        latest=(now or payload.received_at) + config.future,
        lookups=lookups,
        event_ids=payload.part.event_ids if payload.part else event_ids,
        keep_secrets=config.keep_secrets,
    )


def _lookups(config: Config) -> Lookups:
    try:
        return references(config)
    except ClientKeyError as error:
        raise NoClientKey(error.message) from None


def _check_bad_lines(batch: Batch) -> None:
    """Refuse a log with more bad lines than are kept."""
    whole = [line for line in batch.bad_lines if not line.cut]
    if len(whole) > BAD_LINES:
        raise UnstorablePayload(
            bad_lines_told(whole),
            "Send a log of one kind, as it was written.",
            line=whole[0].number,
        )


def _apart(number: int, batch: Batch) -> Batch:
    """Give documents of one body that tell no time each a microsecond of their own, in order."""
    return batch if batch.time_known else replace(batch, time=batch.time + timedelta(microseconds=number))


def _checked(
    refusals: Refusals,
    batches: Mapping[int, Batch],
    payload: Payload,
    database: Database,
    config: Config,
    *,
    now: datetime,
) -> dict[int, Task]:
    """What is to be stored, by number: all whose time can be taken."""
    past = None if payload.backfill else config.past
    good = {}
    for number, batch in batches.items():
        with refusals.of(number):
            _check_replace(batch, payload)
            if batch.is_log:
                good[number] = _checked_log(batch, payload, database, config, now)
            else:
                check_time(database, batch, future=config.future, past=past, now=now)
                good[number] = batch
    samples = [batch for batch in good.values() if not batch.is_log]
    check_span(samples, max_days=FILE_DAYS if payload.backfill else config.max_days)
    sent = sent_with(payload, config)
    return tasks(good, key=payload.key, replace_rows=payload.replace, sent=sent, clock=payload.clock)


def _check_replace(batch: Batch, payload: Payload) -> None:
    if batch.has_events and payload.replace:
        raise BadParameter("Events are not replaced: each is stored once, and stays.", "Leave out `replace`.")


def _checked_log(batch: Batch, payload: Payload, database: Database, config: Config, now: datetime) -> Batch:
    """The log as it is stored. Each event was judged by itself, but for how long its table keeps it."""
    check_client_key(database, fingerprint(references(config)))
    batch = without_outdated(database, batch, now=now, whole=payload.part is None)
    return replace(batch, bad_lines=tuple(map(_kept, batch.bad_lines)))


def _kept(line: BadLine) -> BadLine:
    """The line as it may be kept. One that is whole has its end again, to be told from one that was cut."""
    return replace(
        line,
        text=redact(line.text if line.cut else line.text + b"\n"),
        reason=redact_text(line.reason),
    )


def _stored(
    refusals: Refusals,
    todo: dict[int, Task],
    database: Database,
    config: Config,
    allowance: Allowance | None,
) -> list[Receipt]:
    """Store them in one transaction, which begins anew without each that is refused."""
    patience = monotonic() + config.database_timeout.total_seconds() / 2
    while todo:
        try:
            return store(database, list(todo.values()), allowance=allowance)
        except RefusedTask as refusal:
            number = list(todo)[refusal.number]
            if allowance is not None and isinstance(refusal.error, BudgetSpent):
                host = todo[number].batch.host.identity
                note_refused(database, allowance, host, refusal.error)
            refusals.add(number, refusal.error)
            if monotonic() > patience:
                # Nearly every document is refused: the whole body is, rather than to try for ever.
                raise refusal.error from None
            del todo[number]
    return []


def _in_order(todo: Mapping[Place, Task]) -> dict[Place, Task]:
    """Those of a host by their times: a sample that is older than the one before it takes far longer."""
    return dict(sorted(todo.items(), key=lambda item: (item[1].batch.host.identity, item[1].batch.time)))


def _stored_together(
    parsed: Sequence[Parsed], refused: dict[int, PayloadError], todo: dict[Place, Task], database: Database
) -> dict[Place, Receipt]:
    """Store all in one transaction, which begins anew without each payload that is refused.

    That one goes in alone: what was in its way may be of one that is refused itself.
    """
    receipts: dict[Place, Receipt] = {}
    together = todo
    for _ in range(REFUSED_TOGETHER):
        if not together:
            break
        try:
            receipts = dict(zip(together, store(database, list(together.values())), strict=True))
            break
        except RefusedTask as refusal:
            index, number = list(together)[refusal.number]
            if all(place[0] == index for place in todo):
                Refusals(parsed[index].found, go_on=True).add(number, refusal.error)
                refused[index] = refusal.error
                return {}
            together = {place: task for place, task in together.items() if place[0] != index}
    for index in sorted({place[0] for place in todo.keys() - receipts.keys()}):
        own = {place: task for place, task in todo.items() if place[0] == index}
        receipts |= _stored_together(parsed, refused, own, database)
    return receipts

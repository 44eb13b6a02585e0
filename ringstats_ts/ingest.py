"""The one way in: payload -> documents -> source -> batches -> one transaction -> receipts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic

from ringstats_ts import sources
from ringstats_ts.config import Config
from ringstats_ts.decode import Document, documents, refuse_rounded, separate_documents
from ringstats_ts.errors import PartlyRefused, PayloadError, Refusal, RingstatsError
from ringstats_ts.identity import check_host, own_host
from ringstats_ts.model import Batch, Context, Payload, Receipt, Source
from ringstats_ts.storage.budget import Allowance
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.receipts import Task, tasks
from ringstats_ts.storage.store import RefusedTask, store
from ringstats_ts.storage.window import FILE_DAYS, check_span, check_time


def ingest(
    payload: Payload, database: Database, config: Config, *, now: datetime | None = None
) -> list[Receipt]:
    """Store every document of the payload, or none; with `partial`, those that are good.

    `now` is the present, where a payload that arrived before is sent in again. That is an
    operator's doing, as a backfill is: no budget bounds what they name that is new.

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
    found = _documents(payload, config)
    refusals = Refusals(found, go_on=payload.partial and len(found) > 1)
    try:
        batches = _parsed(refusals, payload)
        with database.deadline():
            todo = _checked(refusals, batches, payload, database, config, now=now or payload.received_at)
            bounded = not payload.backfill and now is None
        allowance = Allowance.of(payload.token, config) if bounded else None
        receipts = _stored(refusals, todo, database, config, allowance)
    except RingstatsError as error:
        error.documents = len(found)
        raise
    if refusals.errors:
        raise refusals.summed_up(receipts)
    return receipts


class Refusals:
    """What is wrong with documents of a body, by their number from 0.

    The first error is raised, unless the others are to be stored all the same.
    """

    def __init__(self, found: Sequence[Document], *, go_on: bool) -> None:
        self.found = found
        self.errors: dict[int, PayloadError] = {}
        self._go_on = go_on

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Add what is raised in the block."""
        try:
            yield
        except PayloadError as error:
            self.add(number, error)

    def add(self, number: int, error: PayloadError) -> None:
        """Say where in the body the document stood; then note the error, or raise it."""
        document = self.found[number]
        error.line = error.line or document.line
        if document.index is not None:
            error.pointer = f"/{document.index}{error.pointer or ''}"
        if not self._go_on:
            raise error
        self.errors[number] = error

    def summed_up(self, receipts: Sequence[Receipt]) -> PartlyRefused:
        """The answer for a body of whose other documents these are the receipts."""
        count, total = len(self.errors), len(self.found)
        return PartlyRefused(
            f"{count} of {total} documents were refused; the others are stored."
            if receipts
            else f"All {total} documents were refused.",
            receipts=receipts,
            refusals=[
                Refusal(number, self.found[number].text or b"", error)
                for number, error in sorted(self.errors.items())
            ],
        )


def parse(payload: Payload, config: Config) -> list[Batch]:
    """Decode the body and turn each of its documents into a batch. Touches no database."""
    found = _documents(payload, config)
    return list(_parsed(Refusals(found, go_on=False), payload).values())


def _documents(payload: Payload, config: Config) -> list[Document]:
    return (separate_documents if payload.partial else documents)(
        payload.body,
        max_documents=config.max_lines,
        max_depth=config.max_depth,
        max_values=config.max_values,
        max_key_bytes=config.max_key_bytes,
        max_string_bytes=config.max_string_bytes,
    )


def _parsed(refusals: Refusals, payload: Payload) -> dict[int, Batch]:
    """The batches of the good documents, by number."""
    source = sources.by_name(payload.source) if payload.source else None
    batches = {}
    for number, document in enumerate(refusals.found):
        with refusals.of(number):
            batches[number] = _apart(number, _parse_one(document, payload, source))
    if not payload.partial:
        # Behind the sources, which name the field where it is one that they know.
        refuse_rounded(payload.body)
    return batches


def _parse_one(document: Document, payload: Payload, source: Source | None) -> Batch:
    if document.error is not None:
        raise document.error
    context = Context(
        received_at=payload.received_at,
        host=payload.host or own_host(payload.token),
        time=payload.time,
        file_time=payload.file_time,
        sender=payload.sender,
    )
    batch = (source or sources.detect(document.value)).parse(document.value, context)
    if document.text is not None:
        refuse_rounded(document.text)
    return check_host(payload.token, batch)


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
            check_time(database, batch, future=config.future, past=past, now=now)
            good[number] = batch
    check_span(list(good.values()), max_days=FILE_DAYS if payload.backfill else config.max_days)
    return tasks(good, key=payload.key, replace_rows=payload.replace)


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
            refusals.add(number, refusal.error)
            if monotonic() > patience:
                # Nearly every document is refused: the whole body is, rather than to try for ever.
                raise refusal.error from None
            del todo[number]
    return []

"""What is in a body: documents, a log, or an array that is one document; and what is wrong with each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ringstats_ts import sources
from ringstats_ts.config import Config
from ringstats_ts.decode import Document, as_log, documents, separate_documents
from ringstats_ts.errors import PartlyRefused, PayloadError, PayloadTooLarge, Refusal
from ringstats_ts.model import JSON, Log, Payload, Receipt

LINE_VALUES = 5
"""What a line of a log counts for, of the values that a body may have."""


def documents_of(payload: Payload, config: Config) -> list[Document]:
    """The documents of a payload; one where it is a log, or an array that is one document.

    Raises
    ------
    PayloadError
        it cannot be read, or is too much.
    """
    if payload.part is not None:
        return [Document(Log(payload.body, payload.part.first_line, is_part=True))]
    log = as_log(payload.body)
    if sources.detect_log(log) is not None:
        if not payload.backfill:
            _check_length(log, config)
        return [Document(log)]
    found = (separate_documents if payload.partial else documents)(
        payload.body,
        max_documents=config.max_lines,
        max_depth=config.max_depth,
        max_values=config.max_values,
        max_key_bytes=config.max_key_bytes,
        max_string_bytes=config.max_string_bytes,
    )
    return _together(found)


def _together(found: list[Document]) -> list[Document]:
    """The elements of an array as one document, where they are the parts of one."""
    if found[0].index is None:
        return found
    elements = [document.value for document in found]
    # A bad one is no reason to store the others by themselves, as what they are not.
    objects = list(filter(_is_object, elements))
    if sources.detect_array(objects) is None:
        return found
    texts = [document.text for document in found if document.text is not None]
    text = b"[%b]" % b",".join(texts) if texts else None
    bad = (document for document in found if document.error or not _is_object(document.value))
    return [Document(elements, text=text, error=next(filter(None, map(_bad_element, bad)), None))]


def _is_object(element: JSON) -> bool:
    return isinstance(element, dict) and bool(element)


def _bad_element(document: Document) -> PayloadError | None:
    refusals = Refusals([document], go_on=True)
    with refusals.of(0):
        if document.error is not None:
            raise document.error
        sources.detect(document.value)
    return refusals.errors.get(0)


def _check_length(log: Log, config: Config) -> None:
    """Refuse a log of more rows than are stored in time: each has a line, or braces, of its own."""
    most = config.max_values // LINE_VALUES
    rows = max(log.text.count(b"\n"), log.text.count(b"{"))
    if rows > most:
        raise PayloadTooLarge(
            f"The log has more than {most:,} entries.",
            "Send it in parts, or store it as a file with `tsstats ingest`.",
        )


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
        self.found[number].locate(error)
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

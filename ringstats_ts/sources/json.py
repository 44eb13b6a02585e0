"""Any JSON that no other source knows, an object or several in an array.

Its numbers become samples, the rest attributes.
"""

from __future__ import annotations

from ringstats_ts.model import JSON, Batch, Context, Log
from ringstats_ts.sources.canonical import canonical, document_digest
from ringstats_ts.sources.flatten import INDEXED, in_order, take_elements, take_numbers
from ringstats_ts.sources.samples import (
    TABLES,
    document_batch,
    named_host,
    sample_rows,
)
from ringstats_ts.sources.sampling import STAMP, sample_time
from ringstats_ts.sources.secrets import screened

ELEMENTS = "elements"
"""What the attributes call the elements of an array."""

WHOLE = (
    f"The array has more than {INDEXED} elements and nothing that tells them apart: its numbers are kept in "
    "the attributes alone. Give each element an `id` of its own, or send an object with a key for each."
)
"""The warning for an array that made no samples."""

_HOST_KEYS = ("hostname", "host")


class JsonSource:
    """The source `json`."""

    name = "json"
    title = "Any other JSON object, or an array of them: its numbers, by their names"
    tables = TABLES
    example = """echo '{"queue": {"jobs": 3}}' | curl --data-binary @- 'localhost:8000?host=web-1'"""
    looks = "a JSON object of no known kind"

    def detect(self, document: JSON | Log) -> bool:
        """Whether it is an object with anything in it, or an array of such that are one document.

        So this source is to be asked last. An element that tells its own time or host is a
        document of its own, and so are those beside it.
        """
        if isinstance(document, list):
            return bool(document) and all(map(_is_part, document))
        return isinstance(document, dict) and bool(document)

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn an object, or an array, into a batch: see `ringstats_ts.model.Source`."""
        cleaned: JSON
        cleaned, encoded = (document, canonical(document)) if context.keep_secrets else screened(document)
        if isinstance(cleaned, list):
            return self._together(cleaned, context)
        return self._alone(cleaned, document_digest(encoded), context)

    def _alone(self, document: dict[str, JSON], digest: bytes, context: Context) -> Batch:
        sample = sample_time(document, context)
        stamp = {STAMP: document[STAMP]} if STAMP in document and sample.key is None else {}
        numbers, rest = take_numbers({key: value for key, value in document.items() if key != STAMP})
        names = (document[key] for key in _HOST_KEYS if isinstance(document.get(key), str))
        return document_batch(
            self.name,
            named_host(next(names, None), context),
            sample,
            sample_rows(self.name, numbers, {}),
            rest | stamp,
            digest=digest,
            context=context,
        )

    def _together(self, elements: list[JSON], context: Context) -> Batch:
        taken = take_elements(elements)
        numbers, rest = taken or ([], elements)
        host, warnings = named_host(None, context)
        return document_batch(
            self.name,
            (host, warnings if taken else (*warnings, WHOLE)),
            sample_time({}, context),
            sample_rows(self.name, numbers, {}),
            {ELEMENTS: rest} if rest else {},
            # Of elements with ids the order says nothing: in another one it is the same document.
            digest=document_digest(canonical(in_order(elements))),
            context=context,
        )


def _is_part(element: JSON) -> bool:
    """Whether an element of an array tells neither its time nor its host."""
    return (
        isinstance(element, dict)
        and bool(element)
        and STAMP not in element
        and not any(isinstance(element.get(key), str) for key in _HOST_KEYS)
    )


ANY_JSON = JsonSource()

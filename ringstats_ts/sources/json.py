"""Any JSON object that no other source knows: its numbers become samples, the rest attributes."""

from __future__ import annotations

from ringstats_ts.model import JSON, Batch, Context, Log
from ringstats_ts.sources.canonical import canonical, document_digest
from ringstats_ts.sources.flatten import take_numbers
from ringstats_ts.sources.samples import (
    TABLES,
    document_batch,
    named_host,
    sample_rows,
)
from ringstats_ts.sources.sampling import STAMP, sample_time
from ringstats_ts.sources.secrets import without_secrets

_HOST_KEYS = ("hostname", "host")


class JsonSource:
    """The source `json`."""

    name = "json"
    title = "Any other JSON object: its numbers, by their names"
    tables = TABLES
    example = """echo '{"queue": {"jobs": 3}}' | curl --data-binary @- 'localhost:8000?host=web-1'"""
    looks = "a JSON object of no known kind"

    def detect(self, document: JSON | Log) -> bool:
        """Whether it is an object with anything in it; so this source is to be asked last."""
        return isinstance(document, dict) and bool(document)

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn an object into a batch: see `ringstats_ts.model.Source`."""
        encoded = canonical(document)
        screened: dict[str, JSON] = without_secrets(document, encoded)
        sample = sample_time(screened, context)
        stamp = {STAMP: screened[STAMP]} if STAMP in screened and sample.key is None else {}
        numbers, rest = take_numbers({key: value for key, value in screened.items() if key != STAMP})
        names = (screened[key] for key in _HOST_KEYS if isinstance(screened.get(key), str))
        return document_batch(
            self.name,
            named_host(next(names, None), context),
            sample,
            sample_rows(self.name, numbers, {}),
            rest | stamp,
            digest=document_digest(encoded),
            context=context,
        )


ANY_JSON = JsonSource()

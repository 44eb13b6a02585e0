"""Logs of ringserver: transfer logs in text and in JSON Lines, and access logs.

The formats are `src/logging.c` of EarthScope/ringserver, 2012 to 4.5.
"""

from __future__ import annotations

from ringstats_ts.errors import UnstorablePayload
from ringstats_ts.model import JSON, Batch, Context, Log
from ringstats_ts.sources.logs import log_batch
from ringstats_ts.sources.ringserver.detect import is_log
from ringstats_ts.sources.ringserver.entries import is_entry
from ringstats_ts.sources.ringserver.log import Reader
from ringstats_ts.words import counted


class RingserverSource:
    """The source `ringserver`."""

    name = "ringserver"
    title = "Transfer and access logs of ringserver, in text and in JSON Lines"
    tables = ("ringserver_transfers", "ringserver_sessions", "ringserver_access")
    example = "wget -qO- --post-file txlog-20261121T0000-20261122T0000 'localhost:8000/?host=ring1'"
    looks = "a ringserver log"

    def detect(self, document: JSON | Log) -> bool:
        """Whether it is a log of ringserver, by its first lines; or an entry, taken out of one."""
        return is_log(document.text) if isinstance(document, Log) else is_entry(document)

    def parse(self, document: JSON | Log, context: Context) -> Batch:
        """Turn a log into a batch: see `ringstats_ts.model.Source`."""
        if not isinstance(document, Log):
            raise UnstorablePayload(
                "An entry of a ringserver log stands by itself, among others or in more than one line.",
                "Send the log as ringserver wrote it, one entry a line.",
            )
        reader = Reader(document, context)
        reader.read()
        return log_batch(
            self.name,
            document,
            context,
            list(reader.tables.events()),
            reader.bad_lines,
            drift=sorted(reader.drift),
            warnings=_mismatches(reader.tables.mismatches),
        )


def _mismatches(lines: list[int]) -> tuple[str, ...]:
    if not lines:
        return ()
    return (
        f"The total is not the sum of the streams in {counted(len(lines), 'transfer')}, the first in line"
        f" {lines[0]}. The view `ringserver_mismatches` shows them.",
    )


RINGSERVER = RingserverSource()

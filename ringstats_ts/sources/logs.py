"""What sources of logs share: the batch, whose log it is, and what is said where nothing can be stored."""

from __future__ import annotations

from collections.abc import Sequence

from ringstats_ts.errors import EmptyPayload, PayloadError, TruncatedPayload, UnstorablePayload
from ringstats_ts.model import BadLine, Batch, Context, Events, Host, Log
from ringstats_ts.sources.canonical import document_digest


def log_batch(
    source: str,
    log: Log,
    context: Context,
    events: Sequence[Events],
    bad_lines: Sequence[BadLine],
    *,
    drift: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Batch:
    """The batch of a log, or of a part of one.

    Raises
    ------
    PayloadError
        where no line of it can be stored; of a part that is no reason.
    """
    found = tuple(part for part in events if part.rows)
    if not found and not log.is_part:
        raise nothing_stored(bad_lines)
    host, host_warnings = _log_host(context)
    return Batch(
        source=source,
        host=host,
        time=max((max(part.times) for part in found), default=context.received_at),
        time_known=True,
        received_at=context.received_at,
        # Parts of one log may be equal.
        digest=document_digest(b"%d\n%b" % (log.first_line, log.text) if log.is_part else log.text),
        rows=(),
        drift=tuple(drift),
        warnings=(*host_warnings, *warnings),
        events=found,
        bad_lines=tuple(bad_lines),
        is_log=True,
    )


def _log_host(context: Context) -> tuple[Host, tuple[str, ...]]:
    """The host that the sender names, else the machine that the log came from, with a warning."""
    if context.host:
        return Host(f"host:{context.host}", context.host), ()
    origin = context.origin
    warning = (
        f"The log does not name its host; it is known as that of {origin}. "
        "Add `host=NAME` to the URL, or `--host NAME`."
    )
    return Host(f"origin:{origin}", origin), (warning,)


def nothing_stored(bad_lines: Sequence[BadLine]) -> PayloadError:
    """The error for a log of which no line can be stored."""
    if not bad_lines:
        return EmptyPayload("The log has blank lines only.", "Send a log with entries.")
    first = bad_lines[0]
    message = f"No line of the log can be stored. Line {first.number}: {first.reason}"
    if first.cut:
        return TruncatedPayload(message, "Send whole lines, with their line ends.", line=first.number)
    return UnstorablePayload(message, "Send the log as it was written.", line=first.number)

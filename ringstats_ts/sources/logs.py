"""What sources of logs share: whose log it is, and what is said where nothing of it can be stored."""

from __future__ import annotations

from collections.abc import Sequence

from ringstats_ts.errors import EmptyPayload, PayloadError, TruncatedPayload, UnstorablePayload
from ringstats_ts.model import BadLine, Context, Host


def log_host(context: Context) -> tuple[Host, tuple[str, ...]]:
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

"""Log lines: one JSON object each, without control characters, payloads, SQL or addresses of databases.

What goes well is a line each. What goes wrong is capped: a flood of refusals for one reason
must not fill the disk, so those above `LINES_A_SECOND` are counted and the count is logged.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from ringstats_ts.shapes import redact_text

logger = logging.getLogger("webapp")

LINES_A_SECOND = 20
"""Of one kind and in each worker process."""

Kind = tuple[str, str]


class Cap:
    """Counts the lines of each kind within a second. Kinds come from closed sets."""

    def __init__(self, lines: int = LINES_A_SECOND) -> None:
        self._lines = lines
        self._lock = threading.Lock()
        self._seconds: dict[Kind, tuple[float, int]] = {}

    def take(self, kind: Kind) -> bool:
        """Whether one more may be written."""
        with self._lock:
            since, count = self._seconds.get(kind, (monotonic(), 0))
            self._seconds[kind] = since, count + 1
            return count < self._lines

    def over(self, *, all_of_them: bool = False) -> list[tuple[Kind, int]]:
        """The kinds whose second is over, with the number of lines that were left out."""
        with self._lock:
            before = monotonic() - 1.0
            ended = [kind for kind, (since, _) in self._seconds.items() if since < before or all_of_them]
            counts = [(kind, self._seconds.pop(kind)[1] - self._lines) for kind in ended]
        return [(kind, count) for kind, count in counts if count > 0]


_cap = Cap()

_QUOTING = "Invalid request from ip="
"""How gunicorn begins a line that goes on with the piece of a request that it did not understand."""


class _Capped(logging.Filter):
    """Caps what others log, by its level: its text may be different each time."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _cap.take((record.name, record.levelname.lower()))


class _Lines(logging.Formatter):
    """Puts what the library and gunicorn log into the same form."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == logger.name:
            return record.getMessage()
        detail = record.getMessage()
        if detail.startswith(_QUOTING):
            # Who sent it, not what: behind a broken head that may be a token or a body.
            detail = detail.partition(": ")[0]
        fields: dict[str, Any] = {"detail": detail}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            # The template alone: gunicorn puts the query into it.
            fields = {"detail": str(record.msg), "error": type(error).__name__, "where": where(error)}
        return _line(record.levelno, record.name, fields)


def start() -> None:
    """Send the lines of this process to standard error, gunicorn's own too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for root in (logger, logging.getLogger("ringstats_ts"), logging.getLogger("gunicorn.error")):
        root.handlers = [handler]
        root.setLevel(logging.INFO)
        root.propagate = False
    # A client can make gunicorn log a line for each malformed request.
    for name in ("ringstats_ts", "gunicorn.error"):
        logging.getLogger(name).addFilter(_Capped())


def write(level: int, event: str, **fields: Any) -> None:
    """Write a line; fields that are None are left out. Capped where there is an error, or a status of one."""
    reason = fields.get("error") or (fields["status"] if fields.get("status", 0) >= 400 else None)
    if logger.isEnabledFor(level) and (reason is None or _cap.take((event, str(reason)))):
        logger.log(level, _line(level, event, fields))
    flush(all_of_them=False)


def flush(*, all_of_them: bool = True) -> None:
    """Say how many lines were left out, once their second is over, or at the end of the process."""
    for (event, reason), count in _cap.over(all_of_them=all_of_them):
        fields = {"of": event, "error": reason, "suppressed": count}
        logger.warning(_line(logging.WARNING, "suppressed", fields))


def _line(level: int, event: str, fields: Mapping[str, Any]) -> str:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": logging.getLevelName(level).lower(),
        "event": event,
    }
    line |= {name: _cleaned(value) for name, value in fields.items() if value is not None}
    # ASCII, so that what a terminal would obey is escaped; JSON itself leaves DEL alone.
    return json.dumps(line).replace("\x7f", "\\u007f")


def _cleaned(value: Any) -> Any:
    return redact_text(value) if isinstance(value, str) else value


def where(error: BaseException) -> list[str]:
    """The places an error came through, innermost last; its text may quote a payload and is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-8:]]

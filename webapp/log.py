"""Log lines: one JSON object each, without control characters, payloads, SQL or addresses of databases."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

logger = logging.getLogger("webapp")


class _Lines(logging.Formatter):
    """Puts what the library logs into the same form."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == logger.name:
            return record.getMessage()
        return _line(record.levelno, record.name, {"detail": record.getMessage()})


def start() -> None:
    """Send the lines to standard error, beside gunicorn's own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for root in (logger, logging.getLogger("ringstats_ts")):
        root.handlers = [handler]
        root.setLevel(logging.INFO)
        root.propagate = False


def write(level: int, event: str, **fields: Any) -> None:
    """Write a line; fields that are None are left out."""
    if logger.isEnabledFor(level):
        logger.log(level, _line(level, event, fields))


def _line(level: int, event: str, fields: Mapping[str, Any]) -> str:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": logging.getLevelName(level).lower(),
        "event": event,
    }
    line |= {name: value for name, value in fields.items() if value is not None}
    # ASCII, so that what a terminal would obey is escaped; JSON itself leaves DEL alone.
    return json.dumps(line).replace("\x7f", "\\u007f")


def where(error: BaseException) -> list[str]:
    """The places an error came through, innermost last; its text may quote a payload and is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-8:]]

"""Log lines: one JSON object each, without control characters, payloads, SQL or addresses of databases."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

logger = logging.getLogger("webapp")


def start() -> None:
    """Send the lines to standard error, beside gunicorn's own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def write(level: int, event: str, **fields: Any) -> None:
    """Write a line; fields that are None are left out."""
    if not logger.isEnabledFor(level):
        return
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": logging.getLevelName(level).lower(),
        "event": event,
    }
    line |= {name: value for name, value in fields.items() if value is not None}
    # ASCII, so that what a terminal would obey is escaped; JSON itself leaves DEL alone.
    logger.log(level, json.dumps(line).replace("\x7f", "\\u007f"))


def where(error: BaseException) -> list[str]:
    """The places an error came through, innermost last; its text may quote a payload and is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-8:]]

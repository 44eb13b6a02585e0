"""The canary: a marker that is posted, posted again, and looked for in the database.

What counters cannot see, it sees: a document that was acknowledged and is not there, or is
there twice. The idea is Loki's canary. It posts like any host and reads like any reader.
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from ringstats_ts.errors import ConfigError, RingstatsError, StorageUnavailable
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.markers import markers

HOST = "tsstats-canary"
OUTCOMES = ("ok", "missing", "duplicate", "refused", "unreachable")

DOCUMENT = (
    b'{"Version": "tsstats-canary", "BackendState": "Running", "Peer": {},'
    b' "Self": {"HostName": "tsstats-canary", "Online": true}}'
)
"""Always the same, so that it leaves one row a round: no peers, no nodes, no changes."""

POST_SECONDS = 30.0
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found. `post_seconds` until the answer, `read_seconds` until it could be read."""

    outcome: str
    detail: str | None = None
    time: datetime | None = None
    post_seconds: float | None = None
    read_seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "detail": self.detail,
            "time": None if self.time is None else self.time.isoformat().replace("+00:00", "Z"),
            "post_seconds": self.post_seconds,
            "read_seconds": self.read_seconds,
        }


class _Ended(Exception):
    """The round is over."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.found = Round(outcome, detail)


@dataclass(frozen=True, slots=True)
class Canary:
    """Where it posts, as whom, and how long a marker may take to be seen [seconds]."""

    url: str
    host: str = HOST
    token: str | None = None
    wait: float = 10.0

    def __post_init__(self) -> None:
        _parts(self.url)

    def round(self, database: Database) -> Round:
        """Post a marker, post it again, and look for it. Nothing of what can go wrong is raised."""
        try:
            return self._round(database)
        except _Ended as end:
            return end.found

    def _round(self, database: Database) -> Round:
        key = str(uuid.uuid4())
        began = time.monotonic()
        first = self._post(key)
        posted = time.monotonic() - began
        at = datetime.fromisoformat(first["time"])
        if first["duplicate"]:
            raise _Ended("missing", "A new marker was taken for a duplicate, and not stored.")
        again = self._post(key)
        if not again["duplicate"] or again["id"] != first["id"]:
            raise _Ended("duplicate", f"The same key was stored again, as {again['id']} after {first['id']}.")
        self._look(database, at)
        return Round("ok", None, at, round(posted, 4), round(time.monotonic() - began, 4))

    def _post(self, key: str) -> Mapping[str, Any]:
        parts = _parts(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Idempotency-Key": key, "User-Agent": "tsstats-canary"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            with closing(kind(parts.hostname or "", parts.port, timeout=POST_SECONDS)) as connection:
                path = f"{parts.path.rstrip('/')}/v1/ingest/tailscale?host={quote(self.host)}"
                connection.request("POST", path, DOCUMENT, headers)
                response = connection.getresponse()
                return _answer(response.status, response.read(65536))
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise _Ended("unreachable", f"{type(error).__name__}: {error}") from None

    def _look(self, database: Database, at: datetime) -> None:
        """See that the marker is there once; a replica may show it later."""
        until = time.monotonic() + self.wait
        while True:
            try:
                found = markers(database, self.host, at)
            except StorageUnavailable as error:
                raise _Ended("unreachable", str(error)) from None
            except RingstatsError as error:
                raise _Ended("refused", str(error)) from None
            if len(found) > 1:
                raise _Ended("duplicate", f"The marker of {at.isoformat()} is stored {len(found)} times.")
            if found == [at]:
                return
            if time.monotonic() > until:
                raise _Ended("missing", f"The marker of {at.isoformat()} was acknowledged and is not there.")
            time.sleep(LOOK_SECONDS)


def _parts(url: str) -> SplitResult:
    """Where to post; without a scheme it is HTTP, as for curl."""
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        usable = parts.scheme in ("http", "https") and parts.hostname and not parts.query and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"{url!r} cannot be posted to.", "Write it like http://127.0.0.1:8000 or https://host/."
        )
    return parts


def _answer(status: int, content: bytes) -> Mapping[str, Any]:
    """The receipt in an answer; anything else ends the round."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _Ended("unreachable", f"HTTP status {status}, without an answer of tsstats.")
    if status == http.client.OK and {"id", "time", "duplicate"} <= answer.keys():
        return answer
    later = status in (408, 429) or status >= 500
    raise _Ended("unreachable" if later else "refused", f"HTTP status {status}: {answer.get('detail', '')}")

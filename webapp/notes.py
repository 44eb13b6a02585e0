"""What each thread of a worker is at, noted where the death of its process leaves it.

Before a body is read for its meaning, its size, source and sender are written to a small file of the
thread, and the body behind them where it is small enough to be kept as a reject, else its digest. The
file is blanked when the document is done. What is left in it when the worker was killed is for the
master (`webapp.killed`), which names the bodies that no worker reads again for an hour.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from ringstats_ts.model import Payload, Token
from ringstats_ts.storage.rejects import KEPT_BYTES
from webapp import multiprocess

IDLE, WAITING, READING = b"\0", b"w", b"r"
"""A document waits for its turn or the database; or it is decoded, parsed, cleaned."""

REFUSED_SECONDS = 3600.0

SHRUNK_BYTES = 64 * 1024
"""A file that has become larger is cut when its document is done: there is one for each thread, in memory."""

_HEAD = struct.Struct("<cxxxIdd")
_SIZES = struct.Struct("<II")


def directory(name: str) -> Path | None:
    """One of the directories that the processes of one gunicorn share; None outside of it."""
    shared = os.environ.get(multiprocess.VARIABLE)
    return Path(shared, name) if shared else None


def begin() -> None:
    """Make the directories, in the master."""
    for name in ("notes", "killed", "refused"):
        if (made := directory(name)) is not None:
            made.mkdir(mode=0o700)


class Notes:
    """Those of one process."""

    def __init__(self) -> None:
        self._threads = threading.local()
        self._refused = directory("refused")
        self._changed = 0
        self._until: dict[str, float] = {}

    def note(self) -> Note:
        """The note of this thread."""
        note: Note | None = getattr(self._threads, "note", None)
        if note is None:
            note = self._threads.note = Note()
        return note

    def refused(self, raw: bytes | bytearray) -> bool:
        """Whether that body, as it was sent, killed a worker within the last hour."""
        if self._refused is None:
            return False
        with suppress(OSError):
            changed = self._refused.stat().st_mtime_ns
            if changed != self._changed:
                found = {file.name: file.stat().st_mtime for file in self._refused.iterdir()}
                self._until = {name: since + REFUSED_SECONDS for name, since in found.items()}
                self._changed = changed
        # Hardly ever is there one to compare with: a digest would be the most of what a note costs.
        return bool(self._until) and time.time() < self._until.get(digest_of(raw), 0.0)


class Note:
    """That of one thread. Where it cannot be written, as on a full disk, there is none."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._cpu = 0.0
        self._size = 0
        with suppress(OSError):
            if (notes := directory("notes")) is not None:
                path = notes / f"{os.getpid()}-{threading.get_native_id()}"
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Note:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None and self._size:
            with suppress(OSError):
                os.pwrite(self._file, IDLE, 0)
                if self._size > SHRUNK_BYTES:
                    os.ftruncate(self._file, _HEAD.size)
        self._size = 0

    def begin(self, payload: Payload, raw: bytes | bytearray) -> None:
        """Note a body as it was sent, which waits."""
        if self._file is None:
            return
        self._cpu = time.thread_time()
        told = orjson.dumps(_told(payload, raw))
        kept = raw if len(raw) <= KEPT_BYTES else b""
        parts = (self._head(WAITING), _SIZES.pack(len(told), len(kept)), told, kept)
        self._size = sum(map(len, parts))
        with suppress(OSError):
            if os.pwritev(self._file, parts, 0) < self._size:
                os.pwrite(self._file, _SIZES.pack(len(told), 0), _HEAD.size)

    def reads(self) -> None:
        """It is read from now on."""
        self._mark(READING)

    def waits(self) -> None:
        """It waits again."""
        self._mark(WAITING)

    def _mark(self, phase: bytes) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, self._head(phase), 0)

    def _head(self, phase: bytes) -> bytes:
        return _HEAD.pack(phase, threading.get_native_id(), time.monotonic(), self._cpu)


@dataclass(frozen=True, slots=True)
class Left:
    """A note whose thread is gone, or stuck. `since`: of its phase; `cpu`: of its thread when it began."""

    path: Path
    phase: bytes
    thread: int
    since: float
    cpu: float
    told: dict[str, Any]
    body: bytes | None

    @property
    def digest(self) -> str | None:
        """By what the body is known again; None where there was no room to note it."""
        digest: str | None = self.told["digest"]
        return digest if digest or self.body is None else digest_of(self.body)

    @property
    def size(self) -> int:
        return int(self.told["size"])

    def payload(self) -> Payload:
        """What was sent, as far as it was noted."""
        told, token = self.told, self.told["token"]
        return Payload(
            body=self.body or b"",
            received_at=datetime.fromisoformat(told["received_at"]),
            source=told["source"],
            sender=told["sender"],
            origin=told["origin"],
            token=Token(**token | {"scopes": frozenset(token["scopes"])}) if token else None,
        )


def left(path: Path, *, body: bool = False) -> Left | None:
    """Read a note of another thread; None where that is at nothing.

    Raises
    ------
    OSError, ValueError
        it is gone, or was being written.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if head[:1] in (b"", IDLE):
            return None
        try:
            phase, thread, since, cpu = _HEAD.unpack(head)
            told_size, kept_size = _SIZES.unpack(file.read(_SIZES.size))
        except struct.error:
            raise ValueError("the note is cut off") from None
        told = orjson.loads(file.read(told_size))
        kept = file.read(kept_size) if body and kept_size else None
    return Left(path, phase, thread, since, cpu, told, kept)


def digest_of(raw: bytes | bytearray) -> str:
    """By what a body is known again."""
    return sha256(raw).hexdigest()


def _told(payload: Payload, raw: bytes | bytearray) -> dict[str, Any]:
    token = payload.token
    return {
        # Of a body that stands beside it, who reads this makes it.
        "digest": digest_of(raw) if len(raw) > KEPT_BYTES else None,
        "size": len(raw),
        "received_at": payload.received_at.isoformat(),
        "source": payload.source,
        "sender": payload.sender,
        "origin": payload.origin,
        "token": token
        and {
            "token_id": token.token_id,
            "key_id": token.key_id,
            "hosts": token.hosts,
            "scopes": sorted(token.scopes),
        },
    }

"""The files of metrics, with their space reserved: a full file system must not end a worker.

`prometheus_client` maps sparse files into memory. Where there is no room for a page that is first
written to, the kernel ends the process by SIGBUS, a document's answer with it, and the next worker
in the same way. Reserved beforehand, want of space is an error that can be handled: the counts of
this process then stay in its own memory, and `/metrics` is without them.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import mmap_dict, values
from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger("webapp")

FIRST_BYTES: int = mmap_dict._INITIAL_MMAP_SIZE


def install() -> None:
    """Let the library use these files from now on, where the system can reserve space."""
    if hasattr(os, "memfd_create"):
        values.MmapedDict = ReservedDict  # type: ignore[attr-defined]


def counts(path: Path) -> Any:
    """Those of a file, to be added to."""
    return (ReservedDict if hasattr(os, "memfd_create") else MmapedDict)(str(path))


class ReservedDict(MmapedDict):
    """A file whose pages are all there; without room for it, memory of this process alone."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self.shared = True
        path = Path(filename)
        try:
            _reserve(path)
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            self._withdraw(error)
        else:
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        # The most that the library adds to the bytes of the key.
        needed = self._used + len(key.encode()) + 32
        while self.shared and needed > self._capacity:
            try:
                os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
            except OSError as error:
                before = self._m[: self._used]
                self._f.close()
                self._withdraw(error, before)
                break
            self._f.close()
            super().__init__(self._fname)  # type: ignore[no-untyped-call]
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _withdraw(self, error: OSError, before: bytes = b"") -> None:
        """Go on in memory that nobody else sees, from what there was."""
        self.shared = False
        logger.warning("The metrics of this process are not shown: %s.", error.strerror)
        memory = os.memfd_create("metrics")
        os.write(memory, before)
        super().__init__(f"/proc/self/fd/{memory}")  # type: ignore[no-untyped-call]
        os.close(memory)


def _reserve(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, max(os.fstat(descriptor).st_size, FIRST_BYTES))
    finally:
        os.close(descriptor)

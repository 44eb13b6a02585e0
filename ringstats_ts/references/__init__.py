"""The operator's files that sources look things up in, kept for the process.

`places`, `networks` and `keys` each read one kind of file; here they become the `Lookups` of a
configuration, and files that were replaced are read again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar

from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError
from ringstats_ts.lookups import Lookups
from ringstats_ts.references.keys import client_keys, has_key
from ringstats_ts.references.networks import read_networks
from ringstats_ts.references.places import read_places

__all__ = ["fingerprint", "has_key", "references"]

logger = logging.getLogger(__name__)

CHECKED_EVERY = 5.0
"""How long files are believed to be unchanged [seconds]."""

T = TypeVar("T")


def references(config: Config) -> Lookups:
    """What the files that the settings name tell, as new as the last few seconds.

    Made once for the settings, which makes the key of client pseudonyms where there is none yet.
    A file of places or networks that was replaced is read again; if the new one cannot be used,
    the log says so once, and the old one stays in use. Keys are read once.

    Raises
    ------
    ConfigError
        where a file cannot be used when it is first needed.
    """
    key = (config.data_dir, config.clients, config.client_key, config.places, config.networks)
    kept = _kept.get(key)
    if kept is None:
        with _making:
            kept = _kept.get(key) or _kept.setdefault(key, _References(config))
    return kept.lookups()


def fingerprint(lookups: Lookups) -> str:
    """16 hexadecimal digits that tell one key of event ids from another, and not what it is."""
    return blake2b(digest_size=8, key=lookups.event_key, person=b"fingerprint").hexdigest()


class _Watched(Generic[T]):
    """What a file says, read again when it was replaced."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path = path
        self._read = read
        self._told = ""
        try:
            self._seen = _stamp(path)
            self.value = read(path)
        except OSError as error:
            raise _unreadable(path, error) from None

    def renew(self) -> None:
        """Read the file if it is another one than before; keep what it said if that fails."""
        try:
            # Before it is read: one that changes meanwhile is read once more.
            seen = _stamp(self._path)
            if seen == self._seen:
                return
            self.value = self._read(self._path)
            self._seen, self._told = seen, ""
        except ConfigError as error:
            self._seen = seen
            self._tell(error)
        except OSError as error:
            # Not taken for seen: this may pass without a change of the file.
            self._tell(_unreadable(self._path, error))

    def _tell(self, error: ConfigError) -> None:
        if self._told != str(error):
            logger.warning("%s What it said before stays in use.", error)
        self._told = str(error)


class _References:
    """The look-ups of one configuration."""

    def __init__(self, config: Config) -> None:
        self._places = _Watched(config.places, read_places) if config.places else None
        self._networks = _Watched(config.networks, read_networks) if config.networks else None
        # Last: a file that cannot be used is no reason to make a key.
        self._lookups = self._with_files(Lookups(client_keys(config), raw=config.clients == "raw"))
        self._due = monotonic() + CHECKED_EVERY
        self._renewing = Lock()

    def lookups(self) -> Lookups:
        # One thread looks; the others go on with what there is, however long it takes to read.
        if monotonic() >= self._due and self._renewing.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._renewing.release()
        return self._lookups

    def _renew(self) -> None:
        for watched in (self._places, self._networks):
            if watched is not None:
                watched.renew()
        self._lookups = self._with_files(self._lookups)
        self._due = monotonic() + CHECKED_EVERY

    def _with_files(self, lookups: Lookups) -> Lookups:
        return replace(
            lookups,
            find_place=None if self._places is None else self._places.value,
            networks=None if self._networks is None else self._networks.value,
        )


_kept: dict[tuple[object, ...], _References] = {}
_making = Lock()


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be read: {error.strerror}.")

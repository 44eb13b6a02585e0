"""The keys of client pseudonyms and event ids: from the settings, or a file that is made once."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from ringstats_ts.config import Config
from ringstats_ts.errors import ClientKeyError

FILE_NAME = "client-key"

_SHORTEST = 16
# blake2b takes no longer key.
_LONGEST = 64
# Two: the one of clients may be exchanged, and is gone then, while that of events stays.
_NEW = """\
# Hashes of clients are made with this key. With another one they begin anew.
{}
# Ids of events are made with this key. Never change it: logs would be counted twice.
{}
"""


def client_keys(config: Config) -> tuple[bytes, ...]:
    """The keys, of the settings or of `client-key` in the data directory, which is made if need be.

    Processes that make it at the same time all get the same.

    Raises
    ------
    ClientKeyError
        where a key is too short, or the file cannot be made or read.
    """
    if config.client_key is not None:
        return read_keys(config.client_key, "TSSTATS_CLIENT_KEY")
    path = config.data_dir / FILE_NAME
    try:
        if not path.exists():
            make_once(path, _NEW.format(secrets.token_hex(32), secrets.token_hex(32)))
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ClientKeyError(
            f"The key of client pseudonyms cannot be kept in {path}: {error.strerror}.",
            "Set TSSTATS_CLIENT_KEY or TSSTATS_CLIENT_KEY_FILE.",
        ) from None
    return read_keys(text, str(path))


def has_key(config: Config) -> bool:
    """Whether there is a key; `client_keys` makes one."""
    return config.client_key is not None or (config.data_dir / FILE_NAME).exists()


def read_keys(text: str, where: str) -> tuple[bytes, ...]:
    """Read keys, one a line. Blank lines, and those that begin with `#`, are passed over.

    Raises
    ------
    ClientKeyError
        naming `where` they are from, never what they are.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < _SHORTEST:
            raise ClientKeyError(
                f"The key in line {number} of {where} has fewer than {_SHORTEST} characters.",
                "`openssl rand -hex 32` makes one.",
            )
        keys.append(_fitted(key.encode(errors="surrogateescape")))
    if not keys:
        raise ClientKeyError(f"There is no key in {where}.", "`openssl rand -hex 32` makes one.")
    return tuple(keys)


def _fitted(key: bytes) -> bytes:
    # As HMAC does: all of a longer one counts.
    return key if len(key) <= _LONGEST else blake2b(key).digest()


def make_once(path: Path, text: str) -> None:
    """Write a file for this user alone, where there is none. It is on the disk afterwards.

    Processes that do it at the same time leave one text, of one of them.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # Whole or not at all, and never over one that another process made first.
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    # Before the first hash or role is stored: after a power cut its key would be gone.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

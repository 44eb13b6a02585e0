"""Who runs on a data directory and where it answers: the lock, the socket, the instance file.

`<data_dir>/lock` is flocked by the supervisor; the node process inherits the descriptor, so that
the lock is held as long as either lives. `<data_dir>/users` is flocked, shared, by every one-shot
user, so that the one who started the database does not stop it under the others.
`<data_dir>/instance.json` says where the instance answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ringstats_ts.errors import EmbeddedDatabaseError

SOCKET_NAME = ".s.PGSQL.5432"
# sun_path holds 108 bytes on Linux, 104 on macOS.
LONGEST_SOCKET_PATH = 100
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
PROBE_SECONDS = 10.0
LOCK_RETRY_SECONDS = 1.0


class DataDirectoryInUse(EmbeddedDatabaseError):
    """Another process runs the embedded database on this data directory."""

    hint = "Stop it first, or use it: every verb that finds it running does."


def running_uri(data_dir: Path) -> str | None:
    """URI of the instance that runs on this data directory; None if none does, or none is ready yet."""
    record = _running(data_dir)
    return str(record["uri"]) if record else None


def running_pid(data_dir: Path) -> int | None:
    """The process that runs the instance on this data directory, as `running_uri` finds it."""
    record = _running(data_dir)
    return int(record["pid"]) if record else None


def exists(data_dir: Path) -> bool:
    """Whether there is a database in this data directory."""
    return os.path.exists(data_dir / "pgdata")  # noqa: PTH110 - Path.exists raises where it may not look


def take_lock(data_dir: Path) -> int:
    """The descriptor that holds the lock. Raises DataDirectoryInUse."""
    descriptor = _open(data_dir / "lock")
    deadline = time.monotonic() + LOCK_RETRY_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            # `running_uri` of another process holds it for a moment.
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise DataDirectoryInUse(
                    f"The embedded database in {data_dir} is in use by another process."
                ) from None
            time.sleep(0.05)


def wait_until_unlocked(data_dir: Path, seconds: float) -> bool:
    """Whether the data directory became free within that time."""
    deadline = time.monotonic() + seconds
    while _is_locked(data_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def shared_use(data_dir: Path) -> Iterator[int]:
    """While this is open, whoever started the database for one verb does not stop it."""
    descriptor = _open(data_dir / "users")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def wait_for_other_users(descriptor: int) -> None:
    """Turn the shared hold into the only one."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def publish(data_dir: Path, uri: str, node_pid: int) -> None:
    """Say where the instance answers; readers see the old record or the new one."""
    record = {"uri": uri, "pid": os.getpid(), "node_pid": node_pid}
    fresh = _instance_file(data_dir).with_suffix(".new")
    fresh.write_text(json.dumps(record) + "\n")
    fresh.replace(_instance_file(data_dir))


def withdraw(data_dir: Path) -> None:
    """Say that no instance answers."""
    _instance_file(data_dir).unlink(missing_ok=True)


def socket_directory(data_dir: Path) -> Path:
    """A directory of our own with a path short enough for a socket, however long the data directory's is."""
    name = f"tsstats-{hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]}"
    candidates = [Path(f"/tmp/tsstats-{os.getuid()}")]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.insert(0, Path(runtime))
    for parent in candidates:
        directory = parent / name
        if len(os.fsencode(directory / SOCKET_NAME)) < LONGEST_SOCKET_PATH and _make_private(
            parent, directory
        ):
            return directory
    raise EmbeddedDatabaseError(
        f"There is no directory for the database's socket: tried {', '.join(map(str, candidates))}.",
        "Set XDG_RUNTIME_DIR to a directory that only you can write to, with a short path.",
    )


def uri_of(directory: Path) -> str:
    """The libpq URI of the server whose socket is in that directory."""
    return f"postgresql://postgres@/postgres?host={quote(str(directory), safe='/')}&port=5432"


def answers(directory: Path) -> bool:
    """Whether the server at the socket answers, also while a statement runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PROBE_SECONDS)
        try:
            connection.connect(str(directory / SOCKET_NAME))
            connection.sendall(SSL_REQUEST)
            return connection.recv(1) == b"N"
        except OSError:
            return False


def _open(path: Path, create: int = os.O_CREAT) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EmbeddedDatabaseError(
            f"The data directory {path.parent} cannot be used: {error.strerror}.",
            "Run as the user that owns it, or name another with --data or TSSTATS_DATA.",
        ) from error


def _instance_file(data_dir: Path) -> Path:
    return data_dir / "instance.json"


def _running(data_dir: Path) -> dict[str, Any] | None:
    if not _is_locked(data_dir):
        return None
    try:
        record = json.loads(_instance_file(data_dir).read_text())
        return {name: record[name] for name in ("uri", "pid")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_locked(data_dir: Path) -> bool:
    try:
        descriptor = _open(data_dir / "lock", 0)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _make_private(parent: Path, directory: Path) -> bool:
    try:
        for path in (parent, directory):
            path.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(path):
                return False
    except OSError:
        return False
    return True


def _is_ours(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077

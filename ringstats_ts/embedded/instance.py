"""Who runs on a data directory and where it answers: the lock, the socket, the instance file.

The data directory itself is flocked by its owner, and so is `pgdata` in it: a file for that could be
removed, and a second owner would lock another one. The node process inherits the descriptors, so that the
lock is held as long as either lives. `users` is flocked, shared, by every one-shot user, so that the one
who started the database does not stop it under the others. `instance.json` says who the owner is, what it
is doing, and where the database answers.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from ringstats_ts.errors import EmbeddedDatabaseError

SOCKET_NAME = ".s.PGSQL.5432"
# sun_path holds 108 bytes on Linux, 104 on macOS.
LONGEST_SOCKET_PATH = 100
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
PROBE_SECONDS = 10.0
LOCK_RETRY_SECONDS = 1.0
INSTANCE_FILE = "instance.json"
DATABASE = "pgdata"

SETTING_UP = "is setting up the database"
RUNNING = "runs the database"
STOPPING = "is stopping the database"


class DataDirectoryInUse(EmbeddedDatabaseError):
    """Another process runs the embedded database on this data directory."""

    hint = "Stop it first, or use it: every verb that finds it running does."


@dataclass(frozen=True, slots=True)
class Instance:
    """What the owner of a data directory says of itself.

    `uri` is None as long as others have to wait; `listen` is where its web service answers, if it has one.
    """

    pid: int
    command: str
    doing: str
    uri: str | None = None
    node_pid: int | None = None
    listen: str | None = None

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid})"


class Hold:
    """The lock on a data directory and on the database in it.

    Raises `DataDirectoryInUse` where another process has it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._paths = [data_dir]
        self.descriptors = [_lock(data_dir, data_dir)]

    @property
    def directory(self) -> int:
        """The data directory, wherever it is moved to."""
        return self.descriptors[0]

    def add_database(self) -> None:
        """Lock `pgdata` too, once it is there: as a link, it may lie in two data directories."""
        if len(self.descriptors) == 1:
            database = self._paths[0] / DATABASE
            self.descriptors.append(_lock(database, self._paths[0]))
            self._paths.append(database)

    def is_in_place(self) -> bool:
        """Whether what is locked is still what lies there."""
        return all(map(_is_at, self.descriptors, self._paths))

    def release(self) -> None:
        """Close the descriptors. Who has inherited them holds the lock on."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def running(data_dir: Path) -> Instance | None:
    """The instance that answers on this data directory; None if none does, or none is ready yet."""
    found = owner(data_dir)
    return found if found and found.uri else None


def running_uri(data_dir: Path) -> str | None:
    """URI of the instance that `running` finds."""
    found = running(data_dir)
    return found.uri if found else None


def owner(data_dir: Path) -> Instance | None:
    """The process that has the data directory, as far as it has said who it is."""
    return _record(data_dir) if is_in_use(data_dir) else None


def killed(data_dir: Path) -> Instance | None:
    """The process that had the data directory and is gone; what it started may be ending still."""
    found = _record(data_dir)
    return found if found and not _lives(found.pid) else None


def _record(data_dir: Path) -> Instance | None:
    try:
        return Instance(**json.loads(_trusted(data_dir)))
    except (OSError, ValueError, TypeError):
        return None


def exists(data_dir: Path) -> bool:
    """Whether there is a database in this data directory."""
    return os.path.exists(data_dir / DATABASE)  # noqa: PTH110 - Path.exists raises where it may not look


def is_in_use(data_dir: Path) -> bool:
    """Whether a process has this data directory."""
    try:
        descriptor = _open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def wait_until_unlocked(data_dir: Path, seconds: float) -> bool:
    """Whether the data directory became free within that time."""
    deadline = time.monotonic() + seconds
    while is_in_use(data_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def shared_use(data_dir: Path) -> Iterator[None]:
    """While this is open, whoever started the database for one verb does not stop it."""
    descriptor = _lock_users(data_dir, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def no_other_users(data_dir: Path) -> Iterator[None]:
    """Wait until nobody uses the database, and keep everybody out meanwhile."""
    descriptor = _lock_users(data_dir, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def publish(hold: Hold, instance: Instance) -> None:
    """Say who the owner is and where it answers; readers see the old record or the new one."""
    text = json.dumps(asdict(instance)) + "\n"
    if _read(hold) == text:
        return
    fresh = f"{INSTANCE_FILE}.new"
    with open_private(hold, fresh) as file:
        file.write(text.encode())
    os.replace(fresh, INSTANCE_FILE, src_dir_fd=hold.directory, dst_dir_fd=hold.directory)


def withdraw(hold: Hold) -> None:
    """Say that no instance answers."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(INSTANCE_FILE, dir_fd=hold.directory)


def open_private(hold: Hold, name: str) -> BinaryIO:
    """A file of the data directory, emptied, that only its owner may read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=hold.directory)
    # One that was there before keeps the mode it has.
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "wb")


def make_private(data_dir: Path, say: Callable[[str], None]) -> None:
    """Close a data directory to everybody else, or refuse it where that cannot be done.

    Who may write to it could put another database in its place, or answer for this one. A directory with
    other files in it, such as `/tmp`, is not ours to close.
    """
    status = data_dir.stat()
    if not status.st_mode & 0o077:
        return
    ours = not status.st_mode & stat.S_ISVTX and (_is_empty(data_dir) or _has_own_database(data_dir))
    if ours:
        with contextlib.suppress(PermissionError):
            data_dir.chmod(0o700)
            say(f"The data directory {data_dir} was open to other users; now only its owner may enter it.")
            return
    # A group alone may be how a container gets its volume.
    if status.st_mode & (0o002 if ours else 0o022):
        raise EmbeddedDatabaseError(
            f"Other users may write to the data directory {data_dir}.",
            "Name one of its own with --data or TSSTATS_DATA, or take their right: `chmod 700`.",
        )


def socket_directory(hold: Hold) -> Path:
    """A directory of our own with a path short enough for a socket, however long the data directory's is.

    It is named after the data directory itself, not after its path: two directories that are at one path, one
    after the other, have two.
    """
    status = os.fstat(hold.directory)
    digest = hashlib.sha256(f"{status.st_dev}:{status.st_ino}".encode()).hexdigest()[:16]
    name = f"tsstats-{digest}"
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


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EmbeddedDatabaseError(
            f"The data directory {path} cannot be used: {error.strerror}.",
            "Run as the user that owns it, or name another with --data or TSSTATS_DATA.",
        ) from error


def _lock(directory: Path, data_dir: Path) -> int:
    descriptor = _open(directory, os.O_RDONLY | os.O_DIRECTORY)
    deadline = time.monotonic() + LOCK_RETRY_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            # `running` of another process holds it for a moment.
            if time.monotonic() > deadline:
                os.close(descriptor)
                by = owner(data_dir) or "another process"
                raise DataDirectoryInUse(f"The embedded database in {data_dir} is in use by {by}.") from None
            time.sleep(0.05)


def _lock_users(data_dir: Path, how: int) -> int:
    """A descriptor of `users`, locked. Where the file was replaced meanwhile, the new one."""
    path = data_dir / "users"
    while True:
        descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        fcntl.flock(descriptor, how)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _read(hold: Hold) -> str | None:
    """The record as it stands there."""
    try:
        descriptor = os.open(INSTANCE_FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=hold.directory)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return None


def _trusted(data_dir: Path) -> str:
    """The record, where nobody else can have written it: its address is connected to."""
    descriptor = os.open(data_dir / INSTANCE_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        status = os.fstat(descriptor)
        # Root may use what another user runs in a directory of that user's.
        whose = {os.getuid(), data_dir.stat().st_uid if os.getuid() == 0 else 0}
        if status.st_uid not in whose or status.st_mode & 0o022:
            raise PermissionError("another user can have written the record")
        return file.read()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _is_empty(directory: Path) -> bool:
    return next(directory.iterdir(), None) is None


def _has_own_database(data_dir: Path) -> bool:
    return exists(data_dir) and (data_dir / DATABASE).stat().st_uid == os.getuid()


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

"""A PostgreSQL of a test's own, made of the machine's binaries: to be stopped, killed, frozen and filled.

The embedded database cannot be had in pieces, and a shared server must not be broken.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions

from tests.service import free_port

DEFAULTS = {
    "fsync": "on",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "30",
    "timezone": "UTC",
    "timescaledb.telemetry_level": "off",
}
START_SECONDS = 60
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def find_binaries() -> Path | None:
    """The directory of initdb and postgres: in PATH, or the newest where Debian puts them."""
    if (found := shutil.which("initdb")) and (path := Path(found).resolve().parent / "postgres").exists():
        return path.parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: float(path.parent.name), default=None)


def why_not() -> str | None:
    """Why no PostgreSQL of our own can run here; None where it can."""
    if find_binaries() is None:
        return "needs PostgreSQL's initdb, in PATH or below /usr/lib/postgresql"
    if os.geteuid() == 0 and _other_user() is None:
        return "PostgreSQL does not run as root, and there is neither a user postgres nor nobody"
    return None


def _other_user() -> pwd.struct_passwd | None:
    """Whom root starts it as."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class PostgresCluster:
    """One server on a loopback port of its own, the same over restarts; superuser postgres, trusted.

    Parameters
    ----------
    directory
        made where it is missing, and given to the server's user where we are root: that
        one must be able to get there, so not below pytest's tmp_path. See `directories`.
    conf
        settings, which win over DEFAULTS. Read at each start.
    initdb
        more arguments for initdb, such as `--waldir=...` (below a directory of `own`).
    """

    def __init__(
        self, directory: Path, conf: Mapping[str, str] | None = None, initdb: Sequence[str] = ()
    ) -> None:
        binaries = find_binaries()
        assert binaries is not None, why_not()
        self._binaries = binaries
        self.directory = directory
        self.conf = dict(conf or {})
        self.initdb = list(initdb)
        self.port = free_port()
        self.uri = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresCluster:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop("immediate")

    @property
    def pid(self) -> int:
        """The postmaster."""
        assert self.process is not None, "PostgreSQL does not run"
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self, *, wait: bool = True) -> None:
        """Start it, on the first call with initdb; return when it takes connections, or at once."""
        data = self.directory / "data"
        if not data.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            own(self.directory)
            options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
            self._run("initdb", *options, *self.initdb, "-D", str(data)).wait()
        self._launch()
        if wait:
            self.wait()

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Wait until it takes connections, starting it again where what a kill left is in the way."""
        end = time.monotonic() + seconds
        while True:
            try:
                return psycopg2.connect(self.uri, connect_timeout=2).close()
            except psycopg2.OperationalError as error:
                if time.monotonic() > end:
                    raise AssertionError(f"{error}\n{self.log}") from None
            time.sleep(0.05)
            if self.process is None or self.process.poll() is not None:
                self._launch()

    def stop(self, mode: str = "fast") -> None:
        """Stop it: smart, fast or immediate. Does nothing where it does not run."""
        self._end(STOP_SIGNALS[mode])

    def kill(self) -> None:
        """kill -9 of the postmaster; its backends notice and go."""
        self._end(signal.SIGKILL)

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def backends(self) -> list[int]:
        """The process ids of the clients' backends."""
        found = self.run(
            "SELECT pid FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return [pid for (pid,) in found]

    @contextlib.contextmanager
    def frozen(self, pid: int | None = None) -> Iterator[None]:
        """SIGSTOP a backend, or the postmaster, for the length of the block."""
        pid = pid or self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def run(self, sql: str, **connect: Any) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser, on a connection of its own, and give its rows."""
        with contextlib.closing(self.connect(**connect)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def connect(self, **connect: Any) -> psycopg2.extensions.connection:
        """A connection in autocommit. The caller closes it."""
        connection = psycopg2.connect(self.uri, connect_timeout=20, **connect)
        connection.autocommit = True
        return connection

    def has(self, extension: str) -> bool:
        """Whether an extension is installed beside the server; timescaledb must also be preloaded."""
        return bool(self.run(f"SELECT 1 FROM pg_available_extensions WHERE name = '{extension}'"))

    def _launch(self) -> None:
        settings = DEFAULTS | self.conf
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.process = self._run(
            "postgres", "-D", str(self.directory / "data"), "-p", str(self.port), *arguments
        )

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        user = _other_user() if os.geteuid() == 0 else None
        owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [self._binaries / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **owner,
            )

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            # In case a test froze it.
            process.send_signal(signal.SIGCONT)
            process.send_signal(how)
            process.wait(START_SECONDS)


def own(directory: Path) -> None:
    """Give a directory to whom the server runs as, such as one on a small file system for its WAL."""
    if os.geteuid() == 0 and (user := _other_user()) is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)


@contextlib.contextmanager
def directories() -> Iterator[Path]:
    """A directory for clusters, gone at the end. pytest's own let nobody but their owner in."""
    path = Path(tempfile.mkdtemp(prefix="tsstats-postgres-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)

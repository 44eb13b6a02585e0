"""Starts the database process, restarts it when it is lost or hangs, stops it cleanly."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ringstats_ts.embedded import install, instance
from ringstats_ts.embedded.instance import Instance
from ringstats_ts.errors import EmbeddedDatabaseError

START_SECONDS = 300.0
"""Recovery after a crash reads all WAL since the last checkpoint; on a slow disk that takes a while."""
STOP_SECONDS = 40.0
PROBE_INTERVAL_SECONDS = 5.0
FAILED_PROBES = 3
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 30.0
LONGEST_AFTER_START_SECONDS = 1.0
"""A database that starts is worth starting again soon; one that does not is not."""

HEALTHY_SECONDS = 60.0
OPEN_SECONDS = 330.0
LONG_WAIT_SECONDS = 5.0
LOG_BYTES = 2000

logger = logging.getLogger(__name__)


def _log_progress(message: str) -> None:
    logger.info("%s", message)


class EmbeddedDatabase:
    """The embedded TimescaleDB on one data directory, owned by this process.

    Parameters
    ----------
    data_dir
        Created if it is missing. Holds the database and the log of the database process, and is locked.
    command, listen
        What others are told who come second: the command that runs it, and where its web service answers.
    prepare
        Gets the URI before anybody else may use the database: what it needs before that, such as migrations.
    shared
        False keeps everybody else out for as long as it runs.
    sync
        False takes the protection against power cuts away: only for the test of that protection.
    on_progress
        Gets one line for each thing that takes a while or goes wrong, also from another thread.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        command: str = "tsstats",
        listen: str | None = None,
        prepare: Callable[[str], None] | None = None,
        shared: bool = True,
        sync: bool = True,
        on_progress: Callable[[str], None] = _log_progress,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._record = Instance(os.getpid(), command, instance.SETTING_UP, listen=listen)
        self._prepare = prepare
        self._shared = shared
        self._sync = sync
        self._on_progress = on_progress
        self._stopping = threading.Event()
        self._command: list[str] = []
        self._hold: instance.Hold | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._socket_directory = Path()
        self.versions: dict[str, str] = {}
        self.restarts = 0
        self.failure: EmbeddedDatabaseError | None = None

    @property
    def uri(self) -> str:
        """The libpq URI; it stays the same when the database process is restarted."""
        if self._hold is None:
            raise EmbeddedDatabaseError("The embedded database has not been started.")
        return instance.uri_of(self._socket_directory)

    @property
    def node_pid(self) -> int | None:
        """The database process, None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> str:
        """Install if needed, start, and wait until it answers. Returns the URI.

        Raises `DataDirectoryInUse` if another process runs on the data directory, and
        `EmbeddedDatabaseError` with the reason if the database cannot be had.
        """
        self.make_data_dir()
        self._hold = instance.Hold(self.data_dir)
        self._stopping.clear()
        self.failure = None
        try:
            self._say(doing=instance.SETTING_UP, uri=None, node_pid=None)
            node = install.find_node()
            modules = install.install(node, self._on_progress)
            self._socket_directory = instance.socket_directory(self._hold)
            self._command = self._node_command(node.node, modules)
            self._create()
            self._launch()
        except BaseException:
            self._release()
            raise
        os.register_at_fork(after_in_child=self._forget)
        self._thread = threading.Thread(target=self._supervise, name="embedded-database", daemon=True)
        self._thread.start()
        try:
            if self._prepare is not None:
                self._prepare(self.uri)
            self._say(doing=instance.RUNNING, uri=self.uri if self._shared else None)
        except BaseException:
            self.stop()
            raise
        return self.uri

    def stop(self) -> None:
        """Stop cleanly; returns when the data directory is free. Does nothing if it is not running."""
        self._stopping.set()
        if self._thread is not None:
            with contextlib.suppress(OSError):
                self._say(doing=instance.STOPPING, uri=None)
            self._end_process()
            self._thread.join()
            self._thread = None
        if self._hold is not None:
            self._release()
            instance.wait_until_unlocked(self.data_dir, STOP_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def make_data_dir(self) -> None:
        """Make the data directory, and close it to others."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EmbeddedDatabaseError(
                f"The data directory {self.data_dir} cannot be created: {error.strerror}.",
                "Name another with --data or TSSTATS_DATA.",
            ) from error
        instance.make_private(self.data_dir, self._on_progress)

    def _say(self, **changes: Any) -> None:
        """Tell the others what we are doing."""
        self._record = replace(self._record, **changes)
        if self._hold is not None:
            instance.publish(self._hold, self._record)

    def _node_command(self, node: str, modules: Path) -> list[str]:
        bridge = str(install.HERE / "bridge.mjs")
        options = {"--socket": self._socket_directory, "--modules": modules}
        return [node, bridge, *(str(word) for option in options.items() for word in option)]

    def _environment(self) -> dict[str, str]:
        # NODE_OPTIONS is meant for other programs and can keep this one from starting.
        environment = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
        # For the fsync of a new database's thousand files, many at once.
        environment["UV_THREADPOOL_SIZE"] = "32"
        if not self._sync:
            environment["TSSTATS_EMBEDDED_SYNC"] = "off"
        return environment

    def _create(self) -> None:
        """Make the database, if there is none, and lock it."""
        assert self._hold is not None
        if not instance.exists(self.data_dir):
            self._on_progress("Creating the database ...")
            process = self._spawn("--create")
            try:
                self._first_line(process)
            finally:
                _kill(process)
        self._hold.add_database()

    def _launch(self) -> None:
        """Start node and wait for its first line."""
        process = self._spawn()
        try:
            self.versions = self._first_line(process)
        except BaseException:
            _kill(process)
            raise
        self._process = process
        self._say(node_pid=process.pid)

    def _spawn(self, *options: str) -> subprocess.Popen[bytes]:
        """Node, on the directory that is locked and on no other that lies at its path."""
        assert self._hold is not None
        if not self._hold.is_in_place():
            raise self._moved()
        # Made again: cleaners of /tmp take directories away.
        instance.socket_directory(self._hold)
        held = ",".join(map(str, self._hold.descriptors))
        with instance.open_private(self._hold, "log") as log:
            return subprocess.Popen(
                [*self._command, "--held", held, *options],
                stdin=subprocess.PIPE,  # its end tells the bridge that we are gone
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=self._hold.descriptors,
                env=self._environment(),
                cwd=self.data_dir,
                start_new_session=True,  # Ctrl-C is for us; we stop it when its users are done
            )

    def _first_line(self, process: subprocess.Popen[bytes]) -> dict[str, str]:
        assert process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        while not select.select([process.stdout], [], [], 0.2)[0]:
            if self._stopping.is_set():
                raise EmbeddedDatabaseError("The embedded database was stopped while it started.")
            if time.monotonic() > deadline:
                raise self._start_error(f"did not start within {START_SECONDS:.0f} s")
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._start_error("ended while it started")
        versions: dict[str, str] = json.loads(line)
        return versions

    def _moved(self) -> EmbeddedDatabaseError:
        return EmbeddedDatabaseError(
            f"The data directory {self.data_dir} was removed, moved or replaced while its database ran; "
            "the database was stopped.",
            "Put it back, or name the right one with --data or TSSTATS_DATA, and start again.",
        )

    def _start_error(self, what: str) -> EmbeddedDatabaseError:
        log = (self.data_dir / "log").read_bytes()[-LOG_BYTES:].decode(errors="replace").strip()
        # Lines that begin so are PGlite's own, of every start.
        lines = [line for line in log.splitlines() if not line.startswith("#")]
        reason = lines[0] if lines else "it gave no reason"
        return EmbeddedDatabaseError(
            f"The embedded database in {self.data_dir} {what}: {reason}.",
            f"See {self.data_dir / 'log'}. Is the disk full, or the directory not writable?",
        )

    def _supervise(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            self._watch()
            if self._stopping.is_set() or self.failure is not None:
                return
            if time.monotonic() - started > HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            backoff = self._restart(backoff)

    def _watch(self) -> None:
        """Return when the process is gone; end it if it no longer answers, or if its directory is gone."""
        process = self._process
        failed = 0
        while process is not None and failed < FAILED_PROBES:
            try:
                process.wait(PROBE_INTERVAL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if not self._keeps_place():
                    self._end_process()
                    break
                failed = 0 if instance.answers(self._socket_directory) else failed + 1
        if process is not None:
            _kill(process)

    def _keeps_place(self) -> bool:
        """Whether the directory is still ours; if it is, see that others are told so."""
        assert self._hold is not None
        if not self._hold.is_in_place():
            self.failure = self._moved()
            return False
        with contextlib.suppress(OSError):  # a full disk, which is told of elsewhere
            self._say()
        return True

    def _restart(self, backoff: float) -> float:
        """Start again, after a pause that doubles. Returns the pause before the next."""
        while not self._stopping.wait(backoff):
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
            self._on_progress("The embedded database was lost; starting it again ...")
            try:
                self._launch()
            except (EmbeddedDatabaseError, OSError) as error:
                if self._hold is not None and not self._hold.is_in_place():
                    self.failure = self._moved()
                    return backoff
                self._on_progress(str(error))
                continue
            self.restarts += 1
            return min(backoff, LONGEST_AFTER_START_SECONDS)
        return backoff

    def _end_process(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._on_progress(
                "The embedded database did not stop in time and was ended; the next start recovers it."
            )
            _kill(process)

    def _release(self) -> None:
        if self._process is not None:
            _kill(self._process)
            self._process = None
        if self._socket_directory.name:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
        if self._hold is not None:
            instance.withdraw(self._hold)
            self._hold.release()
            self._hold = None

    def _forget(self) -> None:
        """In a forked child: hold neither the lock nor the pipe, or the database would outlive its owner."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None
        if self._process is not None:
            _close_pipes(self._process)
            self._process = None
        self._thread = None


@contextlib.contextmanager
def open_database(
    data_dir: Path,
    *,
    on_wait: Callable[[str], None] = _log_progress,
    on_progress: Callable[[str], None] = _log_progress,
    **options: Any,
) -> Iterator[str]:
    """The URI of the database on this data directory, for one piece of work.

    Uses the one that runs; else starts one, with the `options` of `EmbeddedDatabase`, and stops it at the
    end, when no other piece of work uses it. `on_wait` is told what is waited for, where that takes long.
    """
    database = EmbeddedDatabase(data_dir, on_progress=on_progress, **options)
    database.make_data_dir()
    try:
        with instance.shared_use(database.data_dir):
            yield _running_or_started(database, on_progress, on_wait)
    finally:
        if database.node_pid is not None:
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(OSError, EmbeddedDatabaseError):
                    stack.enter_context(instance.no_other_users(database.data_dir))
                database.stop()


def _running_or_started(
    database: EmbeddedDatabase, on_progress: Callable[[str], None], on_wait: Callable[[str], None]
) -> str:
    began = time.monotonic()
    told: Callable[[str], None] | None = None
    while True:
        if (found := instance.running(database.data_dir)) and found.uri:
            return found.uri
        try:
            return database.start()
        except instance.DataDirectoryInUse:
            waited = time.monotonic() - began
            if waited > OPEN_SECONDS:
                raise
            tell = on_wait if waited > LONG_WAIT_SECONDS else on_progress
            if tell is not told:
                tell(waiting_for(database.data_dir))
                told = tell


def waiting_for(data_dir: Path) -> str:
    """What is waited for, in a sentence."""
    found = instance.owner(data_dir)
    who, doing = (str(found), found.doing) if found else ("Another process", instance.RUNNING)
    return f"{who} {doing} in {data_dir}; waiting for it ..."


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    _close_pipes(process)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()

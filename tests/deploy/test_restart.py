"""Restarts under load, with a listening socket that outlives the service: what systemd does."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from tests.faults.load import Load, verify
from tests.faults.server import free_port

RESTARTS = int(os.environ.get("TSSTATS_TEST_RESTARTS", "6"))
"""20 in the long run; each takes about three seconds."""

# systemd puts the socket at 3 and names the process that is to take it.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "ringstats_ts.cli", "serve", *sys.argv[2:]])
"""


class Unit:
    """`tsstats serve` as a unit of systemd, which holds the socket where there is one."""

    def __init__(self, uri, directory, listener=None, port=None):
        self.uri, self.listener, self.port = uri, listener, port
        self.log_path = directory / "log"
        self.process = None

    def start(self):
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("TSSTATS_", "DATABASE_UR", "LISTEN"))
        }
        environment = kept | {"DATABASE_URI": self.uri, "TSSTATS_UPKEEP": "off"}
        if self.listener is None:
            command = [
                sys.executable,
                "-m",
                "ringstats_ts.cli",
                "serve",
                "--listen",
                f"127.0.0.1:{self.port}",
            ]
        else:
            command = [sys.executable, "-c", HAND_OVER, str(self.listener.fileno())]
        with self.log_path.open("ab") as log:
            log.write(b"-- start --\n")
            log.flush()
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=log,
                pass_fds=() if self.listener is None else (self.listener.fileno(),),
            )

    def wait(self):
        """Until gunicorn says that it is ready, as systemd waits for it (Type=notify)."""
        deadline = time.monotonic() + 30
        while "Using worker: " not in self.log_path.read_text().rpartition("-- start --")[2]:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log

    @property
    def log(self):
        return self.log_path.read_text()[-3000:]


@contextmanager
def running(unit):
    unit.start()
    try:
        unit.wait()
        yield
    finally:
        if unit.process.poll() is None:
            unit.process.send_signal(signal.SIGTERM)
            unit.process.wait(30)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as held:
        yield held


@pytest.fixture
def clean(database_uri, clean):
    return database_uri


class OneByOne(threading.Thread):
    """Asks /healthz on a new connection each time: one that waits in the backlog must be answered."""

    def __init__(self, port):
        super().__init__()
        self.port, self.answers, self.failures, self.slowest = port, 0, [], 0.0
        self._stopped = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self._stopped.set()
        self.join()

    def run(self):
        while not self._stopped.wait(0.01):
            began = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", self.port), 30) as connection:
                    connection.sendall(
                        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                    )
                    answer = connection.makefile("rb").read()
                assert answer.startswith(b"HTTP/1.1 200 "), answer[:100]
                self.answers += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))


def restart_under_load(unit, port, times):
    """Restart it so often; what the clients saw."""
    with running(unit), Load(port, hosts=3) as load, OneByOne(port) as probes:
        time.sleep(0.5)
        for _ in range(times):
            before = load.acknowledged
            unit.stop()
            unit.start()
            unit.wait()
            deadline = time.monotonic() + 30
            while load.acknowledged < before + 30:
                assert time.monotonic() < deadline, unit.log
                time.sleep(0.02)
        load.stop()
    return load, probes


def test_restarts_behind_an_inherited_socket_fail_nobody(clean, tmp_path, listener):
    port = listener.getsockname()[1]
    began = time.monotonic()
    load, probes = restart_under_load(Unit(clean, tmp_path, listener), port, RESTARTS)
    verdict = verify(clean, load)
    print(
        f"{RESTARTS} restarts in {time.monotonic() - began:.0f} s: {verdict.counts}, "
        f"{probes.answers} probes, slowest {probes.slowest:.1f} s"
    )
    assert set(load.answers) == {200}
    assert probes.failures == []
    verdict.check()
    assert verdict.unresolved == verdict.replayed == 0
    assert verdict.acknowledged > 30 * RESTARTS


def test_restarts_behind_nginx_fail_nobody(clean, tmp_path, listener, start_nginx):
    """nginx lets go of its kept connections before a stopping gunicorn does: no POST is lost in one."""
    with start_nginx(listener.getsockname()[1], {"rate=50r/s": "rate=5000r/s"}) as front:
        load, probes = restart_under_load(Unit(clean, tmp_path, listener), front.port, 3)
    assert set(load.answers) == {200}
    assert probes.failures == []
    verify(clean, load).check()


def test_without_an_inherited_socket_clients_are_refused(clean, tmp_path):
    port = free_port()
    load, probes = restart_under_load(Unit(clean, tmp_path, port=port), port, 1)
    assert probes.failures
    # Refused or not, nothing is lost.
    verify(clean, load).check()


def test_listen_plays_no_part_where_a_socket_is_handed_over(clean, tmp_path, listener):
    unit = Unit(clean, tmp_path, listener)
    with running(unit):
        pass
    assert "handed over; --listen plays no part" in unit.log


def test_an_inherited_public_socket_needs_a_decision_about_tokens(clean, tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as public:
        unit = Unit(clean, tmp_path, public)
        unit.start()
        assert unit.process.wait(30) == 1
    assert "TSSTATS_AUTH" in unit.log

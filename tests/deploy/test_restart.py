"""Restarts under load, with a listening socket that outlives the service: what systemd does."""

import os
import socket
import sys
import threading
import time

import pytest

from tests.faults.load import Load, verify
from tests.service import Service, handed_over, own_environment

RESTARTS = int(os.environ.get("TSSTATS_TEST_RESTARTS", "20"))
"""Each takes about three seconds."""


class Unit(Service):
    """`tsstats serve` as a unit of systemd, which holds the socket where there is one."""

    def __init__(self, uri, directory, listener=None, **settings):
        super().__init__(directory, listener and listener.getsockname()[1])
        self.uri, self.listener, self.settings = uri, listener, settings

    def start(self):
        command = [sys.executable, "-m", "ringstats_ts.cli", "serve"]
        if self.listener is None:
            command += ["--listen", f"127.0.0.1:{self.port}"]
            options = {}
        else:
            command, options = handed_over(self.listener, command)
        with self.log_path.open("a") as log:
            log.write("-- start --\n")
        self.launch(
            command, own_environment(DATABASE_URI=self.uri, TSSTATS_UPKEEP="off", **self.settings), **options
        )

    def wait_ready(self):
        """Until gunicorn says that it is ready, as systemd waits for it (Type=notify)."""
        self.wait_until(lambda: "Using worker: " in self.log.rpartition("-- start --")[2])

    def end(self):
        assert self.stop() == 0, self.log


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
    unit.start()
    with unit, Load(port, hosts=3) as load, OneByOne(port) as probes:
        time.sleep(0.5)
        for _ in range(times):
            before = load.acknowledged
            unit.end()
            unit.start()
            unit.wait_ready()
            deadline = time.monotonic() + 30
            while load.acknowledged < before + 30:
                assert time.monotonic() < deadline, unit.log
                time.sleep(0.02)
        load.stop()
    return load, probes


@pytest.mark.parametrize("restarts", [1, pytest.param(RESTARTS, marks=pytest.mark.faults)])
def test_restarts_behind_an_inherited_socket_fail_nobody(restarts, clean, tmp_path, listener):
    port = listener.getsockname()[1]
    began = time.monotonic()
    load, probes = restart_under_load(Unit(clean, tmp_path, listener), port, restarts)
    verdict = verify(clean, load)
    print(
        f"{restarts} restarts in {time.monotonic() - began:.0f} s: {verdict.counts}, "
        f"{probes.answers} probes, slowest {probes.slowest:.1f} s"
    )
    assert set(load.answers) == {200}
    assert probes.failures == []
    verdict.check()
    assert verdict.unresolved == verdict.replayed == 0
    assert verdict.acknowledged > 30 * restarts


@pytest.mark.faults
def test_restarts_behind_nginx_fail_nobody(clean, tmp_path, listener, start_nginx):
    """nginx lets go of its kept connections before a stopping gunicorn does: no POST is lost in one."""
    with start_nginx(listener.getsockname()[1], {"rate=50r/s": "rate=5000r/s"}) as front:
        unit = Unit(clean, tmp_path, listener, TSSTATS_PROXY_HOPS="1", TSSTATS_AUTH="off")
        load, probes = restart_under_load(unit, front.port, 3)
    assert set(load.answers) == {200}
    assert probes.failures == []
    verify(clean, load).check()


@pytest.mark.faults
def test_without_an_inherited_socket_clients_are_refused(clean, tmp_path):
    unit = Unit(clean, tmp_path)
    load, probes = restart_under_load(unit, unit.port, 1)
    assert probes.failures
    # Refused or not, nothing is lost.
    verify(clean, load).check()


def test_listen_plays_no_part_where_a_socket_is_handed_over(clean, tmp_path, listener):
    unit = Unit(clean, tmp_path, listener)
    unit.start()
    with unit:
        pass
    assert "handed over; --listen plays no part" in unit.log


def test_an_inherited_public_socket_needs_a_decision_about_tokens(clean, tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as public:
        unit = Unit(clean, tmp_path, public)
        unit.start()
        assert unit.process.wait(30) == 1
    assert "TSSTATS_AUTH" in unit.log

"""Shared memory that is full, or becomes so: no worker dies of it, and posts are answered."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.small import fill
from tests.service import Server

SIZE = "24m"


def mount(size=SIZE):
    """A command that runs another one with a /dev/shm of its own, of that size."""
    script = f'mount -t tmpfs -o size={size} tsstats /dev/shm && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh")


@pytest.fixture
def start(native, tmp_path):
    """Starts a service in front of a shared memory of its own; its processes may be looked at by /proc."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, to mount a small file system")
    if subprocess.run([*mount(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a small file system")
    started = []

    def begin(size=SIZE):
        started.append(Server(native.uri, tmp_path, prefix=mount(size)))
        return started[-1].__enter__()

    yield begin
    for server in started:
        server.stop()


def shared_memory(server):
    return Path(f"/proc/{server.process.pid}/root/dev/shm")


def healthy(server, make_document):
    """Posts are answered by workers that live on."""
    workers = server.workers()
    for _ in range(10):
        body, key = make_document()
        assert server.post(body, headers=key).status == 200
        assert server.get("/metrics").status == 200
    assert set(workers) <= set(server.workers())
    assert "SIGBUS" not in server.log


def test_full_from_the_start(start, make_document):
    server = start("64k")
    healthy(server, make_document)
    assert "/dev/shm has no room" in server.log
    assert b"tsstats_workers 2.0" in server.get("/metrics").content
    assert list(shared_memory(server).iterdir()) == []


def test_full_later(start, make_document):
    server = start()
    fill(shared_memory(server) / "of somebody else")
    healthy(server, make_document)
    for pid in server.workers():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.wait_until(lambda: len(server.workers()) == 2 and server.get("/healthz").status == 200)
    healthy(server, make_document)
    assert "The metrics of this process are not shown" in server.log
    (shared_memory(server) / "of somebody else").unlink()
    for pid in server.workers():
        os.kill(pid, signal.SIGTERM)
    server.wait_until(lambda: b"tsstats_workers 2.0" in server.get("/metrics").content)

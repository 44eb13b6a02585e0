"""Where the service is started from must not matter, but for the paths that its settings name."""

import http.client
import subprocess
import sys
import time
from contextlib import closing

import pytest

from tests.service import START_SECONDS, free_port, own_environment

MODULES = ("orjson", "prometheus_client", "setproctitle", "flask", "gunicorn", "webapp", "ringstats_ts")


def status_of(port, path):
    """The status of the answer; None where there is none yet."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None


def wait_until_ready(process, port):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        # The metrics import late.
        if all(status_of(port, path) == http.client.OK for path in ("/readyz", "/metrics")):
            return
        time.sleep(0.1)
    raise AssertionError("not ready in time")


@pytest.mark.parametrize("verb", ["serve", "up"])
def test_nothing_of_the_directory_is_run_and_its_files_are_found(database_uri, clean, tmp_path, verb):
    for name in MODULES:
        text = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\nraise ImportError\n"
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "key").write_text("k" * 64)
    environment = own_environment(
        DATABASE_URI=database_uri, TSSTATS_DATA="data", TSSTATS_CLIENT_KEY_FILE="key"
    )
    port = free_port()
    process = subprocess.Popen(
        # Of the command itself the shell's PATH decides where it is; `-m` alone would look here first.
        [sys.executable, "-P", "-m", "ringstats_ts.cli", verb, "--listen", f"127.0.0.1:{port}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_ready(process, port)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert list(tmp_path.glob("*.ran")) == []

"""`tsstats` as a process, on a data directory of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVER = os.environ.get("TSSTATS_TEST_DATABASE_URI")
START_SECONDS = 90


@dataclass
class Finished:
    code: int
    output: str
    errors: str

    @property
    def json(self):
        assert self.code == 0, self.errors
        return json.loads(self.output)


@dataclass
class Tsstats:
    """Runs `tsstats` with an environment of its own; `uri` None means the embedded database."""

    data_dir: Path
    uri: str | None = None

    @property
    def environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TSSTATS_", "DATABASE_UR"))}
        uri = {} if self.uri is None else {"DATABASE_URI": self.uri}
        return kept | {"TSSTATS_DATA": str(self.data_dir)} | uri

    def command(self, *words):
        return [sys.executable, "-m", "ringstats_ts.cli", *map(str, words)]

    def __call__(self, *words, stdin=b"", **environment):
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
            env=self.environment | environment,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def up(self, *words, **environment):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log_path = self.data_dir.parent / f"up-{port}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                self.command("up", "--listen", f"127.0.0.1:{port}", *words),
                env=self.environment | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return Service(self, process, port, log_path)


@dataclass
class Service:
    """A running `tsstats up`."""

    tsstats: Tsstats
    process: subprocess.Popen
    port: int
    log_path: Path

    def __enter__(self):
        self.wait_ready()
        return self

    def __exit__(self, *exc):
        self.stop()

    @property
    def log(self):
        return self.log_path.read_text()

    @property
    def node_pid(self):
        return json.loads((self.tsstats.data_dir / "instance.json").read_text())["node_pid"]

    def request(self, method, path="/", body=None, timeout=30):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, document, path="/"):
        status, body = self.request("POST", path, json.dumps(document))
        return status, json.loads(body)

    def wait_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            try:
                if self.request("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready: {self.log}")

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def tsstats(tmp_path_factory, database_uri):
    """`tsstats` on the database of the tests: an own embedded one, or the server's."""
    return Tsstats(tmp_path_factory.mktemp("cli") / "data", database_uri if SERVER else None)


@pytest.fixture(scope="module")
def service(tsstats):
    with tsstats.up() as running:
        yield running


@pytest.fixture
def embedded_tsstats(tmp_path):
    """`tsstats` on an embedded database of the test's own."""
    return Tsstats(tmp_path / "data")

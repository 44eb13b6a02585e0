"""A real gunicorn in front of a database, and what is measured on it from outside."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from webapp.server import CONFIG_FILE

HERE = Path(__file__).parent


class Answer:
    """Status, headers in lower case, and body of one answer; how long it took."""

    def __init__(self, response, seconds):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.content = response.read()
        self.seconds = seconds

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def code(self):
        """The error's name, from the problem's type."""
        return self.json["type"].rpartition("/")[2]


class Server:
    """gunicorn as it is shipped; `hooks` names points of tests/faults/hooks.py."""

    def __init__(self, uri, directory, hooks=None, **settings):
        self.port = free_port()
        self.log_path = Path(directory) / f"gunicorn-{self.port}.log"
        self.directory = Path(directory)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("TSSTATS_", "DATABASE"))
        }
        environment = kept | {
            "DATABASE_URI": uri,
            "TSSTATS_LISTEN": f"127.0.0.1:{self.port}",
            "TSSTATS_WORKERS": "2",
            "TSSTATS_UPKEEP": "off",
        }
        command = [sys.executable, "-m", "gunicorn", "--config", str(CONFIG_FILE)]
        if hooks is not None:
            command.append("hooks:create_app()")
            environment |= {"TEST_HOOK": hooks, "TEST_HOOK_DIRECTORY": str(directory)}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), kept.get("PYTHONPATH")]))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=directory, env=environment | settings, stdout=log, stderr=log
            )

    def __enter__(self):
        self.wait_until(lambda: self.get("/healthz").status == 200)
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        """Ask it to end, and see that all of it has."""
        if self.process.poll() is None:
            workers = self.workers()
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                for pid in (self.process.pid, *workers):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
                raise AssertionError(f"gunicorn did not end: {self.log[-2000:]}") from None

    @property
    def log(self):
        return self.log_path.read_text()

    def log_lines(self, event):
        lines = (json.loads(line) for line in self.log.splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def request(self, method, path="/", body=None, headers=None, *, timeout=60, chunked=False):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        began = time.monotonic()
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response, time.monotonic() - began)
        finally:
            connection.close()

    def get(self, path="/", timeout=60):
        return self.request("GET", path, timeout=timeout)

    def post(self, body, path="/", headers=None, timeout=60):
        return self.request("POST", path, body, headers, timeout=timeout)

    def deliver(self, body, path="/", headers=None, seconds=5):
        """Post until it is taken, as a client does that may retry; the answer that took it."""
        answers = []

        def taken():
            answers.append(self.post(body, path, headers))
            assert answers[-1].status in (200, 429, 503), answers[-1].content
            return answers[-1].status == 200

        self.wait_until(taken, seconds)
        return answers[-1]

    def wait_until(self, met, seconds=30):
        """How many seconds it took until the condition held; an answer that does not come is a no."""
        began = time.monotonic()
        while True:
            assert self.process.poll() is None, self.log
            with suppress(OSError, http.client.HTTPException):
                if met():
                    return time.monotonic() - began
            assert time.monotonic() - began < seconds, f"not within {seconds} s: {self.log[-2000:]}"
            time.sleep(0.05)

    def workers(self):
        """Process ids of the workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def threads(self):
        """How many threads all workers have."""
        return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.workers())


def memory(pid):
    """Memory that a process has for itself alone and its share of what it shares [KiB]."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


SAMPLES = 20


class Probe:
    """Asks /healthz over and over, on a new connection each time, and keeps the seconds."""

    def __init__(self, server, every=0.05):
        self.seconds = []
        self.failures = []
        self._server, self._every = server, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        deadline = time.monotonic() + 5
        while len(self.seconds) < SAMPLES and time.monotonic() < deadline:
            time.sleep(self._every)
        self._stop.set()
        self._thread.join()

    @property
    def p99(self):
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]

    def _ask(self):
        while not self._stop.wait(self._every):
            try:
                answer = self._server.get("/healthz", timeout=10)
                assert answer.status == 200
                self.seconds.append(answer.seconds)
            except (OSError, AssertionError, http.client.HTTPException) as error:
                self.failures.append(error)
                self.seconds.append(10)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]

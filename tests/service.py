"""The service as a process of its own, on a loopback port, and what can be asked of it from outside.

`Server` is gunicorn as it is shipped, `Up` a `tsstats up`; both are `Service`s. All tests that
talk HTTP start one of them here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from webapp.server import CONFIG_FILE

HOOKS = Path(__file__).parent / "faults"
START_SECONDS = 120
"""A machine with other work takes ten times as long as an idle one."""

STOP_SECONDS = 60
PRIVATE_PORTS = range(10_000, 32_768)
"""Below those that the kernel gives to clients and to whoever asks for any."""


def free_port() -> int:
    """A port for a server that is still to be started, or started again."""
    while True:
        port = random.choice(PRIVATE_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def own_environment(**settings: str) -> dict[str, str]:
    """The environment without settings of ours but these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TSSTATS_", "DATABASE", "LISTEN_"))
    }
    return kept | settings


# systemd puts the socket at 3 and names the process that is to take it.
_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


def handed_over(listener: socket.socket, command: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The command that starts another with a socket as systemd does, and how Popen is to run it."""
    fileno = listener.fileno()
    return [sys.executable, "-c", _HAND_OVER, fileno, *command], {"pass_fds": (fileno,)}


class Answer:
    """Status, headers in lower case, and body of one answer; how long it took."""

    def __init__(self, response: http.client.HTTPResponse, seconds: float = 0) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.content = response.read()
        self.seconds = seconds

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def code(self) -> str:
        """The error's name, from the problem's type."""
        return str(self.json["type"].rpartition("/")[2])


def ask(
    port: int,
    method: str = "GET",
    path: str = "/",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    source: str = "127.0.0.1",
    timeout: float = 60,
    chunked: bool = False,
) -> Answer:
    """One request on a connection of its own, from a loopback address. A dict is sent as JSON."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout, source_address=(source, 0))
    began = time.monotonic()
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
        return Answer(connection.getresponse(), time.monotonic() - began)


class Service:
    """A process that listens on `port` and writes to `log_path`."""

    process: subprocess.Popen[bytes]
    ready_path = "/healthz"

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = Path(directory)
        self.port = free_port() if port is None else port
        self.log_path = self.directory / f"service-{self.port}.log"

    def launch(self, command: list[Any], environment: Mapping[str, str], **options: Any) -> None:
        """Start the process. Its log goes on where an earlier one ended."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), env=environment, stdout=log, stderr=log, **options
            )

    def __enter__(self) -> Self:
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def wait_ready(self) -> None:
        self.wait_until(lambda: self.get(self.ready_path).status == 200, START_SECONDS)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and see that all of it has; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"The service did not end: {self.log[-2000:]}") from None

    def kill(self) -> None:
        """kill -9 of the process and its workers."""
        workers = self.workers() if self.process.poll() is None else []
        for pid in (self.process.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def log_lines(self, event: str = "request") -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.log.splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def request(
        self,
        method: str,
        path: str = "/",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        return ask(self.port, method, path, body, headers, **options)

    def get(self, path: str = "/", *, timeout: float = 60, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers, timeout=timeout)

    def post(
        self, body: Any, path: str = "/", headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Answer:
        return self.request("POST", path, body, headers, timeout=timeout)

    def post_chunked(self, chunks: Any, path: str = "/", headers: Mapping[str, str] | None = None) -> Answer:
        headers = {"Transfer-Encoding": "chunked"} | dict(headers or {})
        return self.request("POST", path, iter(chunks), headers, chunked=True)

    def raw(self) -> socket.socket:
        """A connection on which anything can be sent."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def deliver(
        self, body: Any, path: str = "/", headers: Mapping[str, str] | None = None, seconds: float = 5
    ) -> Answer:
        """Post until it is taken, as a client does that may retry; the answer that took it."""
        answers = []

        def taken() -> bool:
            answers.append(self.post(body, path, headers))
            assert answers[-1].status in (200, 429, 503), answers[-1].content
            return answers[-1].status == 200

        self.wait_until(taken, seconds)
        return answers[-1]

    def wait_until(self, met: Callable[[], bool], seconds: float = 30) -> float:
        """How many seconds it took until the condition held; an answer that does not come is a no."""
        began = time.monotonic()
        while True:
            assert self.process.poll() is None, self.log
            with contextlib.suppress(OSError, http.client.HTTPException):
                if met():
                    return time.monotonic() - began
            assert time.monotonic() - began < seconds, f"not within {seconds} s: {self.log[-2000:]}"
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def threads(self) -> int:
        """How many threads all workers have."""
        return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.workers())


class Server(Service):
    """gunicorn as it is shipped, but without upkeep; `hooks` names points of tests/faults/hooks.py.

    `prefix` is a command that runs it.
    """

    def __init__(
        self,
        uri: str,
        directory: Path,
        hooks: str | None = None,
        prefix: tuple[str, ...] = (),
        **settings: str,
    ) -> None:
        super().__init__(directory)
        environment = own_environment(
            DATABASE_URI=uri,
            TSSTATS_LISTEN=f"127.0.0.1:{self.port}",
            TSSTATS_WORKERS="2",
            TSSTATS_UPKEEP="off",
        )
        command = [*prefix, sys.executable, "-m", "gunicorn", "--config", CONFIG_FILE]
        if hooks is not None:
            command.append("hooks:create_app()")
            environment |= {"TEST_HOOK": hooks, "TEST_HOOK_DIRECTORY": str(directory)}
            path = filter(None, [str(HOOKS), environment.get("PYTHONPATH")])
            environment["PYTHONPATH"] = os.pathsep.join(path)
        self.launch(command, environment | settings, cwd=directory)


class Up(Service):
    """`tsstats up`, on the data directory that the environment names."""

    ready_path = "/readyz"

    def __init__(self, directory: Path, environment: Mapping[str, str], *words: Any) -> None:
        super().__init__(directory)
        command = [sys.executable, "-m", "ringstats_ts.cli", "up", "--listen", f"127.0.0.1:{self.port}"]
        self.launch([*command, *words], environment)
        self.data_dir = Path(environment["TSSTATS_DATA"])

    @property
    def node_pid(self) -> int:
        """The process of the embedded database."""
        return int(json.loads((self.data_dir / "instance.json").read_text())["node_pid"])


def memory(pid: int) -> int:
    """Memory that a process has for itself alone and its share of what it shares [KiB]."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


SAMPLES = 20


class Probe:
    """Asks /healthz over and over, on a new connection each time, and keeps the seconds."""

    def __init__(self, server: Service, every: float = 0.05) -> None:
        self.seconds: list[float] = []
        self.failures: list[Exception] = []
        self._server, self._every = server, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        deadline = time.monotonic() + 5
        while len(self.seconds) < SAMPLES and time.monotonic() < deadline:
            time.sleep(self._every)
        self._stop.set()
        self._thread.join()

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]

    def _ask(self) -> None:
        while not self._stop.wait(self._every):
            try:
                answer = self._server.get("/healthz", timeout=10)
                assert answer.status == 200
                self.seconds.append(answer.seconds)
            except (OSError, AssertionError, http.client.HTTPException) as error:
                self.failures.append(error)
                self.seconds.append(10)

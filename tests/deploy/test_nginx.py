"""deploy/nginx.conf, in front of a real gunicorn: slow clients, limits, errors, what it passes on."""

import http.client
import json
import resource
import select
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.deploy.conftest import document
from tests.service import Server, ask

SLOW = Path(__file__).with_name("slow.py")
SPARE = 1000
HEADER_SECONDS = 10
CROWDS = [(500, 4), pytest.param(10_000, HEADER_SECONDS + 5, marks=pytest.mark.faults)]
"""How many slow connections, for how long."""


def half_of(wanted):
    """How many of each kind this machine lets one process have."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    number = wanted if allowed == resource.RLIM_INFINITY else min(wanted, allowed - SPARE)
    if number < wanted:
        print(f"RLIMIT_NOFILE is {allowed}: {number} slow connections instead of {wanted}")
    return number // 2


@contextmanager
def slow_clients(port, headers, bodies):
    """Holds slow connections open for the length of the block; then says what became of them."""
    process = subprocess.Popen(
        [sys.executable, SLOW, str(port), str(headers), str(bodies)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    found = {}
    try:
        assert process.stdout.readline() == b"ready\n"
        yield found
        process.stdin.close()
        found |= json.loads(process.stdout.readline())
        print(f"slow clients: {found}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


class Prober(threading.Thread):
    """Makes a request over and over; keeps how long each took, and what failed."""

    def __init__(self, name, probe, every=0.05):
        super().__init__(name=name)
        self._probe, self._every = probe, every
        self._stopped = threading.Event()
        self.seconds, self.failures = [], []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self._stopped.set()
        self.join()
        if self.seconds:
            p50, p99 = (round(self.quantile(part) * 1000, 1) for part in (0.5, 0.99))
            print(f"{self.name}: {len(self.seconds)} answered, p50 {p50} ms, p99 {p99} ms")

    def quantile(self, part):
        return sorted(self.seconds)[int(len(self.seconds) * part)]

    def run(self):
        while not self._stopped.wait(self._every):
            began = time.monotonic()
            try:
                status = self._probe()
            except (OSError, http.client.HTTPException) as error:
                status = repr(error)
            if status == 200:
                self.seconds.append(time.monotonic() - began)
            else:
                self.failures.append(status)


def healthz(port, timeout=5):
    return lambda: ask(port, path="/healthz", timeout=timeout).status


def post(port, timeout=10):
    key = uuid.uuid4

    def probe():
        return ask(
            port, "POST", "/?host=probe", document(), {"Idempotency-Key": str(key())}, timeout=timeout
        ).status

    return probe


@pytest.mark.parametrize(("wanted", "seconds"), CROWDS)
def test_thousands_of_slow_clients_stop_nobody(nginx, service, wanted, seconds):
    crowd = half_of(wanted)
    with (
        slow_clients(nginx.port, crowd, crowd) as found,
        Prober("GET /healthz", healthz(nginx.port)) as alive,
        Prober("POST /", post(nginx.port)) as posted,
    ):
        time.sleep(seconds)
    assert alive.failures == posted.failures == []
    assert len(alive.seconds) > seconds
    assert alive.quantile(0.99) < 3
    assert posted.quantile(0.99) < 5
    assert found["open"] > crowd * 2 * 0.9
    # Those that sent half a header were cut off, and came back.
    assert found["opened"] > crowd * (3 if seconds > HEADER_SECONDS else 2) * 0.9
    assert set(found["answers"]) <= {"closed"}


@pytest.mark.faults
def test_without_nginx_and_admission_a_few_slow_clients_stop_everybody(tmp_path, database_uri):
    with Server(database_uri, tmp_path, "no-admission", TSSTATS_THREADS="8") as bare:
        with slow_clients(bare.port, 0, 64), Prober("bare", healthz(bare.port, timeout=2), 0.2) as alive:
            time.sleep(5)
        assert alive.failures


def test_an_address_has_twenty_bodies_on_their_way(nginx):
    begun = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10_000}\r\n\r\n{{".encode()
    connections = []
    try:
        for _ in range(25):
            connections.append(socket.create_connection(("127.0.0.1", nginx.port), 20, ("127.9.9.9", 0)))
            connections[-1].sendall(begun)
        # Which of them come first is for nginx's processes to say.
        answered = []
        until = time.monotonic() + 8
        while len(answered) < 5 and time.monotonic() < until:
            answered, _, _ = select.select(connections, [], [], 0.1)
        refused = [connection.recv(4096) for connection in answered]
        assert len(refused) == 5
        assert {line.partition(b"\r\n")[0] for line in refused} == {b"HTTP/1.1 429 Too Many Requests"}
        assert all(b"Retry-After: " in answer for answer in refused)
        answer = ask(nginx.port, path="/healthz", source="127.9.9.9")
        assert (answer.status, answer.json["retryable"]) == (429, True)
        assert ask(nginx.port, path="/healthz", source="127.9.9.8").status == 200
    finally:
        for connection in connections:
            connection.close()


def test_a_half_sent_header_ends(start_nginx, service):
    with (
        start_nginx(service.port, {"client_header_timeout 10s;": "client_header_timeout 1s;"}) as nginx,
        socket.create_connection(("127.0.0.1", nginx.port), 20) as connection,
    ):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n")
        began = time.monotonic()
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""
        assert 0.9 < time.monotonic() - began < 15


def test_what_the_service_refuses_passes_as_it_is(nginx):
    answer = ask(nginx.port, "POST", body=b"{", headers={"Request-Id": "mine"})
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.headers["request-id"] == "mine"
    assert answer.json["type"].endswith("truncated-payload")


def test_a_body_that_is_too_large_is_a_problem_too(nginx, connection):
    answer = ask(nginx.port, "POST", body=bytes(4 * 1024 * 1024 + 1))
    assert (answer.status, answer.headers["content-type"]) == (413, "application/problem+json")
    assert answer.json["type"].endswith("payload-too-large")
    assert ask(nginx.port, "POST", body=b" " * (4 * 1024 * 1024)).status == 400


def test_the_client_is_known_by_its_address_and_not_by_what_it_claims(nginx, connection):
    forged = dict.fromkeys(("X-Forwarded-For", "Forwarded", "X-Real-IP"), "192.0.2.7")
    ask(nginx.port, "POST", body=b"[", headers=forged, source="127.3.3.3")
    with connection.cursor() as cursor:
        cursor.execute("SELECT sender FROM rejects ORDER BY reject_id DESC LIMIT 1")
        assert cursor.fetchall() == [("127.3.3.3",)]


def test_metrics_are_for_this_machine(nginx):
    assert ask(nginx.port, path="/metrics").status != 403
    for path in ("/metrics", "/metrics/", "//metrics", "/metrics//", "/%6detrics", "/x/../metrics/"):
        assert ask(nginx.port, path=path, source="127.0.0.2").status == 403


def test_without_a_service_it_is_503_and_when_to_come_back(start_nginx):
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    with start_nginx(port) as alone:
        answer = ask(alone.port, "POST", body=b"{}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert (answer.headers["content-type"], answer.json["retryable"]) == ("application/problem+json", True)
    assert answer.headers["request-id"]


SENDS_AGAIN = "proxy_next_upstream error timeout http_503 non_idempotent;"


@contextmanager
def broken_service(answer):
    """Takes requests and answers that, or nothing; gives its port and what it has received."""
    received = []

    def serve(listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with near:
                received.append(near.recv(65536))
                near.sendall(answer)

    with socket.create_server(("0.0.0.0", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1], received
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(("setting", "times"), [("proxy_next_upstream off;", 1), (SENDS_AGAIN, 2)])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"])
def test_a_post_is_never_sent_twice(start_nginx, answer, setting, times):
    """Also where there is another instance to send it to; with the setting of others it would be."""
    with broken_service(answer) as (port, received):
        another = f"keepalive 32;\n        server 127.0.0.2:{port} max_fails=0;"
        changes = {"keepalive 32;": another, "proxy_next_upstream off;": setting}
        with start_nginx(port, changes) as front:
            assert ask(front.port, "POST", body=b"{}").status == 503
    assert len(received) == times

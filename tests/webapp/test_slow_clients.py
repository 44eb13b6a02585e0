"""Clients that take their time: each wait has an end, and nobody else waits with them."""

import contextlib
import http.client
import json
import socket
import threading
import time

import pytest
from gunicorn.http.body import LengthReader
from gunicorn.http.unreader import SocketUnreader

from webapp.deadline import TimedReader

pytestmark = pytest.mark.usefixtures("clean")

HEADS = {
    "length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n",
    "chunked": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n",
}


@contextlib.contextmanager
def trickle(connection, seconds):
    """Sends a byte every so many seconds, until it cannot."""
    stop = threading.Event()

    def send():
        with contextlib.suppress(OSError):
            while not stop.wait(seconds):
                connection.sendall(b" ")

    thread = threading.Thread(target=send)
    thread.start()
    yield
    stop.set()
    thread.join()


def answer_of(connection):
    head, _, content = connection.makefile("rb").read().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, json.loads(content)


@pytest.mark.parametrize("framing", list(HEADS))
def test_a_body_that_trickles_in_is_408_and_the_end(start_server, framing, count):
    server = start_server(TSSTATS_BODY_TIMEOUT="1 second")
    started = time.monotonic()
    with server.raw() as connection:
        connection.sendall(HEADS[framing])
        with trickle(connection, 0.2):
            status, headers, problem = answer_of(connection)
    assert time.monotonic() - started < 20
    assert (status, problem["type"], problem["retryable"]) == (408, "/problems/body-timeout", True)
    assert headers["connection"] == "close"
    assert (headers["ingest-rejected"], count("rejects")) == ("0", 0)


def test_without_the_deadline_a_body_would_trickle_in_for_ever():
    """The test above can fail: the timeout of the socket alone is never due."""
    server, client = socket.socketpair()
    server.settimeout(0.5)
    reader = LengthReader(SocketUnreader(server), 12)
    with server, client, trickle(client, 0.2):
        assert reader.read(12) == b" " * 12
    server, client = socket.socketpair()
    timed = TimedReader(LengthReader(SocketUnreader(server), 12), server, 0.5, late=lambda: None)
    with server, client, trickle(client, 0.2), pytest.raises(TimeoutError):
        timed.read(12)


@pytest.mark.parametrize("framing", list(HEADS))
def test_a_body_that_stops_is_408(start_server, framing):
    server = start_server(TSSTATS_BODY_TIMEOUT="1 second")
    with server.raw() as connection:
        connection.sendall(HEADS[framing] + b"{")
        assert answer_of(connection)[0] == 408


def test_a_slow_body_in_time_is_taken_and_the_connection_goes_on(start_server, body):
    server = start_server(TSSTATS_BODY_TIMEOUT="5 seconds")
    request = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with server.raw() as connection:
        for half in (request[:300], request[300:]):
            connection.sendall(half)
            time.sleep(0.5)
        assert b" 200 OK" in connection.recv(65536)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b'"alive"' in connection.makefile("rb").read()


AT_ONCE = 5
"""Half of the seconds that a head may take: on a machine with other work, too."""

SLOW_HEADS = {
    "nothing": b"",
    "a byte": b"P",
    "a method": b"POST ",
    "a line": b"GET / HTTP/1.1\r\n",
    "half a header": b"POST / HTTP/1.1\r\nHost: localhost\r\nX: ",
    "an empty line": b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
}


@pytest.mark.parametrize("head", SLOW_HEADS.values(), ids=SLOW_HEADS)
def test_heads_that_do_not_end_hold_nobody_up(start_server, body, head, count):
    server = start_server(TSSTATS_WORKERS="1", TSSTATS_THREADS="2")
    with contextlib.ExitStack() as stack:
        for number in range(60):
            connection = stack.enter_context(server.raw())
            connection.sendall(head)
            if number < 4:
                stack.enter_context(trickle(connection, 0.5))
        for path in ("/healthz", "/metrics", "/"):
            started = time.monotonic()
            assert server.get(path).status == 200
            assert time.monotonic() - started < AT_ONCE
        assert server.post(body).status == 200


def test_a_head_that_does_not_end_is_not_waited_for(start_server):
    server = start_server(TSSTATS_WORKERS="1")
    started = time.monotonic()
    with server.raw() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        with trickle(connection, 0.5):
            assert connection.recv(1) == b""
    assert 5 < time.monotonic() - started < 60


def test_a_head_that_comes_in_pieces_is_read(start_server, body):
    server = start_server(TSSTATS_WORKERS="1")
    request = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with server.raw() as connection:
        for _ in range(2):
            for at in range(len(request)):
                connection.sendall(request[at : at + 1])
            connection.sendall(body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, bool(answer.read())) == (200, True)


def test_a_head_without_end_is_refused(start_server):
    server = start_server(TSSTATS_WORKERS="1")
    with server.raw() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 3000)
        assert answer_of(connection)[0] == 431


def test_more_slow_heads_than_connections_leave_room(start_server):
    server = start_server(TSSTATS_WORKERS="1")
    with contextlib.ExitStack() as stack:
        for _ in range(700):
            stack.enter_context(server.raw()).sendall(b"G")
        for _ in range(5):
            started = time.monotonic()
            assert server.get("/healthz").status == 200
            assert time.monotonic() - started < AT_ONCE


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_bodies_that_nobody_wants_hold_no_thread(start_server, path):
    server = start_server(TSSTATS_WORKERS="1", TSSTATS_THREADS="2")
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(server.raw()).sendall(head)
        started = time.monotonic()
        assert server.get("/healthz").status == 200
        assert time.monotonic() - started < AT_ONCE


def test_who_looks_at_pages_leaves_threads_for_health_checks_and_documents(start_server, body, connection):
    """The database answers no page."""
    server = start_server(TSSTATS_WORKERS="1", TSSTATS_THREADS="4", TSSTATS_DATABASE_TIMEOUT="10 seconds")
    with connection.cursor() as cursor, contextlib.ExitStack() as stack:
        cursor.execute("BEGIN; LOCK TABLE hosts, tailscale_status IN ACCESS EXCLUSIVE MODE")
        pages = [stack.enter_context(server.raw()) for _ in range(8)]
        for page in pages:
            page.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
            )
        time.sleep(0.5)
        for _ in range(5):
            started = time.monotonic()
            assert server.get("/healthz").status == 200
            assert time.monotonic() - started < AT_ONCE
        answers = [page.makefile("rb").read() for page in pages]
        cursor.execute("ROLLBACK")
    assert {int(answer.split()[1]) for answer in answers} == {503}
    busy = [answer for answer in answers if b"/problems/busy" in answer]
    assert len(busy) == len(pages) - 1
    assert all(b"Retry-After: " in answer and b"Ingest-" not in answer for answer in busy)


def test_who_does_not_read_the_answer_holds_no_thread_for_ever(start_server):
    server = start_server(TSSTATS_WORKERS="1", TSSTATS_THREADS="2")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.connect(("127.0.0.1", server.port))
        for _ in range(2000):
            try:
                connection.send(b"GET /openapi.yaml HTTP/1.1\r\nHost: localhost\r\n\r\n", socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
        until = time.monotonic() + 60
        while server.get("/openapi.yaml").status != 200:
            assert time.monotonic() < until
            time.sleep(1)


def test_who_keeps_his_end_open_holds_nobody_up(start_server):
    server = start_server(TSSTATS_WORKERS="1")
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            connection = stack.enter_context(server.raw())
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b" 200 OK" in connection.recv(65536)
        started = time.monotonic()
        assert server.get("/healthz").status == 200
        assert time.monotonic() - started < 5


def test_slow_bodies_leave_threads_for_health_checks(start_server, body):
    server = start_server(TSSTATS_WORKERS="1", TSSTATS_THREADS="4", TSSTATS_BODY_TIMEOUT="5 seconds")
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(server.raw())
            connection.sendall(HEADS["length"])
        for _ in range(5):
            started = time.monotonic()
            assert server.get("/healthz").status == 200
            assert time.monotonic() - started < 3
        busy = server.post(body)
        assert (busy.status, busy.json["type"]) == (503, "/problems/busy")
    server.deliver(body, seconds=30)

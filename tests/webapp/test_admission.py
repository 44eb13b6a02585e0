"""Bounds on what one worker does at a time: who waits, who is refused, and that somebody always answers."""

import contextlib
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from ringstats_ts.config import Config
from ringstats_ts.errors import TooManyRequests
from ringstats_ts.identity import new_token, read_token
from ringstats_ts.model import Token
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.tokens import add_token
from webapp import admission
from webapp.admission import BURST_SECONDS, Admission, Line, Rates, Turns, reserve, seats
from webapp.worker import WAITING

pytestmark = pytest.mark.usefixtures("clean")

SMALL = {"TSSTATS_WORKERS": "1", "TSSTATS_THREADS": "4"}
SEATS = 2
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"


class TestTurns:
    def test_are_given_on_in_the_order_of_asking(self):
        turns, order = Turns(1), []
        assert turns.take(0)

        def wait(number):
            assert turns.take(10)
            order.append(number)
            turns.give()

        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            while turns.waiting <= number:
                time.sleep(0.001)
        turns.give()
        for thread in threads:
            thread.join()
        assert order == [0, 1, 2, 3, 4]

    def test_are_waited_for_no_longer_than_asked(self):
        turns = Turns(1)
        assert turns.take(0)
        assert not turns.take(0.01)
        assert turns.waiting == 0
        turns.give()
        assert turns.take(0)

    def test_none_is_lost_or_made_by_waits_that_end_in_time_or_not(self):
        turns, inside, most = Turns(2), [], []

        def come_and_go(number):
            for _ in range(200):
                if turns.take(0.0001 * (number % 3)):
                    inside.append(number)
                    most.append(len(inside))
                    inside.remove(number)
                    turns.give()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(come_and_go, range(8)))
        assert max(most) <= 2
        assert [turns.take(0) for _ in range(3)] == [True, True, False]

    def test_one_that_comes_just_too_late_is_not_lost(self, monkeypatch):
        """It is given between the end of the wait and the look whether it was."""
        turns = Turns(1)
        assert turns.take(0)

        class Late(threading.Event):
            def wait(self, timeout=None):
                turns.give()
                return False

        monkeypatch.setattr(admission, "threading", SimpleNamespace(Event=Late, Lock=threading.Lock))
        assert turns.take(5)
        assert not turns.waiting
        monkeypatch.undo()
        assert not turns.take(0)
        turns.give()
        assert turns.take(0)


class TestLine:
    def test_gives_the_seats_then_places_then_nothing(self):
        line = Line(seats=2, places=1, wait=5)
        assert [line.sit("a"), line.sit("b"), line.sit("c")] == [True, True, False]
        assert [line.wait("c", 100.0), line.wait("d", 100.0)] == [True, False]
        assert line.due == 105.0

    def test_gives_a_seat_to_who_has_waited_longest(self):
        line = Line(seats=1, places=9, wait=5)
        assert line.sit("a")
        for guest in "bcd":
            assert line.wait(guest, 100.0)
        assert [line.leave(guest) for guest in "abcd"] == ["b", "c", "d", None]
        assert line.sit("e")

    def test_of_who_never_had_a_seat_gives_none_on(self):
        line = Line(seats=1, places=9, wait=5)
        assert line.sit("a")
        assert line.wait("b", 100.0)
        assert line.leave("c") is None
        assert not line.sit("d")
        assert line.leave("a") == "b"

    def test_is_left_by_those_whose_time_is_over(self):
        line = Line(seats=1, places=9, wait=5)
        assert line.sit("a")
        assert (line.due, line.late(1e9)) == (float("inf"), [])
        for guest, now in (("b", 100.0), ("c", 101.0), ("d", 102.0)):
            assert line.wait(guest, now)
        assert line.late(104.9) == []
        assert line.late(106.0) == ["b", "c"]
        assert line.due == 107.0
        assert line.leave("a") == "d"


class TestRates:
    def test_ten_seconds_worth_at_once_then_one_at_a_time(self):
        rates = Rates(2)
        assert [rates.take("a", 100.0) for _ in range(20)] == [0.0] * 20
        assert rates.take("a", 100.0) == pytest.approx(0.5)
        assert rates.take("a", 100.4) == pytest.approx(0.1)
        assert rates.take("a", 100.5) == 0.0
        assert rates.take("b", 100.5) == 0.0

    def test_a_refusal_costs_nothing(self):
        rates = Rates(1)
        for _ in range(10):
            rates.take("a", 0.0)
        waits = [rates.take("a", 0.0) for _ in range(50)]
        assert waits == [pytest.approx(1.0)] * 50

    def test_is_known_of_a_bounded_number(self):
        rates = Rates(1, kept=2)
        for _ in range(int(BURST_SECONDS)):
            rates.take("a", 0.0)
        assert rates.take("a", 0.0) > 0
        for key in ("b", "c", "a"):
            assert rates.take(key, 0.0) == 0.0

    def test_zero_is_any_number(self):
        rates = Rates(0)
        assert not any(rates.take("a", 0.0) for _ in range(1000))


@pytest.mark.parametrize("threads", range(1, 40))
def test_threads_are_left_for_others(threads):
    assert min(threads - 1, 2) <= reserve(threads) < threads
    assert 1 <= seats(threads) == threads - reserve(threads)


def test_the_wait_of_a_token_is_told():
    door = Admission(Config.from_env({"TSSTATS_RATE": "1"}))
    token = Token(1, "k", "*", frozenset({"ingest"}))
    for _ in range(10):
        door.check_rate(token)
    door.check_rate(None)
    with pytest.raises(TooManyRequests) as refused:
        door.check_rate(token)
    assert 0.9 < refused.value.retry_after <= 1


@pytest.fixture
def locked(connection):
    """Holds what every document needs, as a database does that hangs."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
        yield
        cursor.execute("ROLLBACK")


def test_with_a_database_that_hangs_all_are_told_and_health_checks_do_not_wait(start_server, status, locked):
    server = start_server(
        TSSTATS_WORKERS="1",
        TSSTATS_THREADS="8",
        TSSTATS_WRITERS="2",
        TSSTATS_QUEUE_TIMEOUT="1 second",
        TSSTATS_DATABASE_TIMEOUT="3 seconds",
    )
    body = json.dumps(status())

    def send(_):
        started = time.monotonic()
        return server.post(body), time.monotonic() - started

    with ThreadPoolExecutor(24) as pool:
        sent = [pool.submit(send, number) for number in range(24)]
        time.sleep(1.5)
        alive = []
        for _ in range(20):
            started = time.monotonic()
            assert server.get("/healthz").status == 200
            alive.append(time.monotonic() - started)
        answers = [future.result() for future in sent]
    assert sorted(alive)[18] < 1
    assert {answer.status for answer, _ in answers} == {503}
    assert all(1 <= int(answer.headers["retry-after"]) <= 5 for answer, _ in answers)
    codes = [answer.json["type"].rpartition("/")[2] for answer, _ in answers]
    # Six seats of eight threads; two of them have a turn, and two more may have theirs behind them.
    assert 20 <= codes.count("busy") <= 22
    assert max(seconds for _, seconds in answers) < 15


def test_a_burst_is_queued_not_refused(start_server, status, count, now):
    # So long that it plays no part on a slow machine.
    server = start_server(**SMALL, TSSTATS_WRITERS="1", TSSTATS_QUEUE_TIMEOUT="20 seconds")

    def send(number):
        return server.post(json.dumps(status(rx_bytes=number)), f"/?time={now + number}").status

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(send, range(120))) == [200] * 120
    assert count("receipts") == 120


def test_a_token_that_asks_too_fast_is_told_when_to_come_back(start_server, body, database_uri, rejects):
    server = start_server(TSSTATS_RATE="1", TSSTATS_WORKERS="1")
    text = new_token()
    with Database(database_uri) as database:
        add_token(database, read_token(text), hosts="*", scopes=("ingest",), expires_at=None)
    bearer = {"Authorization": f"Bearer {text}"}
    began = time.monotonic()
    answers = [server.post(body, headers=bearer)]
    while answers[-1].status == 200:
        answers.append(server.post(body, headers=bearer))
    assert BURST_SECONDS < len(answers) <= BURST_SECONDS + 2 + time.monotonic() - began
    answer = answers[-1]
    assert (answer.status, answer.json["type"]) == (429, "/problems/too-many-requests")
    assert (answer.headers["retry-after"], answer.headers["ingest-rejected"]) == ("1", "0")
    assert server.post(body).status == 200
    time.sleep(1)
    assert server.post(body, headers=bearer).status == 200
    assert rejects() == []


@contextlib.contextmanager
def waiting(server, number):
    """So many that have sent the head of a POST and no body, each on a connection of its own."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.raw()) for _ in range(number)]
        for connection in connections:
            connection.sendall(HEAD)
        seated = min(number, SEATS)
        # The one that looks is in flight, too.
        server.wait_until(lambda: sample(server, IN_FLIGHT) == seated + 1)
        server.wait_until(lambda: sample(server, IN_LINE) == number - seated)
        yield connections


IN_FLIGHT = "tsstats_requests_in_flight"
IN_LINE = "tsstats_writers_waiting"


def sample(server, name):
    lines = server.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


BUSY = 'tsstats_documents_total{outcome="failed",reason="busy",source="unknown"}'


def test_who_gets_no_seat_in_time_is_told_counted_and_logged(start_server, body):
    server = start_server(**SMALL, TSSTATS_QUEUE_TIMEOUT="6 seconds")
    with waiting(server, SEATS):
        with ThreadPoolExecutor(1) as pool:
            posted = pool.submit(server.post, body)
            server.wait_until(lambda: sample(server, IN_LINE) == 1)
            busy = posted.result()
        assert sample(server, IN_LINE) == 0
        assert sample(server, BUSY) == 1
    identity = busy.headers["request-id"]
    assert busy.status == 503
    assert 1 <= int(busy.headers["retry-after"]) <= 5
    assert busy.headers == {
        "connection": "close",
        "content-type": "application/problem+json",
        "content-length": str(len(busy.content)),
        "request-id": identity,
        "retry-after": busy.headers["retry-after"],
        "ingest-rows": "0",
        "ingest-rejected": "0",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    assert busy.json == {
        "type": "/problems/busy",
        "title": "The service is busy; the body was not read.",
        "status": 503,
        "detail": "The service is busy; the body was not read. Nothing was stored; try again.",
        "instance": f"urn:uuid:{identity}",
        "retryable": True,
    }
    (line,) = (line for line in server.log_lines() if line.get("request_id") == identity)
    assert (line["status"], line["error"], line["ms"]) == (503, "busy", 3000.0)


def test_the_line_has_an_end(start_server, body):
    server = start_server(**SMALL, TSSTATS_QUEUE_TIMEOUT="20 seconds")
    with waiting(server, SEATS + WAITING):
        started = time.monotonic()
        assert server.post(body).status == 503
        assert server.get("/healthz").status == 200
        assert time.monotonic() - started < 10


def test_a_request_on_a_connection_that_is_kept_needs_a_seat_of_its_own(start_server, body):
    server = start_server(**SMALL)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as kept:

        def status_of(method, path, body=None):
            kept.request(method, path, body)
            response = kept.getresponse()
            response.read()
            return response.status

        assert status_of("POST", "/", body) == 200
        ours = kept.sock.getsockname()
        with waiting(server, SEATS):
            assert [status_of("GET", "/healthz") for _ in range(3)] == [200] * 3
            assert kept.sock.getsockname() == ours
            assert status_of("POST", "/", body) == 503
            assert kept.sock is None


def test_what_waits_when_the_service_stops_is_answered(start_server, body, count):
    server = start_server(**SMALL, TSSTATS_QUEUE_TIMEOUT="30 seconds")
    with waiting(server, SEATS) as seated, ThreadPoolExecutor(20) as pool:
        posted = [pool.submit(server.post, body) for _ in range(20)]
        server.wait_until(lambda: sample(server, IN_LINE) == len(posted))
        server.process.terminate()
        time.sleep(0.2)
        for connection in seated:
            connection.sendall(body + b" " * (5000 - len(body)))
        assert {posts.result().status for posts in posted} == {200}
        assert {connection.recv(12) for connection in seated} == {b"HTTP/1.1 200"}
    assert server.process.wait(timeout=30) == 0
    assert count("receipts") == 1


def test_what_waits_in_vain_when_the_service_stops_is_told(start_server, body):
    server = start_server(**SMALL, TSSTATS_BODY_TIMEOUT="8 seconds", TSSTATS_QUEUE_TIMEOUT="8 seconds")
    with waiting(server, SEATS), ThreadPoolExecutor(20) as pool:
        posted = [pool.submit(server.post, body) for _ in range(20)]
        server.wait_until(lambda: sample(server, IN_LINE) == len(posted))
        server.process.terminate()
        assert {posts.result().status for posts in posted} == {503}
    assert server.process.wait(timeout=30) == 0


def test_who_is_turned_away_with_a_large_body_reads_why(start_server):
    server = start_server(**SMALL, TSSTATS_QUEUE_TIMEOUT="1 second")
    large = b"x" * (6 * 1024 * 1024)
    with waiting(server, SEATS), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(server.post, [large] * 8))
    assert {answer.status for answer in answers} == {503}

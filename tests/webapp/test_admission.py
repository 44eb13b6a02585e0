"""Bounds on what one worker does at a time: who waits, who is refused, and that somebody always answers."""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringstats_ts.config import Config
from ringstats_ts.errors import Busy, StorageUnavailable, TooManyRequests
from ringstats_ts.identity import new_token, read_token
from ringstats_ts.model import Token
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.tokens import add_token
from webapp.admission import BURST_SECONDS, Admission, Rates, Turns, reserve

pytestmark = pytest.mark.usefixtures("clean")


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


def test_a_seat_is_waited_for_while_something_moves_and_refused_at_once_when_nothing_does(monkeypatch):
    monkeypatch.setattr("webapp.admission.STILL_SECONDS", 0.2)
    admission = Admission(Config.from_env({"TSSTATS_THREADS": "4"}))
    time.sleep(0.3)
    with contextlib.ExitStack() as seats:
        for _ in range(2):
            seats.enter_context(admission.seat())
        waits = []
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(Busy), admission.seat():
                pass
            waits.append(time.monotonic() - started)
        assert waits[0] > 0.15 > 0.05 > waits[1]
        with pytest.raises(StorageUnavailable), admission.turn():
            raise StorageUnavailable
        with pytest.raises(Busy), admission.seat():
            pass
        with admission.turn():
            pass
        started = time.monotonic()
        with pytest.raises(Busy), admission.seat():
            pass
        assert time.monotonic() - started > 0.15
    with admission.seat():
        pass


def test_the_wait_of_a_token_is_told():
    admission = Admission(Config.from_env({"TSSTATS_RATE": "1"}))
    token = Token(1, "k", "*", frozenset({"ingest"}))
    for _ in range(10):
        admission.check_rate(token)
    admission.check_rate(None)
    with pytest.raises(TooManyRequests) as refused:
        admission.check_rate(token)
    assert 0.9 < refused.value.retry_after <= 1


@pytest.fixture
def locked(connection):
    """Holds what every document needs, as a database does that hangs."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
        yield
        cursor.execute("ROLLBACK")


def test_with_a_database_that_hangs_some_wait_and_the_others_are_told_at_once(start_server, status, locked):
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
    assert sorted(alive)[18] < 0.1
    assert {answer.status for answer, _ in answers} == {503}
    assert all(1 <= int(answer.headers["retry-after"]) <= 5 for answer, _ in answers)
    codes = [answer.json["type"].rpartition("/")[2] for answer, _ in answers]
    # Six seats of eight threads; two of them have a turn, and two more may have theirs behind them.
    assert 20 <= codes.count("busy") <= 22
    assert max(seconds for _, seconds in answers) < 5


def test_a_burst_is_queued_not_refused(start_server, status, count, now):
    server = start_server(TSSTATS_WORKERS="1", TSSTATS_THREADS="4", TSSTATS_WRITERS="1")

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
    assert [server.post(body, headers=bearer).status for _ in range(10)] == [200] * 10
    answer = server.post(body, headers=bearer)
    assert (answer.status, answer.json["type"]) == (429, "/problems/too-many-requests")
    assert (answer.headers["retry-after"], answer.headers["ingest-rejected"]) == ("1", "0")
    assert server.post(body).status == 200
    time.sleep(1)
    assert server.post(body, headers=bearer).status == 200
    assert rejects() == []

"""Ten times the load that can be stored: what can be is stored, the rest is told when to come again.

Storage is made slow, so that ten times its speed is little work for the client and the machine: what
is tested is who waits, who is turned away and what is left over for others.
"""

import itertools
import json
import os
import threading
import time
from collections import Counter
from http.client import HTTPException

import pytest

from tests.faults.load import Client
from tests.service import Probe, memory

pytestmark = pytest.mark.faults

SECONDS = float(os.environ.get("TSSTATS_TEST_OVERLOAD_SECONDS", "12"))
PEAK_SECONDS = 6
SENDERS = 150
"""So many that whoever waits for all before him waits far too long."""

STORE_SECONDS = 0.2
HEALTHY = 0.5
GOODPUT_RATIO = 0.8
MEMORY_RATIO = 1.1
SLACK_KIB = 4096

SETTINGS = {"TSSTATS_WORKERS": "1", "TSSTATS_THREADS": "8", "TSSTATS_WRITERS": "2"}

SLOW = f"""
CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep({STORE_SECONDS});
    RETURN NEW;
END $$;
CREATE TRIGGER take_time BEFORE INSERT ON receipts FOR EACH ROW EXECUTE FUNCTION take_time()
"""


@pytest.fixture
def start(native, start_server, make_status):
    """Starts a service that has seen every host, and then makes storing slow.

    Documents of new hosts are stored one at a time: each takes its host out of the day's budget.
    """
    bodies = _bodies(make_status)

    def start(hooks=None):
        server = start_server(native.uri, hooks, **SETTINGS)
        for number, body in enumerate(bodies):
            assert server.post(body, f"/?host=sender{number}").status == 200
        native.run(SLOW)
        return server, bodies

    yield start
    native.run("DROP TRIGGER IF EXISTS take_time ON receipts; DROP FUNCTION IF EXISTS take_time()")


def test_ten_times_the_load_is_answered_and_the_peak_is_kept(native, start):
    server, bodies = start()
    (worker,) = server.workers()
    peak = _post(server, bodies, senders=4, rate=None, seconds=PEAK_SECONDS)
    assert set(peak.statuses) == {200}
    before = memory(worker)
    with Probe(server) as probe:
        offered = 10 * peak.goodput
        load = _post(server, bodies, senders=SENDERS, rate=offered, seconds=SECONDS)
    after = memory(worker)
    print(
        f"peak {peak.goodput:.1f}/s, offered {offered:.0f}/s, sent {load.sent / SECONDS:.0f}/s,"
        f" stored {load.goodput:.1f}/s, {dict(load.statuses)}, p99 of /healthz {probe.p99:.3f} s,"
        f" slowest answer {load.slowest:.2f} s, PSS {before} -> {after} KiB"
    )
    assert set(load.statuses) <= {200, 429, 503}
    assert load.statuses[503] > 0
    assert load.without_retry_after == 0
    assert load.goodput >= GOODPUT_RATIO * peak.goodput
    assert load.slowest <= 10
    assert probe.p99 <= HEALTHY
    assert not probe.failures
    assert after <= MEMORY_RATIO * before + SLACK_KIB
    assert server.workers() == [worker]
    assert native.count("receipts") == SENDERS + peak.statuses[200] + load.statuses[200]


def test_without_admission_nobody_else_is_answered(start):
    server, bodies = start("no-admission")
    with Probe(server) as probe:
        _post(server, bodies, senders=SENDERS // 4, rate=None, seconds=5)
    print(f"p99 of /healthz {probe.p99:.3f} s")
    assert probe.p99 > HEALTHY


class Posted:
    """What came of many posts."""

    def __init__(self):
        self.statuses = Counter()
        self.without_retry_after = 0
        self.sent = 0
        self.slowest = 0.0
        self.seconds = 0.0

    @property
    def goodput(self):
        return self.statuses[200] / self.seconds


def _bodies(make_status):
    """A host of its own for each document of a sender: none waits for another of the same host."""
    return [json.dumps(make_status(f"sender{number}")).encode() for number in range(SENDERS)]


def _post(server, bodies, *, senders, rate, seconds):
    """Post for some seconds: as fast as answers come, or `rate` a second whatever the answers are."""
    posted, lock = Posted(), threading.Lock()
    began = time.monotonic()

    def send(number):
        client = Client(server.port)
        for turn in itertools.count():
            if rate is not None:
                time.sleep(max(0, began + (turn * senders + number) / rate - time.monotonic()))
            asked = time.monotonic()
            if asked - began > seconds:
                break
            key = {"Idempotency-Key": f"{began}-{number}-{turn}"}
            try:
                status, _ = client.post(f"/?host=sender{number}", bodies[number], key)
                retry_after = client.headers.get("Retry-After")
            except (OSError, HTTPException) as error:
                status, retry_after = type(error).__name__, None
            with lock:
                posted.sent += 1
                posted.statuses[status] += 1
                posted.slowest = max(posted.slowest, time.monotonic() - asked)
                posted.without_retry_after += status in (429, 503) and not retry_after
        client.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    posted.seconds = time.monotonic() - began
    return posted

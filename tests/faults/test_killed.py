"""A body that kills the worker which reads it: it is counted, kept, and refused when it comes again."""

import http.client
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

LOST = (http.client.RemoteDisconnected, ConnectionError)
HANGS = json.dumps(
    {"note": "it hangs", "value": 1, "AuthURL": "https://login.tailscale.com/a/secret"}
).encode()
CHANCE = json.dumps({"note": "by chance", "value": 2}).encode()
REJECTS = "SELECT reason, sender, size_bytes, convert_from(payload, 'UTF8') FROM rejects ORDER BY reject_id"


@pytest.fixture
def start(native, start_server):
    """A service whose workers are killed after three seconds without a heartbeat."""

    def begin(hooks="hang", workers=1, **settings):
        settings = {"GUNICORN_CMD_ARGS": "--timeout 3", "TSSTATS_WORKERS": str(workers)} | settings
        return start_server(native.uri, hooks, **settings)

    return begin


def documents(server):
    """How many documents have been counted, by outcome and reason."""
    found = re.findall(
        r'documents_total{outcome="(\w+)",reason="([\w-]*)".*} (\d+)', server.get("/metrics").content.decode()
    )
    return {(outcome, reason): int(number) for outcome, reason, number in found}


def refused(server, body):
    answer = server.post(body, timeout=30)
    assert answer.status == 422
    return answer.code


def test_is_refused_while_who_was_there_by_chance_is_not(native, start):
    server = start()
    with ThreadPoolExecutor(2) as pool:
        chance = pool.submit(server.post, CHANCE)
        time.sleep(0.5)
        hanging = pool.submit(server.post, HANGS)
        for lost in (chance, hanging):
            assert isinstance(lost.exception(), LOST)
    server.wait_until(lambda: len(native.run(REJECTS)) == 1)
    began = time.monotonic()
    assert refused(server, HANGS) == "killed-worker"
    assert time.monotonic() - began < 2
    assert server.post(CHANCE).status == 200
    kept, again = native.run(REJECTS)
    assert kept[:3] == again[:3] == ("killed-worker", "127.0.0.1", len(HANGS))
    assert "hangs" in kept[3]
    assert "secret" not in kept[3]
    assert again[3] is None
    assert documents(server) == {
        ("rejected", "killed-worker"): 2,
        ("failed", "killed-worker"): 1,
        ("stored", ""): 1,
    }
    assert [line["digest"] for line in server.log_lines("killed")].count(
        server.log_lines("killed")[0]["digest"]
    ) == 1


@pytest.mark.faults
def test_the_other_worker_answers_meanwhile(native, start):
    server = start(workers=2)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(server.post, HANGS)
        time.sleep(0.5)
        answered = []
        while not lost.done():
            answered.append(server.get("/healthz", timeout=10).seconds)
        assert isinstance(lost.exception(), LOST)
    assert sorted(answered)[len(answered) // 2] < 1
    server.wait_until(lambda: len(native.run(REJECTS)) == 1)
    for _ in range(6):
        assert refused(server, HANGS) == "killed-worker"


@pytest.mark.faults
def test_the_body_alone_counts(native, start):
    """Neither the route nor what is said beside it."""
    server = start()
    with pytest.raises(LOST):
        server.post(HANGS, "/v1/ingest/json?host=a")
    server.wait_until(lambda: len(native.run(REJECTS)) == 1)
    assert refused(server, HANGS) == "killed-worker"
    assert server.post(HANGS.replace(b"hangs", b"works")).status == 200


def kill(server, after):
    """kill -9 of the worker that pauses, so many seconds after it has begun to read."""
    paused = server.directory / "paused"
    server.wait_until(paused.exists)
    time.sleep(after)
    pid = int(paused.read_text())
    os.kill(pid, signal.SIGKILL)
    server.wait_until(lambda: server.workers() and pid not in server.workers())


@pytest.mark.parametrize(("after", "taken"), [(3.5, False), (0.1, True)])
def test_a_kill_from_outside_blames_what_was_being_read_for_long(native, start, after, taken):
    server = start("before-insert", GUNICORN_CMD_ARGS="")
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(server.post, HANGS)
        kill(server, after)
        assert isinstance(lost.exception(), LOST)
    if taken:
        server.wait_until(lambda: server.post(HANGS).status == 200)
        assert documents(server) == {("failed", "killed-worker"): 1, ("stored", ""): 1}
    else:
        server.wait_until(lambda: len(native.run(REJECTS)) == 1)
        assert refused(server, HANGS) == "killed-worker"


@pytest.mark.faults
@pytest.mark.parametrize("point", ["after-insert", "after-commit"])
def test_a_kill_while_the_database_is_waited_for_blames_nobody(native, start, point):
    server = start(point, GUNICORN_CMD_ARGS="")
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(server.post, HANGS)
        kill(server, 3.5)
        assert isinstance(lost.exception(), LOST)
    server.wait_until(lambda: server.post(HANGS).status == 200)
    assert native.run(REJECTS) == []

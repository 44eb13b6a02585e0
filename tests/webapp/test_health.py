"""healthz is about the process, readyz about the database; both in plain words."""

import time

import pytest

pytestmark = pytest.mark.usefixtures("clean")


def test_ready_when_the_database_takes_writes(server, count):
    assert server.get("/healthz").json == {"status": "alive"}
    assert server.get("/readyz").json == {"status": "ready"}
    assert count("late_windows") == 0


def test_a_database_that_is_away_is_503_that_can_be_retried(start_server, closed_uri, body):
    server = start_server(closed_uri)
    assert server.get("/healthz").status == 200
    for answer in (server.get("/readyz"), server.post(body), server.get("/readyz")):
        assert answer.status == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert answer.json["retryable"] is True
        assert answer.json["type"] == "/problems/storage-unavailable"
        assert answer.json["detail"].startswith("The database cannot be reached")
        assert "127.0.0.1" not in answer.text
    assert "storage-unavailable" in server.log
    assert "secret-password" not in server.log


def test_a_refusal_is_answered_with_the_database_away(start_server, closed_uri):
    answer = start_server(closed_uri).post(b"")
    assert (answer.status, answer.json["retryable"]) == (400, False)


def test_a_restart_of_the_database_costs_no_document(start_server, relay, body, count, now):
    server = start_server(relay.uri, TSSTATS_WORKERS="1", TSSTATS_THREADS="2")
    for second in range(4):
        assert server.post(body, f"/?time={now + second}").status == 200
        assert server.get("/readyz").status == 200
        relay.cut()
    assert count("tailscale_status") == 4


def test_the_service_comes_back_with_the_database(start_server, relay, body, count, now):
    server = start_server(relay.uri, TSSTATS_WORKERS="1")
    assert server.post(body, f"/?time={now}").status == 200
    relay.open = False
    relay.cut()
    assert [server.post(body, f"/?time={now + 1}").status for _ in range(3)] == [503] * 3
    assert server.get("/readyz").status == 503
    relay.open = True
    for _ in range(50):
        answer = server.post(body, f"/?time={now + 1}")
        if answer.status == 200:
            break
        time.sleep(0.1)
    assert answer.json["duplicate"] is False
    assert count("tailscale_status") == 2

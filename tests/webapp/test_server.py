"""gunicorn: what it logs, how it stops, who refreshes what came late."""

import logging
import time

import pytest

from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError, StorageUnavailable
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.refresh import catch_up
from ringstats_ts.storage.upkeep import run_upkeep as upkeep_once
from webapp import create_app, log
from webapp import upkeep as module
from webapp.upkeep import Upkeep

pytestmark = pytest.mark.usefixtures("clean")


def _wait_for(met):
    until = time.monotonic() + 60
    while not met():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_request_is_one_line_without_its_query(start_server, body):
    server = start_server()
    answer = server.post(body, "/v1/ingest/tailscale?host=a-secret-name")
    server.get("/no%0a%1b[31m%7f")
    taken, missed = server.log_lines()
    assert {**taken, "time": None, "ms": None} == {
        "time": None,
        "level": "info",
        "event": "request",
        "method": "POST",
        "path": "/v1/ingest/tailscale",
        "status": 200,
        "bytes": len(body),
        "rows": 3,
        "ms": None,
        "request_id": answer.headers["request-id"],
    }
    assert missed["path"] == "/no\n\x1b[31m\x7f"
    assert not set(server.log) & {"\x1b", "\x7f"}
    assert "a-secret-name" not in server.log


def test_sigterm_finishes_the_request_that_has_begun(start_server, body, count):
    server = start_server()
    with server.raw() as connection:
        head = (
            f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head.encode() + body[:500])
        # The one that looks is in flight, too.
        server.wait_until(lambda: "\ntsstats_requests_in_flight 2" in server.get("/metrics").text)
        server.process.terminate()
        time.sleep(0.5)
        connection.sendall(body[500:])
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(timeout=30) == 0
    assert count("tailscale_status") == 1


def test_forwarded_headers_count_only_behind_a_proxy(start_server, rejects):
    forged = {"X-Forwarded-For": "192.0.2.7, 198.51.100.9", "X-Forwarded-Host": "front.example"}
    start_server(TSSTATS_AUTH="off").post(b"", headers=forged)
    start_server(TSSTATS_PROXY_HOPS="1", TSSTATS_AUTH="off").post(b"", headers=forged)
    assert [sender for _, _, _, sender, _ in rejects()] == ["127.0.0.1", "198.51.100.9"]


@pytest.mark.parametrize(("scheme", "shown"), [("https", "https"), ("$(id)", "http")])
def test_a_forwarded_scheme_is_one_of_two(start_server, scheme, shown):
    """Some proxies pass on what a client says."""
    server = start_server(TSSTATS_PROXY_HOPS="1", TSSTATS_AUTH="off")
    text = server.get("/", **{"X-Forwarded-Proto": scheme, "X-Forwarded-Host": "front.example"}).text
    assert f"--data-binary @- {shown}://front.example/\n" in text


def test_nobody_is_told_what_serves(server):
    assert "server" not in server.get("/healthz").headers


def test_a_bug_is_500_without_internals(body, database_uri, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError(body.decode())

    monkeypatch.setattr("webapp.ingest.ingest", broken)
    app = create_app(Config.from_env({"DATABASE_URI": database_uri}))
    with caplog.at_level(logging.INFO, "webapp"):
        answer = app.test_client().post("/", data=body)
    assert (answer.status_code, answer.json["type"]) == (500, "about:blank")
    assert answer.headers["Request-Id"] in answer.json["detail"]
    for text in (answer.text, caplog.text):
        assert "BackendState" not in text
        assert "Traceback" not in text
    assert "test_server.py" in caplog.text


def test_without_a_database_there_is_no_service():
    with pytest.raises(ConfigError, match="DATABASE_URI"):
        create_app(Config.from_env({}))


def test_a_worker_refreshes_for_late_documents(start_server, connection, monkeypatch):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO late_windows (source, since, until) VALUES ('tailscale', now(), now())")

        def done():
            cursor.execute("SELECT count(*) FROM late_windows")
            return cursor.fetchone()[0] == 0

        server = start_server(TSSTATS_UPKEEP="on")
        _wait_for(done)
    assert server.stop() == 0


def test_upkeep_catches_up_once_and_prunes(server, body, database_uri, monkeypatch):
    rounds, noted = [], []

    def run_upkeep(database, config):
        rounds.append(database)
        upkeep_once(database, config)

    def note_missed(database):
        noted.append(catch_up(database))
        return noted[-1]

    monkeypatch.setattr(module, "catch_up", note_missed)
    monkeypatch.setattr(module, "run_upkeep", run_upkeep)
    server.post(body, f"/?time={time.time() - 6 * 86400:.0f}")
    with Database(database_uri) as database:
        database.run("UPDATE receipts SET received_at = now() - INTERVAL '15 days'")
        database.run(
            "INSERT INTO job_runs (job, started_at, finished_at) SELECT"
            " 'policy_refresh_continuous_aggregate tailscale_peers_5m', t, t"
            " FROM (SELECT now() - INTERVAL '5 days') AS r (t)"
        )
        upkeep = Upkeep(Config.from_env({"DATABASE_URI": database_uri}), every=0.01)
        upkeep.start()
        _wait_for(lambda: len(rounds) > 2)
        upkeep.stop()
        # One of Tailscale's, and one of each other source with aggregates that never ran.
        assert noted == [4]
        assert database.run("SELECT count(*) FROM receipts") == [(0,)]
        assert database.run("SELECT count(*) FROM late_windows") == [(0,)]


def test_upkeep_goes_on_after_a_failure_and_stops(monkeypatch, caplog):
    calls = []

    def run_upkeep(database, config):
        calls.append(database)
        if len(calls) == 1:
            raise StorageUnavailable

    monkeypatch.setattr(module, "catch_up", lambda database: 0)
    monkeypatch.setattr(module, "run_upkeep", run_upkeep)
    upkeep = Upkeep(Config.from_env({"DATABASE_URI": "postgresql://nowhere"}), every=0.01)
    with caplog.at_level(logging.INFO, "webapp"):
        upkeep.start()
        _wait_for(lambda: len(calls) > 2)
        upkeep.stop()
    seen = len(calls)
    time.sleep(0.1)
    assert len(calls) == seen
    assert "upkeep" in caplog.text


def test_a_log_line_is_ascii_without_control_characters(caplog):
    with caplog.at_level(logging.INFO, "webapp"):
        log.write(logging.INFO, "request", path="\x1b\x7f\x9b\u202e\n", rows=None)
    [record] = caplog.records
    assert record.message.isascii()
    assert record.message.isprintable()
    assert "rows" not in record.message

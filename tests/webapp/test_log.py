"""The log under a flood of refusals: bounded, and exact about what it leaves out."""

import json
import time
from collections import Counter

import pytest

from webapp import log

pytestmark = pytest.mark.usefixtures("clean")


def test_a_flood_of_refusals_is_a_few_lines_and_a_count(start_server):
    server = start_server(TSSTATS_WORKERS="1")
    began = time.monotonic()
    for _ in range(300):
        assert server.post(b"[").status == 400
    seconds = time.monotonic() - began
    assert server.stop() == 0
    written = Counter(line["error"] for line in server.log_lines())
    left_out = [(line["of"], line["error"], line["suppressed"]) for line in server.log_lines("suppressed")]
    assert {(of, error) for of, error, _ in left_out} == {("request", "truncated-payload")}
    # Nothing is unaccounted for.
    assert written["truncated-payload"] + sum(count for _, _, count in left_out) == 300
    assert written["truncated-payload"] <= log.LINES_A_SECOND * (seconds + 2)


def test_another_reason_and_what_goes_well_are_written_all_the_same(start_server, status):
    server = start_server(TSSTATS_WORKERS="1")
    for number in range(60):
        server.post(b"[")
        assert server.post(json.dumps(status("web-1", rx_bytes=number)).encode()).status == 200
    server.get("/nowhere")
    lines = server.log_lines()
    assert sum(line["status"] == 200 and line["method"] == "POST" for line in lines) == 60
    assert [line["path"] for line in lines if line["status"] == 404] == ["/nowhere"]


@pytest.mark.parametrize("path", ["/{}", "/v1/ingest/{}", "/problems/{}", "/v1/ingest/{}?host=web-1"])
def test_a_secret_in_a_path_that_leads_nowhere_is_not_written(start_server, path):
    server = start_server(TSSTATS_WORKERS="1")
    secret = "correct-horse-battery-staple"
    assert server.post(b"{}", path.format(secret)).status in (404, 405)
    assert server.get(path.format(secret)).status in (404, 405)
    assert server.stop() == 0
    assert secret not in server.log


def test_malformed_requests_are_capped_too(start_server):
    server = start_server(TSSTATS_WORKERS="1")
    began = time.monotonic()
    for _ in range(200):
        with server.raw() as connection:
            connection.sendall(b"\x1b[31mnonsense\r\n\r\n")
            connection.makefile("rb").read()
    seconds = time.monotonic() - began
    assert server.stop() == 0
    assert server.log.count("Invalid request") <= log.LINES_A_SECOND * (seconds + 2)
    assert any(line["of"] == "gunicorn.error" for line in server.log_lines("suppressed"))
    assert "\x1b" not in server.log


def test_what_is_not_understood_is_not_quoted(start_server):
    """A head that breaks may leave a token, or a body, where gunicorn looks for a method."""
    server = start_server(TSSTATS_WORKERS="1")
    for broken in (
        b"Authorization: Bearer tss_secret\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: tss_secret\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: tss_secret\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nBearer tss_secret: x\r\n\r\n",
        b'{"AuthURL": "tss_secret"}\r\n\r\n',
    ):
        with server.raw() as connection:
            connection.sendall(broken)
            answer = connection.makefile("rb").read()
        assert answer.startswith((b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 417 Exp", b"HTTP/1.1 501 Not Impl"))
        assert b"tss_secret" not in answer
    assert "tss_secret" not in server.log
    lines = server.log_lines("gunicorn.error")
    assert [line["detail"] for line in lines] == ["Invalid request from ip=127.0.0.1"] * 5


def test_without_a_cap_every_line_is_written(start_server, monkeypatch, tmp_path):
    """The switch: what the flood would be."""
    monkeypatch.setattr(log, "_cap", log.Cap(lines=1_000_000))
    assert all(log._cap.take(("request", "x")) for _ in range(1000))
    monkeypatch.setattr(log, "_cap", log.Cap())
    assert sum(log._cap.take(("request", "x")) for _ in range(1000)) == log.LINES_A_SECOND
    assert log._cap.over(all_of_them=True) == [(("request", "x"), 980)]
    assert log._cap.over(all_of_them=True) == []


def test_a_line_names_who_and_holds_no_secret(start_server, status, database_uri):
    server = start_server(TSSTATS_AUTH="on")
    server.post(json.dumps(status()).encode(), headers={"Authorization": "Bearer tss_a-secret_that-is-wrong"})
    server.post(b"{}", "/?host=quiet", headers={"Authorization": "Basic OnBhc3N3b3JkLXNlY3JldA=="})
    first, second = server.log_lines()
    assert {first["status"], second["status"]} == {401}
    assert set(first) == {
        "time",
        "level",
        "event",
        "method",
        "path",
        "status",
        "bytes",
        "error",
        "ms",
        "request_id",
    }
    assert first["bytes"] == 0
    for secret in ("a-secret", "that-is-wrong", "OnBhc3N3", "quiet", "BackendState"):
        assert secret not in server.log

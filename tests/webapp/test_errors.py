"""Refusals: status, problem+json, and what is kept of them."""

import json
import re
import time
from uuid import UUID

import pytest

from ringstats_ts import errors
from ringstats_ts.config import Config
from webapp import create_app
from webapp import errors as webapp_errors
from webapp.errors import STATUS, status_of

pytestmark = pytest.mark.usefixtures("clean")


def test_the_problem_has_the_shape_of_rfc_9457(server):
    answer = server.post(b"{}")
    problem = answer.json
    request_id = answer.headers["request-id"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.content.count(b"\n") == 1
    assert problem.pop("detail").startswith("The document is of no kind that this service knows")
    assert problem.pop("errors")[0].pop("code") == "unknown-source"
    assert problem == {
        "type": "/problems/unknown-source",
        "title": "The document is valid, but of no kind that this service knows.",
        "status": 422,
        "instance": f"urn:uuid:{UUID(request_id)}",
        "retryable": False,
    }


@pytest.mark.parametrize(
    ("sent", "status", "code", "says"),
    [
        (b"", 400, "empty-payload", "Is the daemon running?"),
        (b" \n", 400, "empty-payload", "Is the daemon running?"),
        (b'{"BackendState": "Running", "Self": {', 400, "truncated-payload", "Send the whole document again"),
        (b"Warning: client version differs\n{}", 400, "malformed-payload", "2>&1"),
        (b"<html></html>", 400, "malformed-payload", "begins with"),
        (b"{}", 422, "unknown-source", "an empty object"),
        (b"[[1, 2]]", 422, "unknown-source", "an array of 2"),
        (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", 422, "unstorable-payload", "nested"),
    ],
)
def test_what_is_refused_says_why_and_is_kept(server, rejects, sent, status, code, says):
    answer = server.post(sent, "/?host=edge")
    assert (answer.status, answer.json["errors"][0]["code"]) == (status, code)
    assert says in answer.json["detail"]
    assert rejects() == [(code, None, "edge", "127.0.0.1", len(sent))]


def test_a_nul_in_a_key_is_refused_and_kept(server, status, rejects):
    document = status()
    document["Self"]["a\0b"] = "\0"
    answer = server.post(json.dumps(document), "/v1/ingest/tailscale")
    assert answer.status == 422
    assert [reject[:2] for reject in rejects()] == [("unstorable-payload", "tailscale")]


def test_a_bad_parameter_keeps_the_body(server, body, rejects):
    answer = server.post(body, "/?time=yesterday")
    assert (answer.status, answer.json["errors"][0]["code"]) == (400, "bad-parameter")
    assert "RFC 3339" in answer.json["detail"]
    assert rejects() == [("bad-parameter", None, None, "127.0.0.1", len(body))]


def test_a_misspelt_parameter_is_refused(server, body, count):
    answer = server.post(body, "/?tiem=2026-01-31T12:00:00Z")
    assert answer.status == 400
    assert "time" in answer.json["detail"]
    assert count("receipts") == 0


def test_a_form_gets_the_hint_for_curl(server, body):
    form = b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + body + b"\r\n--x--\r\n"
    answer = server.post(form, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status == 400
    assert "--data-binary" in answer.json["detail"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_a_wrong_method_is_405_with_allow(server, method):
    answer = server.request(method, "/", b"{}")
    assert (answer.status, answer.json["type"]) == (405, "about:blank")
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))
    assert server.get("/v1/ingest/tailscale").headers["allow"] == "OPTIONS, POST"


def test_an_unknown_path_is_404(server):
    answer = server.post(b"{}", "/nowhere")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"tss_secret\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nAuthorization Bearer tss_secret\r\n\r\n", 400),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: tss_secret\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_what_is_no_http_is_answered_in_the_same_form(server, sent, status):
    with server.raw() as connection:
        connection.sendall(sent)
        head, _, content = connection.makefile("rb").read().partition(b"\r\n\r\n")
    headers = {
        name.lower(): value for name, value in (line.split(": ") for line in head.decode().split("\r\n")[1:])
    }
    problem = json.loads(content)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (headers["content-type"], headers["connection"]) == ("application/problem+json", "close")
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert problem["instance"] == f"urn:uuid:{headers['request-id']}"
    assert (problem["type"], problem["status"], problem["retryable"]) == ("about:blank", status, False)
    assert "secret" not in content.decode()
    assert (server.log_lines()[-1]["status"], server.log_lines()[-1]["error"]) == (status, "http")


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (errors.StorageUnavailable(), 1, 5),
        (errors.Busy(), 1, 5),
        (errors.BudgetSpent(), 1, 3600),
    ],
)
def test_what_may_be_sent_again_says_when(database_uri, error, least, most):
    app = create_app(Config.from_env({"DATABASE_URI": database_uri}))
    with app.test_request_context("/"):
        waits = {int(webapp_errors.answer(error).headers["Retry-After"]) for _ in range(50)}
    assert waits <= set(range(least, most + 1))


def test_a_known_wait_is_told_and_spread_behind_it():
    waits = {int(webapp_errors.retry_after(59.5)) for _ in range(200)}
    assert min(waits) == 60
    assert len(waits) > 5
    assert max(waits) <= 75
    assert {webapp_errors.retry_after(0.2) for _ in range(20)} == {"1"}
    assert webapp_errors.retry_after(90000) == "3600"


def test_every_answer_has_the_headers(server, body):
    answers = [
        server.get("/"),
        server.get("/healthz"),
        server.get("/nowhere"),
        server.post(body),
        server.post(b""),
        server.request("PUT"),
    ]
    for answer in answers:
        assert UUID(answer.headers["request-id"])
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("5f1a3c9e-0b7d-4d4b-9a53-0c2d6b1e7f80", True),
        ("abc-1", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("", False),
    ],
)
def test_a_request_id_is_echoed_where_it_can_be(server, given, kept):
    answer = server.post(b"", headers={"Request-Id": given})
    assert (answer.headers["request-id"] == given) is kept
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}|#[\w.%-]+", answer.json["instance"])


def test_the_type_leads_to_an_explanation(server):
    where = server.post(b"").json["type"]
    assert "The body is empty." in server.get(where).text
    assert server.get("/problems/nosuch").status == 404


def _all_errors(kind):
    return [kind, *(below for child in kind.__subclasses__() for below in _all_errors(child))]


def test_every_error_has_its_status():
    named = {kind.__name__: status_of(kind()) for kind in _all_errors(errors.PayloadError)}
    assert named == {
        "PayloadError": 422,
        "BadParameter": 400,
        "EmptyPayload": 400,
        "MalformedPayload": 400,
        "TruncatedPayload": 400,
        "PayloadTooLarge": 413,
        "UnsupportedEncoding": 415,
        "UnknownSource": 422,
        "UnstorablePayload": 422,
        "KilledWorker": 422,
        "TimestampOutOfRange": 422,
        "ConflictingPayload": 422,
        "Forbidden": 403,
        "BudgetSpent": 429,
        "PartlyRefused": 422,
    }
    others = (errors.Unauthorized, errors.BodyTimeout, errors.TooManyRequests, errors.Busy)
    assert [status_of(kind()) for kind in others] == [401, 408, 429, 503]
    assert {status_of(kind()) for kind in _all_errors(errors.StorageError)} == {503}
    assert STATUS[errors.RingstatsError] == 500


def test_a_log_waits_for_the_key_that_cannot_be_made_yet(start_server, tmp_path, clean):
    data = tmp_path / "data"
    data.write_text("in the way of the directory")
    server = start_server(TSSTATS_DATA=str(data))
    log = b'192.0.2.1 - - [27/Nov/2026:08:00:00 +0000] "GET / HTTP/1.1" 200 5\n'
    answer = server.post(log, "/?host=web-1")
    assert (answer.status, answer.json["retryable"]) == (503, True)
    assert answer.json["type"].endswith("/problems/no-client-key")
    assert "set TSSTATS_CLIENT_KEY" in answer.json["detail"]
    assert str(data) not in answer.text
    assert str(data) in server.log
    data.unlink()
    assert server.post(log, "/?host=web-1").json["rows"] == 1


def test_the_day_of_a_budget_ends_at_midnight_utc(monkeypatch):
    """Wherever the machine stands."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        wait = webapp_errors._until_tomorrow()
        assert wait == pytest.approx(86400 - time.time() % 86400, abs=5)
    finally:
        monkeypatch.undo()
        time.tzset()

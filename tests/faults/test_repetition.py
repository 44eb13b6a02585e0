"""The same document many times at once, and a body that goes on beyond the limit."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

TIMES = [10, pytest.param(100, marks=pytest.mark.faults)]
LIMIT = 1_000_000


@pytest.mark.parametrize("times", TIMES)
def test_a_document_posted_many_times_at_once_is_stored_once(
    times, target, start_server, make_document, stored
):
    body, key = make_document()
    server = start_server(target.uri)
    answers = _at_once(server, body, key, times)
    assert sorted(answer.json["duplicate"] for answer in answers) == [False] + [True] * (times - 1)
    assert len({answer.json["id"] for answer in answers}) == 1
    assert stored(target) == (1, 1, 3)
    other, _ = make_document(rx_bytes=2000)
    refused = server.post(other, headers=key)
    assert (refused.status, refused.code, refused.json["retryable"]) == (422, "conflicting-payload", False)
    assert stored(target) == (1, 1, 3)


@pytest.mark.faults
def test_without_receipts_it_is_stored_more_than_once(target, start_server, make_document):
    body, key = make_document()
    target.forget_receipts()
    _at_once(start_server(target.uri), body, key, 5)
    assert target.count("receipts") == 5


def _at_once(server, body, key, times):
    """As clients that may retry: a crowd may be told that the service is busy."""
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: server.deliver(body, headers=key, seconds=60), range(times)))


@pytest.fixture(params=["json", "ndjson"])
def long_body(request, make_document):
    """Three megabytes of which the first one is valid by itself."""
    if request.param == "json":
        body, _ = make_document()
        return body + b" " * (3 * LIMIT - len(body))
    line = json.dumps(json.loads(make_document()[0])).encode()
    # A line ends exactly at the limit.
    count = LIMIT // (len(line) + 1)
    lines = [line] * (count - 1) + [line + b" " * (LIMIT - count * (len(line) + 1))]
    return b"\n".join(lines) + b"\n" + b"\n".join([line] * (2 * count))


@pytest.mark.faults
def test_a_chunked_body_beyond_the_limit_is_refused_whole(native, start_server, long_body, stored):
    server = start_server(native.uri, TSSTATS_MAX_BODY_BYTES=str(LIMIT))
    answer = _post_chunked(server, long_body)
    assert (answer.status, answer.code) == (413, "payload-too-large")
    assert stored(native) == (0, 0, 0)


@pytest.mark.faults
def test_a_body_read_as_flask_does_is_cut_and_stored(native, start_server, long_body):
    """What the test above guards against: take its protection away and part of the body is taken."""
    server = start_server(native.uri, "whole-body", TSSTATS_MAX_BODY_BYTES=str(LIMIT))
    assert _post_chunked(server, long_body).status == 200
    assert native.count("receipts") > 0


def _post_chunked(server, body):
    chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
    return server.request("POST", "/", chunks, {"Transfer-Encoding": "chunked"}, chunked=True)

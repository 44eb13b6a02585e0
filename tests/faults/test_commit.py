"""A commit whose outcome nobody told: it is stored once, whatever the service and the client do then."""

import pytest

from tests.faults.proxy import Proxy

ONCE = (1, 1, 3)


@pytest.fixture
def proxy(target):
    with Proxy(target.uri) as proxy:
        yield proxy


@pytest.mark.faults
def test_the_service_finds_its_own_receipt(target, proxy, start_server, make_document, stored):
    body, key = make_document()
    server = start_server(proxy.uri)
    proxy.fault = "commit"
    answer = server.post(body, headers=key)
    assert proxy.commits_cut == 1
    assert (answer.status, answer.json["duplicate"]) == (200, False)
    assert stored(target) == ONCE


def test_the_client_is_told_that_nobody_knows_and_its_retry_is_a_duplicate(
    target, proxy, start_server, make_document, stored
):
    assert _answers_around_a_lost_commit(proxy, start_server, make_document()) == ("outcome-unknown", True)
    assert stored(target) == ONCE


@pytest.mark.faults
def test_without_receipts_the_retry_is_stored_twice(target, proxy, start_server, make_document, stored):
    target.forget_receipts()
    assert _answers_around_a_lost_commit(proxy, start_server, make_document()) == ("outcome-unknown", False)
    assert stored(target) == (2, 2, 6)


def _answers_around_a_lost_commit(proxy, start_server, document):
    body, key = document
    server = start_server(proxy.uri)
    proxy.fault = "commit_refuse"
    lost = server.post(body, headers=key)
    assert proxy.commits_cut == 1
    assert lost.status == 503
    assert lost.seconds < 10
    assert "retry-after" in lost.headers
    proxy.fault = None
    return lost.code, server.deliver(body, headers=key).json["duplicate"]

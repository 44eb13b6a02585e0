"""Who has an answer is waited for within bounds: of time, bytes and number."""

import contextlib
import selectors
import socket

import pytest

from webapp import parting
from webapp.parting import BYTES, SECONDS, Partings


@pytest.fixture
def poller():
    with selectors.DefaultSelector() as poller:
        yield poller


@pytest.fixture
def gone():
    return []


@pytest.fixture
def partings(poller, gone):
    return Partings(poller, places=2, gone=lambda: gone.append(1))


@pytest.fixture
def pair():
    """Makes the two ends of a connection: ours and the client's."""
    with contextlib.ExitStack() as stack:

        def make():
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            theirs.settimeout(5)
            return ours, theirs

        yield make


def poll(poller):
    for key, _ in poller.select(0):
        key.data(key.fileobj)


def test_the_answer_is_followed_by_its_end(partings, poller, pair, gone):
    ours, theirs = pair()
    ours.sendall(b"answer")
    partings.begin(ours)
    assert theirs.recv(100) + theirs.recv(100) == b"answer"
    assert gone == []
    theirs.close()
    poll(poller)
    assert (gone, ours.fileno()) == ([1], -1)


def test_what_is_still_sent_is_read_up_to_a_bound(partings, poller, pair, gone):
    ours, theirs = pair()
    partings.begin(ours)
    sent = 0
    theirs.setblocking(False)
    while not gone and sent < 2 * BYTES:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            sent += theirs.send(bytes(parting.READ_BYTES))
        poll(poller)
    assert gone == [1]
    assert BYTES <= sent < 1.5 * BYTES


def test_one_for_whom_there_is_no_place_is_closed_at_once(partings, pair, gone):
    connections = [pair() for _ in range(3)]
    for ours, _ in connections:
        partings.begin(ours)
    assert [ours.fileno() == -1 for ours, _ in connections] == [False, False, True]
    assert gone == [1]


def test_a_place_that_is_free_again_is_given_to_another(partings, poller, pair, gone):
    first, theirs = pair()
    for ours in (first, pair()[0]):
        partings.begin(ours)
    theirs.close()
    poll(poller)
    ours, _ = pair()
    partings.begin(ours)
    assert (ours.fileno() == -1, gone) == (False, [1])


def test_nobody_is_waited_for_longer(partings, pair, gone, monkeypatch):
    monkeypatch.setattr(parting, "monotonic", lambda: 100.0)
    ours, _ = pair()
    partings.begin(ours)
    assert partings.due == 100.0 + SECONDS
    partings.end_late(100.0 + SECONDS - 0.1)
    assert gone == []
    partings.end_late(100.0 + SECONDS)
    assert (gone, ours.fileno(), partings.due) == ([1], -1, float("inf"))

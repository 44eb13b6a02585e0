"""A crowd of requests is one look at the database."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringstats_ts.errors import StorageUnavailable
from webapp.service import Cached


def test_looks_once_while_the_value_is_fresh():
    looks = iter(range(10))
    cached = Cached(60)
    assert [cached.get(lambda: next(looks)) for _ in range(3)] == [0, 0, 0]


def test_looks_again_when_the_value_is_old():
    looks = iter(range(10))
    cached = Cached(0)
    assert [cached.get(lambda: next(looks)) for _ in range(3)] == [0, 1, 2]


def test_a_failure_is_kept_too_and_gone_after_the_next_look():
    def fail():
        raise StorageUnavailable

    cached = Cached(0)
    with pytest.raises(StorageUnavailable):
        cached.get(fail)
    assert cached.get(lambda: 1) == 1
    kept = Cached(60)
    for look in (fail, lambda: 1):
        with pytest.raises(StorageUnavailable):
            kept.get(look)


def test_while_one_looks_the_others_get_the_older_value():
    cached = Cached(0)
    cached.get(lambda: "old")
    begun, go_on = threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert go_on.wait(10)
        return "new"

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(cached.get, slow)
        assert begun.wait(10)
        assert cached.get(lambda: "never") == "old"
        go_on.set()
        assert looking.result() == "new"


def test_the_first_look_is_waited_for_by_all():
    cached, looks = Cached(60), []

    def look():
        looks.append(1)
        return len(looks)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: cached.get(look), range(8))) == [1] * 8

"""The files of metrics hold their space; without it the counts go on where nobody else sees them."""

import os

import pytest
from prometheus_client.mmap_dict import MmapedDict

from webapp.reserved import FIRST_BYTES, ReservedDict


def values(path):
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path))}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "counter_1.db"


def full(*_):
    raise OSError(28, "No space left on device")


def fill(counts, number=1000):
    for at in range(number):
        counts.write_value(f"{at:0200}", float(at), 0.0)


def test_its_pages_are_there_at_once(path):
    counts = ReservedDict(str(path))
    assert path.stat().st_blocks * 512 >= FIRST_BYTES
    fill(counts)
    assert path.stat().st_blocks * 512 >= path.stat().st_size > FIRST_BYTES
    assert values(path) == {f"{at:0200}": float(at) for at in range(1000)}
    counts.close()
    again = ReservedDict(str(path))
    assert again.read_value(f"{7:0200}")[0] == 7.0
    again.close()


def test_without_room_there_is_no_file(path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", full)
    counts = ReservedDict(str(path))
    fill(counts)
    assert (counts.shared, path.exists()) == (False, False)
    assert counts.read_value(f"{7:0200}")[0] == 7.0
    counts.close()


def test_without_room_for_more_it_goes_on_from_what_there_was(path, monkeypatch):
    counts = ReservedDict(str(path))
    fill(counts, 10)
    before = values(path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    fill(counts)
    assert not counts.shared
    assert {at: counts.read_value(f"{at:0200}")[0] for at in range(1000)} == {
        at: float(at) for at in range(1000)
    }
    assert before.items() <= values(path).items()
    counts.close()

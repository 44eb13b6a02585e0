"""Who is blamed for the death of a worker, and who is not."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ringstats_ts.model import Payload, Token
from webapp import multiprocess, notes
from webapp.killed import Judge
from webapp.notes import IDLE, KEPT_BYTES, READING, WAITING, Note, Notes

PAYLOAD = Payload(
    b"",
    received_at=datetime(2026, 1, 1, tzinfo=UTC),
    source="json",
    sender="192.0.2.7",
    token=Token(1, "abc", "web-*", frozenset({"ingest"})),
)


@pytest.fixture
def shared(tmp_path, monkeypatch):
    monkeypatch.setenv(multiprocess.VARIABLE, str(tmp_path))
    notes.begin()
    return tmp_path


def begun(body=b"body", reads=True):
    note = Note()
    note.begin(PAYLOAD, body)
    if reads:
        note.reads()
    return note


def left():
    (path,) = notes.directory("notes").iterdir()
    return notes.left(path, body=True)


class TestNote:
    def test_tells_what_was_sent(self, shared):
        begun(reads=False)
        found = left()
        assert (found.phase, found.digest, found.size) == (WAITING, notes.digest_of(b"body"), 4)
        assert found.payload() == Payload(
            **{f: getattr(PAYLOAD, f) for f in PAYLOAD.__slots__} | {"body": b"body"}
        )

    def test_tells_what_it_is_at(self, shared):
        note = begun()
        assert left().phase == READING
        note.waits()
        assert left().phase == WAITING
        with note:
            pass
        assert left() is None

    def test_keeps_no_more_than_a_reject_does(self, shared):
        with begun(bytes(KEPT_BYTES)):
            assert len(left().body) == KEPT_BYTES
        assert sum(file.stat().st_size for file in (shared / "notes").iterdir()) < 1000
        begun(bytes(KEPT_BYTES + 1))
        assert (left().size, left().body) == (KEPT_BYTES + 1, None)
        assert left().digest == notes.digest_of(bytes(KEPT_BYTES + 1))

    def test_outside_of_gunicorn_there_is_none(self, monkeypatch):
        monkeypatch.delenv(multiprocess.VARIABLE, raising=False)
        with begun():
            assert not Notes().refused(b"body")

    def test_a_full_disk_stops_no_document(self, shared, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        monkeypatch.setattr(os, "pwritev", full)
        with begun():
            pass


def test_a_body_is_refused_for_an_hour(shared, monkeypatch):
    ours = Notes()
    marker = shared / "refused" / notes.digest_of(b"a")
    assert not ours.refused(b"a")
    marker.touch()
    assert ours.refused(b"a")
    assert not ours.refused(b"b")
    hour = notes.REFUSED_SECONDS
    now = marker.stat().st_mtime
    monkeypatch.setattr("time.time", lambda: now + hour + 1)
    assert not ours.refused(b"a")


class TestJudge:
    """By itself: tests/faults/test_killed.py has real workers."""

    def dead(self, shared, **bodies):
        """The pid of a dead worker, and the notes that it left: phase and seconds since."""
        pid = 2**22 + 1
        for number, (body, (phase, seconds)) in enumerate(bodies.items()):
            begun(body.encode())
            (path,) = (
                file for file in (shared / "notes").iterdir() if file.name.startswith(str(os.getpid()))
            )
            data = bytearray(path.read_bytes())
            found = notes.left(path)
            notes._HEAD.pack_into(data, 0, phase, found.thread, found.since - seconds, found.cpu)
            path.write_bytes(data)
            path.rename(path.with_name(f"{pid}-{number}"))
        return pid

    def blamed(self, judge, pid):
        return {one.digest for one in judge.bury(pid)}

    def test_blames_what_was_read_for_long(self, shared):
        pid = self.dead(shared, a=(READING, 4), b=(READING, 1), c=(WAITING, 9), d=(IDLE, 9))
        assert self.blamed(Judge(), pid) == {notes.digest_of(b"a")}
        assert sorted(file.name.partition("-")[0] for file in (shared / "killed").iterdir()) == [
            "failed",
            "failed",
            "rejected",
        ]
        assert list((shared / "notes").iterdir()) == []
        assert [file.name for file in (shared / "refused").iterdir()] == [notes.digest_of(b"a")]

    def test_blames_what_was_there_three_times(self, shared):
        judge = Judge()
        for number, others in enumerate(({"b": (READING, 0)}, {"c": (WAITING, 0)}, {"d": (READING, 0)})):
            blamed = self.blamed(judge, self.dead(shared, a=(READING, 0), **others))
            assert blamed == ({notes.digest_of(b"a")} if number == 2 else set())

    def test_looks_at_the_processor_while_there_is_one(self, shared):
        """Of a worker without a heartbeat, all threads have been at their bodies for long."""
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

        class Arbiter:
            def kill_worker(self, pid, number):
                os.kill(pid, 9)

        arbiter, judge = Arbiter(), Judge()
        judge.watch(arbiter)
        try:
            for worker, blamed in ((busy, {notes.digest_of(b"a")}), (idle, set())):
                self.dead(shared, a=(READING, 30))
                (path,) = (shared / "notes").iterdir()
                data = bytearray(path.read_bytes())
                notes._HEAD.pack_into(data, 0, READING, worker.pid, 0.0, 0.0)
                path.write_bytes(data)
                path.rename(path.with_name(f"{worker.pid}-0"))
                while worker is busy and notes_cpu(worker.pid) < 0.3:
                    pass
                arbiter.kill_worker(worker.pid, 6)
                worker.wait()
                assert self.blamed(judge, worker.pid) == blamed
        finally:
            busy.kill(), idle.kill()

    def test_keeps_the_number_of_the_refused_bounded(self, shared, monkeypatch):
        monkeypatch.setattr("webapp.killed.MOST_REFUSED", 2)
        for body in "abcd":
            Judge().bury(self.dead(shared, **{body: (READING, 9)}))
        assert len(list((shared / "refused").iterdir())) == 2


def notes_cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")

"""gzip that is damaged, disguised, or out to fill the memory."""

import gzip
import json
import zlib
from pathlib import Path

import pytest

from ringstats_ts.config import Config
from tests.conftest import status_document
from tests.hostile.intake import MIB, forget_peaks, peaks, processor_seconds
from tests.service import Server

DOCUMENT = status_document("hostile", {"db": 1000})
BODY = json.dumps(DOCUMENT).encode()
PACKED = gzip.compress(BODY, mtime=0)
SMALL = {"BackendState": "Running", "Self": {"ID": "n1CNTRL", "HostName": "gzip"}}
SMALL_PACKED = gzip.compress(json.dumps(SMALL).encode(), mtime=0)
NAMED = {"Content-Encoding": "gzip"}

LIMIT = Config.from_env({}).max_document_bytes
GROWTH = LIMIT + 32 * MIB
SECONDS = 5
"""Of processor time. It takes a tenth of a second."""


def packed_zeros(size):
    packer = zlib.compressobj(9, wbits=31)
    part = bytes(4 * MIB)
    return b"".join(packer.compress(part) for _ in range(size // len(part))) + packer.flush()


@pytest.fixture(scope="module")
def gigabyte():
    """1 GiB in 1 MB."""
    return packed_zeros(1024 * MIB)


def test_gzip_that_is_cut_anywhere_is_refused(intake):
    with intake.unchanged():
        statuses = {intake.post(SMALL_PACKED[:end], headers=NAMED).status for end in range(len(SMALL_PACKED))}
    assert statuses == {400}
    assert intake.judged(SMALL_PACKED, sent=[SMALL]) == 200


def test_gzip_with_any_byte_changed_is_refused_or_the_same_document(intake):
    changed = [bytearray(SMALL_PACKED) for _ in SMALL_PACKED]
    for at, body in enumerate(changed):
        body[at] ^= 1 << at % 8
    # Its time and system say nothing about the document; all else is checked.
    assert {intake.judged(bytes(body), headers=NAMED, sent=[SMALL]) for body in changed[4:10]} == {200}
    with intake.unchanged():
        assert {intake.post(bytes(body), headers=NAMED).status for body in changed[:4] + changed[10:]} == {
            400
        }


half = len(BODY) // 2
WRAPPED = {
    "members": (gzip.compress(BODY[:half]) + gzip.compress(BODY[half:]), 200),
    "a member a byte": (b"".join(gzip.compress(bytes([byte])) for byte in BODY), 200),
    "empty members": (gzip.compress(b"") * 1000 + PACKED, 200),
    "zeros behind": (PACKED + bytes(1000), 200),
    "stored, not compressed": (gzip.compress(BODY, 0), 200),
    "with a name": (PACKED[:3] + b"\x08" + PACKED[4:10] + b"status.json\0" + PACKED[10:], 200),
    "with a long comment": (PACKED[:3] + b"\x10" + PACKED[4:10] + b"x" * 100_000 + b"\0" + PACKED[10:], 200),
    "a name without end": (PACKED[:3] + b"\x08" + PACKED[4:10] + b"x" * 100_000, 400),
    "text behind": (PACKED + b"garbage", 400),
    "half a member behind": (PACKED + PACKED[:20], 400),
    "a wrong checksum": (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], 400),
    "a wrong length": (PACKED[:-4] + b"\0\0\0\0", 400),
    "nothing inside": (gzip.compress(b""), 400),
    "nothing at all": (b"", 400),
    "the magic alone": (b"\x1f\x8b", 400),
    "zlib": (zlib.compress(BODY), 400),
    "deflate": (zlib.compress(BODY, wbits=-15), 400),
    "not compressed": (BODY, 400),
    "zip": (b"PK\x03\x04" + PACKED, 400),
    "in gzip again": (gzip.compress(PACKED), 415),
}


@pytest.mark.parametrize(("body", "status"), WRAPPED.values(), ids=WRAPPED)
def test_wrapped_in_this_way(intake, body, status):
    assert intake.judged(body, headers=NAMED, sent=[DOCUMENT]) == status


ENCODINGS = {
    "gzip": 200,
    "GZip": 200,
    "x-gzip": 200,
    " gzip ": 200,
    "identity": 200,
    "": 200,
    "gzip, gzip": 415,
    "gzip,": 415,
    "identity, gzip": 415,
    "br": 415,
    "deflate": 415,
    "zstd": 415,
    "compress": 415,
    "none": 415,
    "gzip;q=0": 415,
    "gzip\t": 200,
    "x" * 4000: 415,
}


@pytest.mark.parametrize(("encoding", "status"), ENCODINGS.items())
def test_named_in_this_way(intake, encoding, status):
    assert intake.judged(PACKED, headers={"Content-Encoding": encoding}, sent=[DOCUMENT]) == status


def bombs(gigabyte):
    return {
        "1 GiB": (gigabyte, 413),
        "1 GiB, cut": (gigabyte[:-100], 413),
        "1 GiB in members of 64 KiB": (gzip.compress(bytes(64 * 1024)) * 16_384, 413),
        "10 GiB in gzip": (gzip.compress(gigabyte * 10), 415),
        "1 GiB in gzip in gzip": (gzip.compress(gzip.compress(gigabyte)), 415),
        "all brackets": (gzip.compress(b"[" * (LIMIT - 1)), 413),
        "spaces up to the limit": (gzip.compress(BODY.ljust(LIMIT)), 200),
        "spaces over the limit": (gzip.compress(BODY.ljust(LIMIT + 1)), 413),
    }


needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory from /proc")


@needs_proc
def test_bombs_are_refused_soon_and_in_bounded_memory(intake, gigabyte):
    assert len(gigabyte) < 1.1 * MIB
    for name, (body, status) in bombs(gigabyte).items():
        before = processor_seconds(intake.server)
        growth, answered = grown(intake.server, lambda body=body: intake.judged(body, sent=[DOCUMENT]))
        assert (name, answered) == (name, status)
        assert processor_seconds(intake.server) - before < SECONDS, name
        assert status == 200 or growth <= GROWTH, name


@needs_proc
def test_without_the_bound_a_bomb_fills_the_memory(database_uri, tmp_path):
    """The test above can fail: this is what an ordinary gunzip does."""
    with Server(database_uri, tmp_path, "bounded-inflate", TSSTATS_WORKERS="1") as server:
        growth, _ = grown(server, lambda: server.post(packed_zeros(128 * MIB)))
    assert growth > GROWTH


def grown(server, post):
    """How far the memory of a worker rose above what it had before, and what the answer was."""
    forget_peaks(server)
    before = peaks(server)
    answered = post()
    after = peaks(server)
    return max(after[pid] - before[pid] for pid in before), answered

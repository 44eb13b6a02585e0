"""What is not quite HTTP: answered in our form or not at all, and never stored."""

import json
import re
import socket
import struct
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from tests.conftest import status_document

DOCUMENT = status_document("hostile", {"db": 1000})
BODY = json.dumps(DOCUMENT).encode()
SIZE = len(BODY)
HALF = SIZE // 2


def post(
    *lines, body=BODY, target=b"/?host=hostile", version=b"HTTP/1.1", method=b"POST", host=b"Host: localhost"
):
    """A request with these header lines."""
    head = [method + b" " + target + b" " + version, *([host] if host else []), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def length(size):
    return f"Content-Length: {size}".encode()


CHUNKED = b"Transfer-Encoding: chunked"


def chunks(*texts, end=b"0\r\n\r\n"):
    return b"".join(f"{len(text):x}\r\n".encode() + text + b"\r\n" for text in texts) + end


WHOLE = post(length(SIZE))
TAKEN = {
    "as it should be": (WHOLE, [200]),
    "in chunks": (post(CHUNKED, body=chunks(BODY[:9], BODY[9:])), [200]),
    "a byte a chunk": (post(CHUNKED, body=chunks(*(BODY[at : at + 1] for at in range(SIZE)))), [200]),
    "Chunked": (post(b"Transfer-Encoding: Chunked", body=chunks(BODY)), [200]),
    "chunk extensions": (post(CHUNKED, body=b'%x;a=b;c="d"\r\n' % SIZE + BODY + b"\r\n0;e\r\n\r\n"), [200]),
    "trailers": (post(CHUNKED, body=chunks(BODY, end=b"0\r\nX-Sum: 1\r\n\r\n")), [200]),
    "chunk size with zeros": (post(CHUNKED, body=b"000000%x\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n"), [200]),
    "HTTP/1.0": (post(length(SIZE), version=b"HTTP/1.0", host=None), [200]),
    "pipelined": (WHOLE + post(b"Connection: close", length(SIZE)), [200, 200]),
    "pipelined, the second one is cut": (WHOLE + WHOLE[:-9], [200, 400]),
    "pipelined, the second one is no HTTP": (WHOLE + b"NONSENSE\r\n\r\n", [200, 400]),
    "more than its length": (post(length(SIZE), body=BODY + b"GARBAGE\r\n\r\n"), [200, 400]),
    "more than its chunks": (post(CHUNKED, body=chunks(BODY) + b"GARBAGE\r\n\r\n"), [200, 400]),
    "Expect: 100-continue": (post(length(SIZE), b"Expect: 100-continue"), [100, 200]),
    "an absolute target": (post(length(SIZE), target=b"http://localhost/?host=hostile"), [200]),
    "percent-encoded host": (post(length(SIZE), target=b"/?%68ost=ho%73tile"), [200]),
    "the same value twice": (post(length(SIZE), target=b"/?host=hostile&host=hostile"), [200]),
    "an empty pair": (post(length(SIZE), target=b"/?&&host=hostile&"), [200]),
    "slashes and dots": (post(length(SIZE), target=b"/v1/ingest/tailscale/?host=hostile"), [200]),
    "a Content-Type of a form": (
        post(length(SIZE), b"Content-Type: application/x-www-form-urlencoded"),
        [200],
    ),
    "64 fields": (post(length(SIZE), *[b"X-%d: 1" % number for number in range(62)]), [200]),
    "no Host": (post(length(SIZE), host=None), [200]),
    "two keys, which are one with a comma": (
        post(length(SIZE), b"Idempotency-Key: a", b"Idempotency-Key: b"),
        [200],
    ),
    "a fragment, which nobody reads": (post(length(SIZE), target=b"/#?host=hostile"), [200]),
    "half of a character, which is a name as it is written": (
        post(length(SIZE), target=b"/?host=%c3"),
        [200],
    ),
    "a longer spelling of a slash": (post(length(SIZE), target=b"/?host=%c0%af"), [200]),
    "an encoded surrogate": (post(length(SIZE), target=b"/?host=%ed%a0%80"), [200]),
    "a host in UTF-8": (post(length(SIZE), "Ingest-Host: gerät".encode(), target=b"/"), [200]),
    "the same host in both": (
        post(length(SIZE), "Ingest-Host: gerät".encode(), target=b"/?host=ger%C3%A4t"),
        [200],
    ),
}
REFUSED = {
    "less than its length": (post(length(SIZE + 1)), [400]),
    "half of its length": (post(length(SIZE), body=BODY[:HALF]), [400]),
    "no body": (post(length(SIZE), body=b""), [400]),
    "no length": (post(body=BODY), [400]),
    "a length within it": (post(length(HALF)), [400]),
    "two lengths": (post(length(SIZE), length(HALF)), [400]),
    "two equal lengths": (post(length(SIZE), length(SIZE)), [400]),
    "a list of lengths": (post(b"Content-Length: %d, %d" % (SIZE, SIZE)), [400]),
    "a negative length": (post(length(-1)), [400]),
    "a signed length": (post(b"Content-Length: +%d" % SIZE), [400]),
    "a length in hex": (post(b"Content-Length: 0x%x" % SIZE), [400]),
    "a length with a fraction": (post(b"Content-Length: %d.0" % SIZE), [400]),
    "a length of letters": (post(b"Content-Length: all"), [400]),
    "a length in Arabic": (post("Content-Length: ١".encode()), [400]),
    "an empty length": (post(b"Content-Length:"), [400]),
    "a huge length": (post(b"Content-Length: " + b"9" * 30), [413]),
    "a length over the limit": (post(length(5 * 2**20)), [413]),
    "a length of 5,000 digits": (post(b"Content-Length: " + b"9" * 5000), [400]),
    "a length and chunks": (post(length(SIZE), CHUNKED, body=chunks(BODY)), [400]),
    "chunks and a length": (post(CHUNKED, length(SIZE), body=chunks(BODY)), [400]),
    "chunked twice": (post(CHUNKED, CHUNKED, body=chunks(BODY)), [400]),
    "chunked, chunked": (post(b"Transfer-Encoding: chunked, chunked", body=chunks(BODY)), [400]),
    "chunked, identity": (post(b"Transfer-Encoding: chunked, identity", body=chunks(BODY)), [400]),
    "another coding": (post(b"Transfer-Encoding: xchunked", body=chunks(BODY)), [501]),
    "a space before the colon": (
        post(b"Transfer-Encoding : chunked", length(SIZE), body=chunks(BODY)),
        [400],
    ),
    "chunked by a line ending alone": (post(b"X: 1\nTransfer-Encoding: chunked", body=chunks(BODY)), [400]),
    "chunked in HTTP/1.0": (post(CHUNKED, body=chunks(BODY), version=b"HTTP/1.0"), [400]),
    "chunks that end": (post(CHUNKED, body=chunks(BODY, end=b"")), [400]),
    "a chunk that ends": (post(CHUNKED, body=b"%x\r\n" % SIZE + BODY[:HALF]), [400]),
    "a last chunk without an end": (post(CHUNKED, body=chunks(BODY, end=b"0\r\n")), [400]),
    "a chunk longer than it says": (
        post(CHUNKED, body=b"%x\r\n" % (SIZE - 1) + BODY + b"\r\n0\r\n\r\n"),
        [400],
    ),
    "a chunk shorter than it says": (
        post(CHUNKED, body=b"%x\r\n" % (SIZE + 1) + BODY + b"\r\n0\r\n\r\n"),
        [400],
    ),
    "a negative chunk": (post(CHUNKED, body=b"-1\r\n" + BODY + b"\r\n0\r\n\r\n"), [400]),
    "a signed chunk": (post(CHUNKED, body=b"+%x\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n"), [400]),
    "a chunk of 0x": (post(CHUNKED, body=b"0x%x\r\n" % SIZE + BODY + b"\r\n0\r\n\r\n"), [400]),
    "a chunk of no number": (post(CHUNKED, body=b"xyz\r\n" + BODY + b"\r\n0\r\n\r\n"), [400]),
    "an underscore in a chunk's size": (post(CHUNKED, body=b"1_0\r\n" + BODY + b"\r\n0\r\n\r\n"), [400]),
    "a huge chunk": (post(CHUNKED, body=b"f" * 30 + b"\r\n" + BODY), [400]),
    "a chunk size that does not end": (post(CHUNKED, body=b"0" * 100_000), [400]),
    "an extension that does not end": (post(CHUNKED, body=b"5;" + b"x" * 100_000), [400]),
    "trailers that do not end": (
        post(CHUNKED, body=chunks(BODY, end=b"0\r\n" + b"X: y\r\n" * 20_000)),
        [400],
    ),
    "a folded line": (post(length(SIZE), b"X: a\r\n b"), [400]),
    "a folded length": (post(b"Content-Length:\r\n %d" % SIZE), [400]),
    "NUL in a header": (post(length(SIZE), b"X: a\0b"), [400]),
    "CR in a header": (post(length(SIZE), b"X: a\rb"), [400]),
    "NUL in a header's name": (post(length(SIZE), b"X\0: a"), [400]),
    "a header without a colon": (post(length(SIZE), b"nonsense"), [400]),
    "a header without a name": (post(length(SIZE), b": a"), [400]),
    "a header of 9,000 bytes": (post(length(SIZE), b"X: " + b"x" * 9000), [431]),
    "a header of 1 MB": (post(length(SIZE), b"X: " + b"x" * 1_000_000), [431]),
    "65 fields": (post(length(SIZE), *[b"X-%d: 1" % number for number in range(63)]), [431]),
    "100,000 fields": (post(length(SIZE), *[b"X-%d: 1" % number for number in range(100_000)]), [431]),
    "two hosts": (post(length(SIZE), b"Host: y"), [400]),
    "an unknown expectation": (post(length(SIZE), b"Expect: 200-maybe"), [417]),
    "a target of 5,000 bytes": (post(length(SIZE), target=b"/?host=" + b"x" * 5000), [414]),
    "a target of 1 MB": (post(length(SIZE), target=b"/?host=" + b"x" * 1_000_000), [414]),
    "a target with NUL": (post(length(SIZE), target=b"/?host=a\0b"), [400]),
    "an encoded NUL": (post(length(SIZE), target=b"/?host=a%00b"), [400]),
    "an encoded line end": (post(length(SIZE), target=b"/?host=a%0d%0aX:%20y"), [400]),
    "a right-to-left override": (post(length(SIZE), target=b"/?host=%e2%80%aegnp"), [400]),
    "a host in Latin-1": (post(length(SIZE), "Ingest-Host: gerät".encode("latin-1"), target=b"/"), [400]),
    "an empty host": (post(length(SIZE), target=b"/?host="), [400]),
    "another host": (post(length(SIZE), target=b"/?host=hostile&host=another"), [400]),
    "another host in a header": (post(length(SIZE), b"Ingest-Host: another"), [400]),
    "a parameter nobody knows": (post(length(SIZE), target=b"/?hots=hostile"), [400]),
    "a parameter of SQL": (post(length(SIZE), target=b"/?time=';DROP%20TABLE%20hosts;--"), [400]),
    "a time without end": (post(length(SIZE), target=b"/?time=infinity"), [400]),
    "a time of digits": (post(length(SIZE), target=b"/?time=" + b"9" * 4000), [400]),
    "a time beyond": (post(length(SIZE), target=b"/?time=294276-12-31T00:00:00Z"), [400]),
    "a time before": (post(length(SIZE), target=b"/?time=0001-01-01T00:00:00Z"), [422]),
    "a time at the end": (post(length(SIZE), target=b"/?time=9999-12-31T23:59:59Z"), [422]),
    "a time at the end of another zone": (
        post(length(SIZE), target=b"/?time=9999-12-31T23:59:59-14:00"),
        [400],
    ),
    "1,000 parameters": (post(length(SIZE), target=b"/?" + b"&".join([b"a=1"] * 1000)), [400]),
    "a key with a space": (post(length(SIZE), b"Idempotency-Key: a b"), [400]),
    "a key of 300": (post(length(SIZE), b"Idempotency-Key: " + b"k" * 300), [400]),
    "an empty key": (post(length(SIZE), b"Idempotency-Key:"), [400]),
    "a key in UTF-8": (post(length(SIZE), "Idempotency-Key: é".encode()), [400]),
    "an unknown source": (post(length(SIZE), target=b"/v1/ingest/nosuch"), [404]),
    "a source with SQL": (post(length(SIZE), target=b"/v1/ingest/'%3b--"), [404]),
    "a way up": (post(length(SIZE), target=b"/v1/ingest/../../etc/passwd"), [404]),
    "an encoded way up": (post(length(SIZE), target=b"/v1/ingest/%2e%2e%2f%2e%2e%2fetc"), [404]),
    "a target in UTF-8": (post(length(SIZE), target="/é".encode()), [400]),
    "an empty target": (post(length(SIZE), target=b""), [400]),
    "no slash": (post(length(SIZE), target=b"v1/ingest/tailscale"), [400]),
    "an asterisk": (post(length(SIZE), target=b"*", method=b"OPTIONS"), [404]),
    "CONNECT": (post(length(SIZE), target=b"x:443", method=b"CONNECT"), [421]),
    "PUT": (post(length(SIZE), method=b"PUT"), [405]),
    "PATCH": (post(length(SIZE), method=b"PATCH"), [405]),
    "DELETE": (post(length(SIZE), method=b"DELETE"), [405]),
    "TRACE": (post(length(SIZE), method=b"TRACE"), [405]),
    "post": (post(length(SIZE), method=b"post"), [400]),
    "a method nobody knows": (post(length(SIZE), method=b"BREW"), [405]),
    "a long method": (post(length(SIZE), method=b"X" * 100), [400]),
    "a method in UTF-8": (post(length(SIZE), method="PÖST".encode()), [400]),
    "HTTP/0.9": (b"POST /\r\n" + BODY, [400]),
    "HTTP/2.0": (post(length(SIZE), version=b"HTTP/2.0"), [400]),
    "HTTP/9.9": (post(length(SIZE), version=b"HTTP/9.9"), [400]),
    "HTTPS/1.1": (post(length(SIZE), version=b"HTTPS/1.1"), [400]),
    "HTTP/1.1.1": (post(length(SIZE), version=b"HTTP/1.1.1"), [400]),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "a hello of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n", [400]),
    "a PROXY line": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + WHOLE, [400]),
    "line ends of Unix": (WHOLE.replace(b"\r\n", b"\n"), [400]),
    "two spaces": (
        b"POST  /?host=hostile HTTP/1.1\r\nHost: localhost\r\n" + length(SIZE) + b"\r\n\r\n" + BODY,
        [400],
    ),
    "tabs": (
        b"POST\t/?host=hostile\tHTTP/1.1\r\nHost: localhost\r\n" + length(SIZE) + b"\r\n\r\n" + BODY,
        [400],
    ),
    "a space in front": (b" " + WHOLE, [400]),
    "half a head": (WHOLE[:30], []),
    "half a line": (WHOLE[:8], []),
    "nothing": (b"", []),
    "the body alone": (BODY, []),
    "zeros": (bytes(10_000), [414]),
    "a line without end": (b"x" * 1_000_000, [414]),
}


def answers(connection):
    """The answers on a connection until its end: status and document."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    found = []
    while received:
        head, _, rest = bytes(received).partition(b"\r\n\r\n")
        status, size = int(head.split()[1]), re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if status >= 400:
            assert b"content-type: application/problem+json" in head.lower(), head
        end = int(size[1]) if size else 0
        found.append((status, json.loads(rest[:end] or b"null")))
        received = rest[end:]
    return found


def exchange(intake, sent):
    """The answers to what is sent on one connection, which is then shut for sending."""
    with intake.raw() as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        return answers(connection)


@pytest.mark.parametrize(("sent", "statuses"), TAKEN.values(), ids=TAKEN)
def test_taken(intake, sent, statuses):
    found = exchange(intake, sent)
    assert [status for status, _ in found] == statuses
    for status, receipt in found:
        if status == 200:
            intake.check_kept(SimpleNamespace(json=receipt), [DOCUMENT])


@pytest.mark.parametrize(("sent", "statuses"), REFUSED.values(), ids=REFUSED)
def test_refused(intake, sent, statuses):
    # Another document of that size than the one that is taken: it would be stored.
    with intake.unchanged():
        found = exchange(intake, sent.replace(b"Running", b"Stopped"))
    assert [status for status, _ in found] == statuses
    assert [problem["status"] for _, problem in found] == statuses


RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: the end of a connection is a reset, without a word to what is still on its way."""


@pytest.mark.parametrize(
    "whole", [post(length(SIZE)), post(CHUNKED, body=chunks(BODY))], ids=["length", "chunks"]
)
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_request_that_is_cut_anywhere_is_never_stored(intake, whole, how):
    sent = whole.replace(b"Running", b"Stopped")
    with intake.unchanged():
        for end in [*range(0, len(sent), 53), *range(len(sent) - 8, len(sent))]:
            with intake.raw() as connection:
                connection.sendall(sent[:end])
                if how == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        # Who comes behind them is served when they are done with.
        assert exchange(intake, post(length(2), b"Connection: close", body=b"{}"))[0][0] == 422
        intake.settle()


def test_who_does_not_read_the_answers_holds_nobody_up(intake):
    with intake.raw() as connection:
        connection.settimeout(2)
        with suppress(TimeoutError, OSError):
            for _ in range(2000):
                connection.sendall(b"GET /openapi.yaml HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began = time.monotonic()
        assert intake.server.get("/healthz").status == 200
        assert time.monotonic() - began < 20

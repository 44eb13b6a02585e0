"""Bodies that are too large, cut off or bombs: refused, in bounded memory, and the answer is read."""

import gzip
import re
import socket
import zlib
from io import BytesIO
from pathlib import Path

import pytest

from ringstats_ts.config import Config
from tests.hostile.intake import processor_seconds
from webapp import create_app

LIMIT = Config.from_env({}).max_body_bytes
pytestmark = pytest.mark.usefixtures("clean")


def test_a_chunked_body_over_the_limit_is_refused_not_cut_off(server, body, count):
    # Cut off at the limit this is a valid document, so `get_data()` would store it and answer 200.
    answer = server.post_chunked([body, b" " * LIMIT])
    assert (answer.status, answer.json["errors"][0]["code"]) == (413, "payload-too-large")
    assert (count("receipts"), count("rejects")) == (0, 1)


def test_without_the_loop_a_body_over_the_limit_would_be_cut_off(body, database_uri, count, monkeypatch):
    """The test above can fail: this is what `get_data()` does."""

    def receive(self):
        self._request.max_content_length = LIMIT
        self.raw += self._request.get_data()

    def answer():
        app = create_app(Config.from_env({"DATABASE_URI": database_uri}))
        chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "", "wsgi.input_terminated": True}
        sent = BytesIO(body + b" " * LIMIT)
        return app.test_client().post("/", input_stream=sent, environ_overrides=chunked).status_code

    assert (answer(), count("receipts")) == (413, 0)
    monkeypatch.setattr("webapp.body.Body.receive", receive)
    assert (answer(), count("receipts")) == (200, 1)


def test_a_body_of_the_limit_is_taken(server, body):
    assert server.post(body.ljust(LIMIT)).status == 200
    assert server.post_chunked([body, b" " * (LIMIT - len(body))]).json["duplicate"] is True


def test_the_answer_to_a_body_over_the_limit_reaches_the_client(server, body, count):
    answer = server.post(body.ljust(LIMIT + 1))
    assert (answer.status, answer.json["retryable"]) == (413, False)
    assert str(LIMIT) in answer.json["detail"]
    assert count("receipts") == 0


def _peak_kib(server):
    peaks = (
        re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in server.workers()
    )
    return max(int(peak[1]) for peak in peaks)


@pytest.fixture(scope="module")
def bomb():
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(400)) + packer.flush()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
@pytest.mark.parametrize("named", [True, False])
def test_a_gzip_bomb_is_refused_fast_and_in_bounded_memory(server, bomb, named):
    before = _peak_kib(server)
    before_seconds = processor_seconds(server)
    answer = server.post(bomb, headers={"Content-Encoding": "gzip"} if named else {})
    assert (answer.status, answer.json["errors"][0]["code"]) == (413, "payload-too-large")
    assert processor_seconds(server) - before_seconds < 1
    assert _peak_kib(server) - before < 64 * 1024


def test_a_body_compressed_twice_is_refused(server, body):
    assert server.post(gzip.compress(gzip.compress(body))).status == 415


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_an_unknown_encoding_is_415(server, body, encoding, count):
    answer = server.post(body, headers={"Content-Encoding": encoding})
    assert (answer.status, answer.json["errors"][0]["code"]) == (415, "unsupported-encoding")
    assert count("receipts") == 0


def test_gzip_that_ends_early_or_is_damaged_is_400(server, body):
    packed = gzip.compress(body)
    assert server.post(packed[:-20]).json["errors"][0]["code"] == "truncated-payload"
    assert server.post(packed[:20] + b"\0" * 40).status == 400
    assert server.post(body, headers={"Content-Encoding": "gzip"}).status == 400


@pytest.mark.parametrize(
    "request_text",
    [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n",
    ],
)
def test_a_connection_that_ends_before_the_body_is_400(server, body, request_text, count):
    with server.raw() as connection:
        connection.sendall(request_text + body[:600])
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"truncated-payload" in answer
    assert count("receipts") == 0

"""POST: what is committed, and what the receipt says."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.usefixtures("clean")


def rfc3339(seconds):
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def test_answers_the_receipt_after_the_commit(server, body, connection, now):
    local = datetime.fromtimestamp(now, timezone(timedelta(hours=1)))
    answer = server.post(body, f"/?time={quote(local.isoformat())}&host=edge")
    assert answer.status == 200
    assert answer.content.endswith(b"}\n")
    receipt = answer.json
    with connection.cursor() as cursor:
        cursor.execute("SELECT receipt_id FROM receipts")
        [(receipt_id,)] = cursor.fetchall()
    assert receipt == {
        "id": receipt_id,
        "source": "tailscale",
        "host": "edge",
        "time": rfc3339(now),
        "rows": 3,
        "duplicate": False,
        "warnings": [],
    }
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["ingest-rows"] == "3"
    assert "idempotent-replayed" not in answer.headers


def test_the_same_again_stores_nothing_and_says_so(server, body, count):
    first = server.post(body)
    second = server.post(body)
    assert second.status == 200
    assert second.json == first.json | {"duplicate": True}
    assert second.headers["idempotent-replayed"] == "true"
    assert (count("tailscale_status"), count("tailscale_peers"), count("receipts")) == (1, 2, 1)


def test_takes_a_named_source(server, body):
    assert server.post(body, "/v1/ingest/tailscale").json["source"] == "tailscale"
    assert server.post(body, "/v1/ingest/tailscale/").status == 200


def test_an_unknown_source_is_404_with_the_list(server, body, count):
    answer = server.post(body, "/v1/ingest/nosuch")
    assert answer.status == 404
    assert "tailscale" in answer.json["detail"]
    assert count("receipts") == 0


def test_headers_name_host_and_time(server, body, now):
    receipt = server.post(body, headers={"Ingest-Host": "edge", "Ingest-Time": f"{now}.25"}).json
    assert (receipt["host"], receipt["time"]) == ("edge", rfc3339(now).replace("Z", ".250000Z"))


def test_a_header_that_comes_twice_is_no_name(server, body, count):
    lines = (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIngest-Host: %b\r\nIngest-Host: %b\r\n"
    )
    for second, expected in ((b"db-1", b"400"), (b"web-1", b"200")):
        with server.raw() as connection:
            head = lines % (b"web-1", second) + b"Content-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
            assert connection.makefile("rb").read().split()[1] == expected
    assert count("receipts") == 1


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_the_content_type_plays_no_part(server, body, content_type):
    assert server.post(body, headers={"Content-Type": content_type}).status == 200


def test_ndjson_gives_a_receipt_for_each_document_and_the_sum(server, status, count, now):
    lines = [json.dumps(status(name) | {"_timestamp": rfc3339(now)}) for name in ("a", "b")]
    answer = server.post("\n".join(lines).encode())
    assert answer.status == 200
    whole = answer.json
    documents = whole.pop("documents")
    assert whole == documents[0] | {"rows": 6}
    assert [document["rows"] for document in documents] == [3, 3]
    assert answer.headers["ingest-rows"] == "6"
    assert count("receipts") == 2


def test_one_bad_line_refuses_all_and_is_named(server, body, count, rejects):
    answer = server.post(body + b'\n{"BackendState": 7, "Self"\n')
    assert answer.status == 400
    assert answer.json["errors"][0]["line"] == 2
    assert count("receipts") == 0
    assert [reject[0] for reject in rejects()] == ["truncated-payload"]


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "identity", None])
def test_gzip_is_known_by_name_or_by_its_first_bytes(server, body, encoding):
    headers = {"Content-Encoding": encoding} if encoding else {}
    assert server.post(gzip.compress(body), headers=headers).json["rows"] == 3


def test_chunked_bodies_are_read_whole(server, body):
    pieces = [body[start : start + 100] for start in range(0, len(body), 100)]
    assert server.post_chunked(pieces).json["rows"] == 3
    compressed = gzip.compress(body)
    assert server.post_chunked([compressed[:50], compressed[50:]]).json["duplicate"] is True


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_windows_encodings_are_read(server, body, encoding):
    assert server.post(body.decode().encode(encoding)).json["rows"] == 3


def test_an_idempotency_key_makes_a_retry_safe(server, status, count, now):
    first = server.post(json.dumps(status()), f"/?time={now}", {"Idempotency-Key": "k-1"})
    again = server.post(json.dumps(status()), f"/?time={now}", {"Idempotency-Key": "k-1"})
    assert (first.json["duplicate"], again.json["duplicate"]) == (False, True)
    clash = server.post(json.dumps(status(rx_bytes=5)), f"/?time={now + 60}", {"Idempotency-Key": "k-1"})
    assert (clash.status, clash.json["errors"][0]["code"]) == (422, "conflicting-payload")
    assert count("tailscale_status") == 1


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "schlüssel"])
def test_an_idempotency_key_that_cannot_be_used_is_400(server, body, key, count):
    answer = server.post(body, headers={"Idempotency-Key": key.encode("latin-1")})
    assert (answer.status, answer.json["errors"][0]["code"]) == (400, "bad-parameter")
    assert count("receipts") == 0


def test_a_correction_replaces_only_when_asked(server, status, connection, now):
    server.post(json.dumps(status(rx_bytes=1)), f"/?time={now}")
    other = json.dumps(status(rx_bytes=2))
    assert server.post(other, f"/?time={now}").json["errors"][0]["code"] == "conflicting-payload"
    assert server.post(other, f"/?time={now}&replace=1").json["duplicate"] is False
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(rx_bytes), count(*) FROM tailscale_peers")
        assert cursor.fetchall() == [(2, 2)]


def test_many_at_once_are_all_stored_once(server, status, count, now):
    def send(number):
        body = json.dumps(status(f"host-{number % 4}", rx_bytes=number))
        answers = [server.post(body, f"/?time={now + number}") for _ in range(2)]
        return [(answer.status, answer.json["duplicate"]) for answer in answers]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(send, range(24))) == [[(200, False), (200, True)]] * 24
    assert (count("tailscale_status"), count("tailscale_peers"), count("receipts")) == (24, 48, 24)


def test_one_document_sent_many_times_at_once_is_stored_once(server, body, count, now):
    def send(_):
        return server.post(body, f"/?time={now}", {"Idempotency-Key": "k-1"}).json["duplicate"]

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(send, range(8))) == [False] + [True] * 7
    assert count("tailscale_status") == 1

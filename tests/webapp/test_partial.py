"""`?partial=1`: the good documents of a body are stored, the bad ones are named and kept."""

import json
from collections import Counter

import pytest

pytestmark = pytest.mark.usefixtures("clean")

BIG = 2**70


@pytest.fixture
def documents(status, now):
    """Five documents of one host: good, malformed, unknown, of a long gone year, good."""
    good = [json.dumps(status(rx_bytes=number) | {"_timestamp": now + number}) for number in range(2)]
    old = json.dumps(status() | {"_timestamp": 946684801})
    return [good[0], '{"BackendState": ', "{}", old, good[1]]


def _errors(answer):
    return [(error.get("line"), error.get("pointer"), error["code"]) for error in answer.json["errors"]]


def test_stores_the_good_lines_and_names_the_others(server, documents, count, connection):
    answer = server.post("\n".join(documents).encode(), "/?partial=1&host=edge")
    assert (answer.status, answer.json["type"]) == (422, "/problems/partly-refused")
    assert answer.json["detail"].startswith("3 of 5 documents were refused; the others are stored.")
    assert _errors(answer) == [
        (2, None, "malformed-payload"),
        (3, None, "unknown-source"),
        (4, None, "timestamp-out-of-range"),
    ]
    assert {name: answer.json[name] for name in ("rows", "stored", "duplicate", "rejected")} == {
        "rows": 6,
        "stored": 2,
        "duplicate": 0,
        "rejected": 3,
    }
    assert [receipt["rows"] for receipt in answer.json["documents"]] == [3, 3]
    assert (answer.headers["ingest-rows"], answer.headers["ingest-rejected"]) == ("6", "3")
    assert (count("tailscale_status"), count("receipts")) == (2, 2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT reason, line, host, convert_from(payload, 'UTF8') FROM rejects ORDER BY line")
        kept = cursor.fetchall()
    assert [(reason, line, host) for reason, line, host, _ in kept] == [
        ("malformed-payload", 2, "edge"),
        ("unknown-source", 3, "edge"),
        ("timestamp-out-of-range", 4, "edge"),
    ]
    assert [text.rstrip("\n") for *_, text in kept] == documents[1:4]


def test_an_array_is_taken_element_by_element(server, documents, status, now, count, connection):
    rounded = status(rx_bytes=BIG) | {"_timestamp": now + 9}
    body = json.dumps([json.loads(text) for text in documents if text != documents[1]] + [rounded])
    answer = server.post(body, headers={"Ingest-Partial": "1"})
    assert (answer.status, answer.json["stored"]) == (422, 2)
    assert [(pointer.split("/")[1], code) for _, pointer, code in _errors(answer)] == [
        ("1", "unknown-source"),
        ("2", "timestamp-out-of-range"),
        ("4", "unstorable-payload"),
    ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT convert_from(payload, 'UTF8') FROM rejects ORDER BY reject_id")
        kept = [json.loads(text) for (text,) in cursor.fetchall()]
    assert kept == [json.loads(documents[2]), json.loads(documents[3]), rounded]


def test_the_same_again_stores_nothing_more(server, documents, count):
    body = "\n".join(documents).encode()
    key = {"Idempotency-Key": "k-1"}
    first = server.post(body, "/?partial=1", key)
    again = server.post(body, "/?partial=1", key)
    assert (again.status, again.json["stored"], again.json["duplicate"]) == (422, 0, 2)
    assert [receipt["id"] for receipt in again.json["documents"]] == [
        receipt["id"] for receipt in first.json["documents"]
    ]
    assert count("receipts") == 2


def test_keys_are_by_the_number_of_the_document_so_that_a_corrected_body_may_have_the_same(
    server, documents, status, now, count
):
    key = {"Idempotency-Key": "k-1"}
    server.post("\n".join(documents[1:]).encode(), "/?partial=1", key)
    corrected = [
        json.dumps(status(rx_bytes=50 + number) | {"_timestamp": now + 50 + number}) for number in range(3)
    ]
    answer = server.post("\n".join([*corrected, documents[4]]).encode(), "/?partial=1", key)
    assert answer.status == 200
    assert [receipt["duplicate"] for receipt in answer.json["documents"]] == [False, False, False, True]
    assert count("receipts") == 4


def test_a_document_that_is_refused_by_the_database_leaves_the_others(server, status, now, count):
    bodies = [status(rx_bytes=number) | {"_timestamp": now + number} for number in range(6)]
    server.post(json.dumps(bodies[1]))
    server.post(json.dumps(bodies[4]))
    bodies[1] |= {"Version": "another"}
    bodies[4] |= {"Version": "another"}
    answer = server.post("\n".join(map(json.dumps, bodies)), "/?partial=1")
    assert (answer.status, answer.json["stored"]) == (422, 4)
    assert _errors(answer) == [(2, None, "conflicting-payload"), (5, None, "conflicting-payload")]
    assert (count("receipts"), count("rejects")) == (6, 2)


def test_nothing_wrong_is_200(server, status, now):
    bodies = [json.dumps(status(rx_bytes=number) | {"_timestamp": now + number}) for number in range(2)]
    answer = server.post("\n".join(bodies), "/?partial=1")
    assert (answer.status, len(answer.json["documents"])) == (200, 2)
    assert answer.headers["ingest-rejected"] == "0"


def test_all_wrong_is_422_and_all_are_kept(server, count):
    answer = server.post(b"{}\n{ }\n{", "/?partial=1")
    assert (answer.status, answer.json["stored"], answer.json["rejected"]) == (422, 0, 3)
    assert answer.json["detail"].startswith("All 3 documents were refused.")
    assert count("rejects") == 3


@pytest.mark.parametrize(
    ("body", "status_code", "code"),
    [
        (b"{}", 422, "unknown-source"),
        (b"[]", 400, "empty-payload"),
        (b"", 400, "empty-payload"),
        (b"{\n{\n", 400, "truncated-payload"),
        (b"<html>\n</html>\n", 400, "malformed-payload"),
        (b"[" * 2000 + b"]" * 2000, 400, "malformed-payload"),
        (b"[" + b"[" * 1000 + b"]" * 1000 + b",1]", 422, "unstorable-payload"),
    ],
)
def test_what_is_not_several_documents_is_refused_as_ever(server, body, status_code, code, rejects):
    answer = server.post(body, "/?partial=1")
    assert (answer.status, answer.json["errors"][0]["code"]) == (status_code, code)
    assert [reason for reason, *_ in rejects()] == [code]


def test_no_more_than_a_hundred_errors_are_named(server, count):
    answer = server.post(b"{}\n" * 150, "/?partial=1")
    assert (len(answer.json["errors"]), answer.json["rejected"]) == (100, 150)
    assert count("rejects") == 150


def test_received_is_stored_and_duplicate_and_rejected(start_server, documents, status, now, count):
    server = start_server(TSSTATS_WORKERS="1")
    received = Counter()
    for body, path, held in [
        ("\n".join(documents), "/?partial=1", 5),
        ("\n".join(documents), "/?partial=1", 5),
        ("\n".join(documents[2:]), "/", 3),
        (documents[0], "/", 1),
        (documents[1], "/", 1),
        ("\n".join(documents), "/", 1),
        (json.dumps(status() | {"_timestamp": now + 7}), "/v1/ingest/tailscale", 1),
    ]:
        answer = server.post(body.encode(), path)
        received["all"] += held
        received["rejected"] += int(answer.headers["ingest-rejected"])
    counted = Counter()
    for line in server.get("/metrics").text.splitlines():
        if line.startswith("tsstats_documents_total{"):
            outcome = line.partition('outcome="')[2].partition('"')[0]
            counted[outcome] += int(float(line.rpartition(" ")[2]))
    assert counted == {"stored": 3, "duplicate": 3, "rejected": 11}
    assert sum(counted.values()) == received["all"]
    assert received["rejected"] == counted["rejected"]
    assert count("receipts") == counted["stored"]

"""Secrets by every way in: none is found in any table afterwards, nor in an answer or the log."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from ringstats_ts import shapes
from tests.sources.test_secrets import EACH_VALUE, NAMES, PLAIN, TAIL

SAMPLES = Path(__file__).parents[2] / "samples"
pytestmark = pytest.mark.usefixtures("clean")

BY_NAME = {f"x_{name}": PLAIN for name in NAMES} | {
    f"y_{name}": {"in": [PLAIN, {"key": PLAIN}]} for name in shapes.STEMS
}
NEW = {
    "Named": BY_NAME,
    "Told": EACH_VALUE,
    "Keys": dict.fromkeys(EACH_VALUE, True),
    "Inner": json.dumps(BY_NAME),
}
LEAVES = (PLAIN, TAIL[:16], "IOSFODNN7EXAMPLE", "dXNlcjpodW50ZXIy")
"""What of the secrets must be nowhere."""


def sample(name):
    return json.loads((SAMPLES / name).read_bytes())


def dump(connection):
    """The text of all rows of all tables, bytes as text."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname"
            " NOT IN ('pg_catalog', 'information_schema') AND schemaname NOT LIKE '\\_timescale%'"
        )
        found = []
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT row.*::text FROM {table} AS row")
            found += [f"{table}: {text}" for (text,) in cursor.fetchall()]
        cursor.execute("SELECT encode(payload, 'escape') FROM rejects WHERE payload IS NOT NULL")
        found += [f"payload: {text}" for (text,) in cursor.fetchall()]
        return found


def assert_nowhere(connection, server, *answers):
    for text in (*dump(connection), server.log, *(answer.content.decode() for answer in answers)):
        decoded = re.sub(r"\\\\x((?:[0-9a-f]{2})+)", lambda m: bytes.fromhex(m[1]).decode("latin-1"), text)
        for secret in LEAVES:
            assert secret not in decoded, decoded[max(0, decoded.index(secret) - 200) :][:400]


DOCUMENTS = {
    "json": {"a": 1, **NEW},
    "host": sample("host/status.json") | NEW,
    "tailscale": sample("status.json") | NEW,
    "headscale": sample("headscale/NodeList_all_parity.json") | NEW,
    "devices": {"devices": [device | NEW for device in sample("devices/fields-all.json")["devices"]]},
    "pattoo": sample("pattoo/autonomous-post.json") | NEW,
}


@pytest.mark.parametrize("source", DOCUMENTS)
def test_in_a_document(server, connection, source):
    now = datetime.now(UTC).isoformat()
    answers = [server.post(json.dumps(DOCUMENTS[source]), f"/v1/ingest/{source}?host=s&time={quote(now)}")]
    assert answers[0].status in (200, 422), answers[0].text
    answers.append(server.post(json.dumps([{"a": 1, **NEW}, DOCUMENTS[source]]), "/?partial=1"))
    assert_nowhere(connection, server, *answers)


def test_in_an_entry_of_ringserver(server, connection):
    lines = (SAMPLES / "ringserver/v4.5.3-accesslog.jsonl").read_text().splitlines()[:3]
    entry = json.loads(lines[0]) | NEW
    entry["client"] = entry["client"] | {"user_agent": " ".join(EACH_VALUE[:6])}
    body = "\n".join([*lines, json.dumps(entry), "{" + json.dumps(NEW)[1:-9], ""])
    assert_nowhere(connection, server, server.post(body, "/?host=s"))


def requests():
    for name in (
        *NAMES,
        *(name for name in shapes.PARAMETERS),
        "apikey",
        "X-Amz-Credential",
        "id_token_hint",
        "token[]",
    ):
        encoded = f"%{ord(name[0]):02x}{name[1:]}"
        for query in (
            f"?a=1&{name}={PLAIN}&b=2",
            f"?a=1;{encoded}={PLAIN}",
            f"#{name}={PLAIN}",
            f"?u={quote(f'/?{name}={PLAIN}', safe='')}",
        ):
            yield f"/x{query}", f"https://h.example/y{query}", "curl/8"
    for value in EACH_VALUE:
        if '"' not in value and "\n" not in value:
            yield f"/x/{quote(value, safe='')}/y", f"https://h.example/{quote(value)}", value
    yield "/", f"https://u:{PLAIN}@h.example/x", f"Authorization: Bearer {PLAIN}"


@pytest.mark.parametrize("end", [" 200 5", " broken"])
def test_in_an_access_log(server, connection, end):
    stamp = f"{datetime.now(UTC):%d/%b/%Y:%H:%M:%S} +0000"
    frame = f'192.0.2.1 - - [{stamp}] "GET %s HTTP/1.1"{end} "%s" "%s"\n'
    whole = frame.replace(end, " 200 5") % ("/", "-", "-")
    answer = server.post(whole + "".join(frame % each for each in requests()), "/?host=s")
    assert answer.status == 200, answer.text
    assert_nowhere(connection, server, answer)


HIDDEN = ("https:\\/\\/login.tailscale.com\\/a\\/", "t\\u0073key-auth-")


@pytest.mark.parametrize("cut", [0, 1, 5])
def test_in_what_is_refused(server, connection, cut):
    bodies = [
        json.dumps({"BackendState": 5, "Self": [], **NEW, "deep": json.loads("[" * 70 + "]" * 70)}),
        json.dumps({"a": "\0", **NEW}),
        *('{"a": "\\u0000", "b": "' + head + TAIL + '"}' for head in HIDDEN),
        '{"a": "\\u0000", "Auth\\u0055RL": ["' + PLAIN + '"]}',
        *(
            f"{PLAIN}\tpublic\t51820\n",
            f"7{TAIL}=\t{PLAIN}",
            f"Warning: {PLAIN}\n" + "{}",
            f'"{PLAIN}"',
            f"<{PLAIN}>",
        ),
    ]
    answers = [
        server.post(body[: len(body) - cut], path)
        for body in bodies
        for path in ("/", "/?partial=1", "/?host=s")
    ]
    assert {answer.status for answer in answers} <= {200, 400, 422}
    assert_nowhere(connection, server, *answers)


def test_beside_the_body(server, connection, body):
    token = f"tss_abcdefgh_{TAIL}"
    words = [
        f"/?{name}={value}" for name in ("host", "time", "replace") for value in (token, f"tskey-{TAIL}")
    ]
    words += [f"/?{value}" for value in (token, TAIL, f"{TAIL}=1")]
    paths = [
        f"/{token}",
        f"/v1/ingest/{token}",
        f"/x/%74ss_abcdefgh_{TAIL}",
        f"/{TAIL}",
        f"/a/eyJ{TAIL}.{TAIL}",
    ]
    headers = [{name: token} for name in ("Idempotency-Key", "Ingest-Host", "Request-Id", "Ingest-Time")]
    answers = [server.post(body, path) for path in (*words, *paths)]
    answers += [server.get(path) for path in (*words, *paths)]
    answers += [server.post(body, "/", header) for header in headers]
    assert_nowhere(connection, server, *answers)

"""The canary sings where all is well, and tells what is not."""

import http.client
import http.server
import json
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from ringstats_ts.canary import Canary
from ringstats_ts.identity import new_token
from ringstats_ts.storage.database import Database
from tests.service import Server, free_port


@pytest.fixture(scope="module")
def service(tmp_path_factory, database_uri):
    with Server(database_uri, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def rows(connection):
    """How many rows of all kinds a canary has left."""

    def count(host):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM tailscale_status WHERE host_id = h.host_id),"
                " (SELECT count(*) FROM tailscale_peers WHERE host_id = h.host_id),"
                " (SELECT count(*) FROM tailscale_status_changes WHERE host_id = h.host_id)"
                " FROM hosts AS h WHERE h.name = %s",
                (host,),
            )
            return cursor.fetchone()

    return count


@contextmanager
def between(port, change):
    """Stands before a service, as a proxy that is wrong in some way: `change(headers, ask)` answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))

            def ask(headers):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request("POST", self.path, body, headers)
                response = connection.getresponse()
                found = response.status, response.read()
                connection.close()
                return found

            status, content = change(dict(self.headers), ask)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_all_is_well(tsstats, service, database_uri, rows):
    told = []
    for _ in range(3):
        done = tsstats(
            "canary",
            f"127.0.0.1:{service.port}",
            "--once",
            "--json",
            "--host",
            "bird",
            DATABASE_URI=database_uri,
        )
        assert done.code == 0, done.errors
        told.append(json.loads(done.output))
    assert [found["outcome"] for found in told] == ["ok"] * 3
    assert all(0 < found["post_seconds"] <= found["read_seconds"] < 30 for found in told)
    # One row a round, no peers, and no change after the first.
    assert rows("bird") == (3, 0, 1)


def test_a_marker_that_was_acknowledged_and_not_stored_is_missing(tsstats, service, database_uri):
    answers = []

    def lie(headers, ask):
        at = datetime.now(UTC).isoformat()
        answers.append(at)
        return 200, json.dumps({"id": "1", "time": answers[0], "duplicate": len(answers) > 1}).encode()

    with between(service.port, lie) as url:
        done = tsstats("canary", url, "--once", "--wait", "0.5s", DATABASE_URI=database_uri)
    assert done.code == 1
    assert "missing: The marker of" in done.output


def test_a_marker_that_is_stored_twice_is_a_duplicate(service, database_uri):
    def without_key(headers, ask):
        del headers["Idempotency-Key"]
        # As after the time in which the same content is known again.
        status, content = ask(headers | {"Ingest-Time": datetime.now(UTC).isoformat()})
        return status, content

    with between(service.port, without_key) as url, Database(database_uri) as database:
        found = Canary(url, "twice").round(database)
    assert found.outcome == "duplicate"


def test_a_key_that_is_answered_well_but_stored_twice_is_a_duplicate(service, database_uri):
    """The answers are right; only who reads the database sees it."""
    first = []

    def twice(headers, ask):
        del headers["Idempotency-Key"]
        status, content = ask(headers | {"Ingest-Time": datetime.now(UTC).isoformat()})
        first.append(json.loads(content))
        return status, json.dumps(first[0] | {"duplicate": len(first) > 1}).encode()

    with between(service.port, twice) as url, Database(database_uri) as database:
        found = Canary(url, "secretly").round(database)
    assert (found.outcome, "stored 2 times" in found.detail) == ("duplicate", True)


@pytest.mark.parametrize(
    ("status", "content", "code"),
    [
        (503, b'{"detail": "The database is away."}', 75),
        (429, b"{}", 75),
        (200, b"<html>", 75),
        (401, b'{"detail": "No valid token was sent."}', 65),
        (422, b"{}", 65),
    ],
)
def test_a_refusal_is_told_from_an_outage(tsstats, database_uri, status, content, code):
    with between(0, lambda *_: (status, content)) as url:
        done = tsstats("canary", url, "--once", DATABASE_URI=database_uri)
    assert done.code == code
    assert str(status) in done.output


def test_unreachable_is_75(tsstats, service, database_uri):
    away = f"postgresql://x:secret@127.0.0.1:{free_port()}/x"
    nobody = tsstats("canary", f"127.0.0.1:{free_port()}", "--once", DATABASE_URI=database_uri)
    no_database = tsstats("canary", f"127.0.0.1:{service.port}", "--once", DATABASE_URI=away)
    assert (nobody.code, no_database.code) == (75, 75)
    assert "secret" not in no_database.output + no_database.errors


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:y/", "http://x/?host=y"])
def test_an_address_that_cannot_be_used_is_said_so(tsstats, database_uri, url):
    done = tsstats("canary", url, "--once", DATABASE_URI=database_uri)
    assert (done.code, "cannot be posted to" in done.errors) == (2, True)


@pytest.mark.parametrize("content", [b"", b"tss_secret\nmore", b"\xfftss_secret", b"Authorization: Bearer x"])
def test_a_file_without_a_token_is_said_so_and_not_quoted(tsstats, database_uri, tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    arguments = ("--once", "--token-file", tmp_path / "token")
    done = tsstats("canary", "127.0.0.1:1", *arguments, DATABASE_URI=database_uri)
    assert (done.code, "holds no token" in done.errors, "secret" in done.errors) == (2, True, False)


def test_a_name_that_cannot_be_looked_up_is_75(tsstats, database_uri):
    assert tsstats("canary", "http://a..b/", "--once", DATABASE_URI=database_uri).code == 75


def test_it_posts_with_the_token_and_only_there(tsstats, service, database_uri, tmp_path):
    token = new_token()
    (tmp_path / "token").write_text(f"{token}\n")
    seen = []

    def look(headers, ask):
        seen.append(headers["Authorization"])
        return 401, b"{}"

    with between(0, look) as url:
        done = tsstats("canary", url, "--once", "--token-file", tmp_path / "token", DATABASE_URI=database_uri)
    assert seen == [f"Bearer {token}"]
    assert token not in done.output + done.errors


def test_it_goes_on_and_counts_until_it_is_stopped(tsstats, service, database_uri):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    process = subprocess.Popen(
        tsstats.command(
            "canary",
            f"127.0.0.1:{service.port}",
            "--every",
            "0.2s",
            "--host",
            "on",
            "--listen",
            f"127.0.0.1:{port}",
        ),
        env=tsstats.environment | {"DATABASE_URI": database_uri},
        stdout=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 30
        rounds = 0
        while rounds < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
            try:
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            except OSError:
                continue
            rounds = float(
                re.search(r'^tsstats_canary_rounds_total{outcome="ok"} (.+)$', text, re.MULTILINE)[1]
            )
        assert 'tsstats_canary_rounds_total{outcome="missing"} 0.0' in text
        assert 'tsstats_canary_seconds_count{step="read"}' in text
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output.decode().count(" ok posted in ") >= 3

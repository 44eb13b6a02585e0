"""Who may send and who may read, through a real gunicorn: with tokens and without, good and bad."""

import base64
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from ringstats_ts.config import Config
from ringstats_ts.identity import new_token, read_token
from ringstats_ts.model import Token
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.tokens import StoredToken, add_token, list_tokens, revoke_tokens
from tests.service import START_SECONDS, Service, free_port, handed_over, own_environment
from webapp import auth
from webapp.auth import FAILURES
from webapp.server import CONFIG_FILE

BROWSER = {"Accept": "text/html"}


@pytest.fixture
def database(database_uri, clean):
    with Database(database_uri) as database:
        yield database


@pytest.fixture
def make_token(database):
    def make(hosts="*", *scopes, expires_at=None):
        text = new_token()
        credential = read_token(text)
        add_token(database, credential, hosts=hosts, scopes=scopes or ("ingest",), expires_at=expires_at)
        return text

    return make


@pytest.fixture
def guarded(start_server, clean):
    """A service that needs tokens, and forgets them soon."""
    return start_server(TSSTATS_AUTH="on", TSSTATS_TOKEN_CACHE="1 second", TSSTATS_WORKERS="1")


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def basic(password, user=""):
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def wait_for(status, ask, seconds=10):
    until = time.monotonic() + seconds
    while (answer := ask()).status != status and time.monotonic() < until:
        time.sleep(0.1)
    return answer


class TestNeeded:
    def test_takes_documents_with_a_token_alone(self, guarded, make_token, body, count, rejects):
        refused = guarded.post(body)
        assert (refused.status, refused.json["title"]) == (401, "No valid token was sent.")
        assert (count("receipts"), rejects()) == (0, [])

        for headers in (bearer(make_token("*")), basic(make_token("*"), "user")):
            assert guarded.post(body, headers=headers).status == 200
        lower = {"Authorization": f"bearer {make_token('web-*')}"}
        assert guarded.post(body, headers=lower).status == 200

    def test_says_how_a_token_is_sent(self, guarded):
        with guarded.raw() as connection:
            connection.sendall(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            head = connection.makefile().read().lower()

        assert 'www-authenticate: bearer realm="tsstats"\n' in head
        assert 'www-authenticate: basic realm="tsstats", charset="utf-8"\n' in head

    @pytest.mark.parametrize(
        "header",
        [
            "Bearer",
            "Bearer ",
            "Bearer x",
            "Bearer tss_",
            "Basic",
            "Basic !",
            "Basic Og==",
            "Digest x",
            "tss_x",
            "Bearer \xff",
        ],
    )
    def test_refuses_every_other_header(self, guarded, body, header):
        answer = guarded.post(body, headers={"Authorization": header})

        assert (answer.status, answer.json["retryable"]) == (401, False)

    def test_refuses_wrong_unknown_expired_and_revoked_tokens(self, guarded, make_token, database, body):
        good, other = make_token("a"), make_token("b")
        key_id, secret = good.split("_")[1:3]
        swapped = f"tss_{key_id}_{other.split('_')[2]}"
        expired = make_token("c", expires_at=datetime.now(UTC) - timedelta(seconds=1))
        revoked = make_token("d")
        revoke_tokens(database, [read_token(revoked).key_id])

        for token in (new_token(), with_checksum(swapped), expired, revoked, good[:-1], good.swapcase()):
            answer = guarded.post(body, headers=bearer(token))
            assert answer.status == 401, token
            assert secret not in answer.text

    def test_needs_none_where_nothing_is_told(self, guarded):
        for path in ("/healthz", "/readyz", "/", "/problems/unauthorized", "/static/style.css"):
            assert guarded.get(path).status == 200, path

    def test_shows_the_page_to_readers_alone(self, guarded, make_token):
        assert guarded.get("/", **BROWSER).status == 401
        assert guarded.get("/", **BROWSER | bearer(make_token("*"))).status == 403
        assert guarded.get("/", **BROWSER | basic(make_token("*", "read"))).status == 200

    def test_a_reader_may_not_send(self, guarded, make_token, body, count, rejects):
        answer = guarded.post(body, headers=bearer(make_token("*", "read")))

        assert (answer.status, answer.json["errors"][0]["code"]) == (403, "forbidden")
        assert count("hosts") == 0
        assert rejects() == []

    def test_metrics_are_for_readers(self, guarded, server, make_token):
        assert server.get("/metrics").status == 200
        assert guarded.get("/metrics").status == 401
        assert guarded.get("/metrics", **bearer(make_token("*"))).status == 403
        assert guarded.get("/metrics", **bearer(make_token("*", "read"))).status == 200

    def test_reads_nothing_of_the_body_of_a_stranger(self, guarded):
        with guarded.raw() as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n{")
            connection.settimeout(5)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")

    def test_says_in_the_log_which_token_but_never_its_secret(self, guarded, make_token, body):
        token, wrong = make_token("*"), new_token()
        guarded.post(body, headers=bearer(token))
        guarded.post(body, headers=bearer(wrong))

        assert wait_for_lines(guarded, 2)[-2]["token"] == read_token(token).key_id
        for text in (token, wrong):
            assert text.split("_")[2] not in guarded.log


class TestNotNeeded:
    def test_a_token_that_is_sent_is_verified(self, server, make_token, body, clean):
        assert server.post(body).status == 200
        assert server.post(body, headers=bearer(new_token())).status == 401
        assert server.post(body, headers=basic(new_token())).status == 401
        assert server.get("/", **bearer(new_token())).status == 401
        assert server.get("/", **BROWSER | bearer(make_token("*"))).status == 403
        assert server.post(body, headers=bearer(make_token("db-*"))).status == 403

    def test_a_password_for_a_proxy_in_front_is_none(self, server, body, clean):
        assert server.post(body, headers=basic("password", "user")).status == 200


class TestRecipes:
    """A token in a file, as the README has it: no argument of a command shows it."""

    @pytest.fixture
    def send(self, guarded, body, tmp_path):
        def run(*command):
            if shutil.which(command[0]) is None:
                pytest.skip(f"{command[0]} is not installed")
            (tmp_path / "status.json").write_bytes(body)
            done = subprocess.run(
                [*command, guarded.url], cwd=tmp_path, capture_output=True, timeout=30, check=False
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        return run

    def test_curl_reads_it_from_a_file(self, send, make_token, tmp_path):
        (tmp_path / "headers").write_text(f"Authorization: Bearer {make_token('curl-1')}\n")

        answer = send("curl", "-sS", "--fail", "-H", "@headers", "--data-binary", "@status.json")

        assert answer["host"] == "curl-1"

    def test_wget_reads_it_from_a_file(self, send, make_token, tmp_path):
        (tmp_path / "wgetrc").write_text(f"header = Authorization: Bearer {make_token('wget-1')}\n")

        assert send("wget", "--config=wgetrc", "-qO-", "--post-file=status.json")["host"] == "wget-1"

    def test_curl_sends_it_as_a_password(self, send, make_token):
        answer = send("curl", "-sS", "-u", f":{make_token('user-1')}", "--data-binary", "@status.json")

        assert answer["host"] == "user-1"


class TestHosts:
    """Token A posting as host B: 403, and nothing is stored."""

    def test_a_token_for_one_host_is_that_host(self, guarded, make_token, status, connection):
        headers = bearer(make_token("web-1"))

        for document in (status("web-1"), status("db-1"), status("db-1", Self=None)):
            answer = guarded.post(json.dumps(document), headers=headers)
            assert (answer.status, answer.json["host"]) == (200, "web-1")
            assert "does not name its host" not in answer.text
        with connection.cursor() as cursor:
            cursor.execute("SELECT identity, name FROM hosts")
            assert cursor.fetchall() == [("host:web-1", "web-1")]

    @pytest.mark.parametrize(
        ("path", "more"),
        [
            ("/?host=db-1", {}),
            ("/v1/ingest/tailscale?host=db-1", {}),
            ("/", {"Ingest-Host": "db-1"}),
            ("/?host=WEB-1", {}),
            ("/?host=w%D0%B5b-1", {}),
            ("/?host=web-1%E2%80%8B", {}),
            ("/?host=db-1&replace=1&time=2026-08-01T00:00:00Z", {}),
            ("/?host=db-1", {"Idempotency-Key": "theirs"}),
        ],
    )
    @pytest.mark.parametrize("hosts", ["web-1", "web-*"])
    def test_another_host_cannot_be_named(self, guarded, make_token, body, count, rejects, path, more, hosts):
        answer = guarded.post(body, path, bearer(make_token(hosts)) | more)

        # A character that is not printable is no name for anybody.
        assert answer.status == (400 if "8B" in path else 403), answer.text
        assert (count("hosts"), count("receipts"), count("tailscale_status")) == (0, 0, 0)
        assert len(rejects()) == 1

    def test_a_pattern_holds_every_document(self, guarded, make_token, status, count):
        lines = "\n".join(json.dumps(status(name)) for name in ("web-1", "db-1", "web-2"))

        answer = guarded.post(lines, headers=bearer(make_token("web-*")))

        assert (answer.status, answer.json["errors"][0]["line"]) == (403, 2)
        assert (count("hosts"), count("tailscale_status"), count("tailscale_peers")) == (0, 0, 0)

    def test_a_pattern_takes_hosts_that_match(self, guarded, make_token, status, body):
        headers = bearer(make_token("web-*"))

        assert guarded.post(json.dumps(status("web-7")), headers=headers).json["host"] == "web-7"
        assert guarded.post(body, "/?host=web-8", headers).json["host"] == "web-8"


class TestRevoked:
    """F25: revoked under load."""

    def load(self, server, token, body, seconds):
        """The statuses of posts from four threads, with the time of each."""
        answers, until = [], time.monotonic() + seconds

        def post(number):
            while time.monotonic() < until:
                answer = server.post(body, f"/?host=load-{number}", bearer(token))
                answers.append((answer.status, time.monotonic()))
                time.sleep(0.05)

        threads = [threading.Thread(target=post, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        return threads, answers

    def refused_from(self, server, make_token, database, body):
        token = make_token("*")
        threads, answers = self.load(server, token, body, 6)
        time.sleep(1)
        revoke_tokens(database, [read_token(token).key_id])
        revoked = time.monotonic()
        for thread in threads:
            thread.join()
        taken = [at - revoked for status, at in answers if status == 200]
        assert {status for status, _ in answers} <= {200, 401, 429, 503}
        assert min(taken) < 0
        return max(taken)

    def test_is_refused_as_soon_as_it_is_forgotten(self, guarded, make_token, database, body):
        assert self.refused_from(guarded, make_token, database, body) < 3.5

    def test_would_be_taken_on_without_the_bound(self, start_server, make_token, database, body):
        unbound = start_server(TSSTATS_AUTH="on", TSSTATS_TOKEN_CACHE="1 hour", TSSTATS_WORKERS="1")

        assert self.refused_from(unbound, make_token, database, body) > 3.5

    def test_expires_at_once(self, start_server, make_token, body):
        server = start_server(TSSTATS_AUTH="on", TSSTATS_TOKEN_CACHE="1 hour", TSSTATS_WORKERS="1")
        expires_at = datetime.now(UTC) + timedelta(seconds=5)
        headers = bearer(make_token("*", expires_at=expires_at))

        assert server.post(body, headers=headers).status == 200
        time.sleep(max(0, (expires_at - datetime.now(UTC)).total_seconds()))
        answer = server.post(body, headers=headers)
        assert (answer.status, "is expired" in answer.json["detail"]) == (401, True)


def test_use_is_noted_once_an_hour(guarded, make_token, database, connection, body):
    headers = bearer(make_token("*"))

    def used(ago=None):
        with connection.cursor() as cursor:
            if ago:
                cursor.execute("UPDATE tokens SET last_used_at = now() - %s::interval", (ago,))
        guarded.post(body, headers=headers)
        time.sleep(1.1)
        guarded.post(body, headers=headers)
        return list_tokens(database)[0].last_used_at

    first = used()
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)
    assert used() == first
    assert used("59 minutes") < first - timedelta(minutes=58)
    assert used("61 minutes") > first


class TestDatabaseAway:
    def test_a_known_token_is_known_for_its_time_and_then_is_503(self, start_server, relay, make_token):
        server = start_server(
            relay.uri, TSSTATS_AUTH="on", TSSTATS_TOKEN_CACHE="5 seconds", TSSTATS_WORKERS="1"
        )
        headers = BROWSER | bearer(make_token("*", "read"))
        assert server.get("/", **headers).status == 200

        relay.open = False
        relay.cut()
        within = server.get("/", **headers)
        # The page itself, which may be shown from memory, or say that the database is away.
        assert "ringstats-ts</h1>" in within.text
        time.sleep(5.1)
        after = server.get("/", **headers)
        assert (after.status, after.json["retryable"]) == (503, True)
        assert "retry-after" in after.headers
        assert server.get("/", **BROWSER | bearer("x")).status == 401

        relay.open = True
        assert wait_for(200, lambda: server.get("/", **headers)).status == 200


class TestFailures:
    def test_too_many_are_turned_away_but_not_who_is_known(self, guarded, make_token, body):
        known, later = make_token("*"), make_token("web-*")
        assert guarded.post(body, headers=bearer(known)).status == 200

        statuses = [guarded.post(body, headers=bearer(new_token())).status for _ in range(FAILURES + 3)]

        assert statuses == [401] * FAILURES + [429] * 3
        answer = guarded.post(body, headers=bearer(new_token()))
        assert (answer.status, answer.json["retryable"]) == (429, True)
        assert 30 < int(answer.headers["retry-after"]) <= 75
        assert guarded.post(body).status == 401
        for _ in range(2):
            assert guarded.post(body, headers=bearer(known)).status == 200
            time.sleep(1.1)
        assert guarded.post(body, headers=bearer(later)).status == 200
        assert guarded.post(body, headers=bearer(make_token("w*"))).status == 429

    def test_each_address_has_its_own(self, start_server, make_token, body, clean):
        server = start_server(TSSTATS_AUTH="on", TSSTATS_PROXY_HOPS="1", TSSTATS_WORKERS="1")
        for _ in range(FAILURES + 1):
            server.post(body, headers=bearer("x") | {"X-Forwarded-For": "192.0.2.1"})

        assert server.post(body, headers=bearer("x") | {"X-Forwarded-For": "192.0.2.1"}).status == 429
        assert server.post(body, headers=bearer("x") | {"X-Forwarded-For": "192.0.2.2"}).status == 401

    def test_who_has_many_has_one(self, start_server, body, clean):
        """Of IPv6, a customer chooses from 2 ** 64."""
        server = start_server(TSSTATS_AUTH="on", TSSTATS_PROXY_HOPS="1", TSSTATS_WORKERS="1")
        for number in range(FAILURES):
            server.post(body, headers=bearer("x") | {"X-Forwarded-For": f"2001:db8::{number:x}"})

        assert server.post(body, headers=bearer("x") | {"X-Forwarded-For": "2001:db8::ffff"}).status == 429
        assert server.post(body, headers=bearer("x") | {"X-Forwarded-For": "2001:db8:0:1::1"}).status == 401

    def test_an_unknown_token_is_asked_for_once(self, guarded, connection, body):
        wrong = bearer(new_token())
        statuses = [guarded.post(body, headers=wrong).status for _ in range(3)]

        assert statuses == [401] * 3


def test_a_web_page_may_not_send(server, body, count):
    """A browser asks nobody before it posts plain text to this machine."""
    sent = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    answer = server.post(body, headers=sent)
    assert (answer.status, answer.json["detail"]) == (
        403,
        "A web page may not send documents. Send it with curl, wget or a program.",
    )
    assert count("receipts") == 0


def test_a_revocation_counts_from_the_question_not_the_answer(monkeypatch):
    """The answer of a slow database may be of before it."""
    text, clock, asked = new_token(), [1000.0], []
    credential = read_token(text)
    stored = StoredToken(
        Token(1, credential.key_id, "*", frozenset({"ingest"})),
        credential.digest,
        *(datetime.now(UTC), None, datetime.now(UTC), None),
    )

    def find(*_):
        asked.append(clock[0])
        clock[0] += 10
        return stored

    monkeypatch.setattr(auth, "monotonic", lambda: clock[0])
    monkeypatch.setattr(auth, "find_token", find)
    monkeypatch.setattr(auth, "service", lambda: SimpleNamespace(database=lambda: None))
    gate = auth.Gate(Config.from_env({"TSSTATS_TOKEN_CACHE": "15 seconds"}))
    for clock[0] in (1000.0, 1014.9, 1015.0):
        gate.verify(text, "192.0.2.1", encrypted=True)
    assert asked == [1000.0, 1015.0]


@pytest.mark.parametrize(
    "header",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_a_web_page_may_not_send_with_a_token(start_server, make_token, body, clean, count, header):
    """A browser sends a password that it knows with every request, whosever page makes it."""
    server = start_server(TSSTATS_AUTH="on")
    token = make_token("*")
    for known in (bearer(token), basic(token, "me")):
        assert server.post(body, headers=known | header).status == 403
    assert count("receipts") == 0


class TestPlainHttp:
    def warned(self, server, token, body, **headers):
        sent = {"X-Forwarded-For": "192.0.2.1"} | headers
        for _ in range(3):
            assert server.post(body, headers=bearer(token) | sent).status == 200
        return len(server.log_lines("plain-http"))

    def test_is_warned_of_once(self, start_server, make_token, body):
        server = start_server(TSSTATS_AUTH="on", TSSTATS_PROXY_HOPS="1", TSSTATS_WORKERS="1")
        token = make_token("*")

        assert self.warned(server, token, body, **{"X-Forwarded-For": "127.0.0.1"}) == 0
        assert self.warned(server, token, body, **{"X-Forwarded-Proto": "https"}) == 0
        assert self.warned(server, token, body, **{"X-Forwarded-For": "unknown"}) == 1
        assert self.warned(server, token, body) == 1


class TestStart:
    @pytest.fixture
    def begin(self, tmp_path, database_uri):
        """Runs gunicorn, with an inherited socket if one is given; what it says once it serves or ends."""
        started = []

        def run(listener=None, *words, listen="127.0.0.1:8000", **environment):
            settings = {"DATABASE_URI": database_uri, "TSSTATS_LISTEN": listen, "TSSTATS_UPKEEP": "off"}
            command = [sys.executable, "-m", "gunicorn", "--config", CONFIG_FILE, *words]
            options = {}
            if listener is not None:
                command, options = handed_over(listener, command)
            started.append(service := Service(tmp_path))
            service.launch(command, own_environment(**settings | environment), cwd=tmp_path, **options)
            until = time.monotonic() + START_SECONDS
            while service.process.poll() is None and "Booting worker" not in service.log:
                assert time.monotonic() < until, service.log
                time.sleep(0.05)
            return service.process.poll(), service.log

        yield run
        for service in started:
            service.stop()

    def test_is_refused_on_an_open_address(self, begin):
        code, log = begin(listen=f"0.0.0.0:{free_port()}")

        assert code == 1
        assert "TSSTATS_AUTH=on" in log
        assert "TSSTATS_AUTH=off" in log
        assert "Traceback" not in log
        assert "Booting worker" not in log

    def test_is_refused_where_the_command_line_names_one(self, begin):
        assert begin(None, "--bind", f"0.0.0.0:{free_port()}")[0] == 1

    @pytest.mark.parametrize("auth", ["on", "off"])
    def test_goes_on_where_a_word_was_said(self, begin, auth):
        assert begin(listen=f"0.0.0.0:{free_port()}", TSSTATS_AUTH=auth)[0] is None

    @pytest.mark.parametrize(("host", "code"), [("127.0.0.1", None), ("0.0.0.0", 1)])
    def test_looks_at_inherited_sockets(self, begin, host, code):
        with socket.create_server((host, 0)) as listener:
            found, log = begin(listener)
            assert found == code, log
            assert f":{listener.getsockname()[1]}" in log

    def test_takes_a_unix_socket(self, begin, tmp_path):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "inherited"))
            listener.listen()
            assert begin(listener)[0] is None
        assert begin(None, "--bind", f"unix:{tmp_path}/own")[0] is None

    def test_is_refused_behind_a_proxy(self, begin):
        code, log = begin(listen=f"127.0.0.1:{free_port()}", TSSTATS_PROXY_HOPS="1")

        assert (code, "the proxy in front" in log) == (1, True)

    def test_nobody_names_another_path_through_a_unix_socket(self, begin, tmp_path):
        begin(None, "--bind", f"unix:{tmp_path}/own")

        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "own"))
            connection.sendall(
                b"GET /x/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nSCRIPT_NAME: /x\r\n\r\n"
            )
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 404 ")


def test_readers_of_the_data_do_not_see_tokens(database, make_token):
    make_token("*")

    ((granted,),) = database.run("SELECT has_table_privilege('tsstats_reader', 'tokens', 'SELECT')")
    assert not granted
    with pytest.raises(Exception, match="permission denied for table tokens"):
        database.read("SELECT * FROM tokens")


def with_checksum(head):
    from ringstats_ts.identity import _checksum

    return f"{head}_{_checksum(head)}"


def wait_for_lines(server, number):
    until = time.monotonic() + 30
    while len(lines := server.log_lines()) < number and time.monotonic() < until:
        time.sleep(0.05)
    return lines

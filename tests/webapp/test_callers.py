"""Where no token is needed, the service is for programs of this machine, not for pages and proxies."""

import re

import pytest

from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError
from webapp.callers import is_own_name

PATHS = ("/", "/metrics", "/readyz", "/openapi.yaml", "/problems/busy", "/static/style.css", "/nothing", "//")

STRANGERS = (
    "evil.example:8000",
    "EVIL.example.",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example#localhost",
    "evil.example@localhost",
    "localhost@evil.example",
    "localhost:8000@evil.example",
    "localhost,evil.example",
    "localhost evil.example",
    "evillocalhost",
    "[::1].evil.example",
    "[::1",
    "[::2]:8000",
    "[::ffff:192.0.2.1]",
    "[::1%25lo]",
    "127.0.0.1:8000:80",
    "0.0.0.0:8000",
    "192.168.1.7:8000",
    "100.64.0.1",
    "xn--localhst-e1a",
    "localhost%2eevil.example",
    "loc\xe4lhost",
    "..localhost..",
    ".",
    ":8000",
    "",
)

OWN = (
    "localhost",
    "LocalHost:8000",
    "localhost.:8000",
    "stats.localhost:8000",
    "127.0.0.1:8000",
    "127.8.9.10",
    "[::1]:8000",
    "[::1]",
    "[::ffff:127.0.0.1]:8000",
    "localhost:",
)

WAYS = (
    "X-Forwarded-For",
    "x-forwarded-host",
    "X-Forwarded-Proto",
    "X-Forwarded",
    "X-Forwarded-Client-Cert",
    "X-Original-Forwarded-For",
    "X-Original-Host",
    "Forwarded",
    "Forwarded-For",
    "Via",
    "X-Real-IP",
    "Ngrok-Auth-User-Email",
    "X-Auth-Request-Email",
    "X-Authenticated-User",
    "X-Amz-Cf-Id",
    "X-Cloud-Trace-Context",
    "X-Vercel-Id",
    "X-NF-Request-Id",
    "X-MS-Containerapp-Name",
    "X-Scheme",
    "X-Host",
    "X-Request-Start",
    "X-Client-IP",
    "True-Client-IP",
    "X-Cluster-Client-IP",
    "CF-Connecting-IP",
    "CF-Ray",
    "CDN-Loop",
    "Tailscale-User-Login",
    "Tailscale-Headers-Info",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "X-Azure-ClientIP",
    "X-Envoy-External-Address",
    "X-Amzn-Trace-Id",
    "X-ProxyUser-Ip",
    "Proxy-Client-IP",
    "X-Remote-IP",
    "X-Remote-Addr",
    "X-Originating-IP",
)


@pytest.fixture
def ask(server):
    """The status of a request, with headers as they are."""

    def send(path="/", method="GET", version="1.1", target=None, body=b"", **headers):
        sent = {"Connection": "close", "Content-Length": str(len(body))} | headers
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in sent.items())
        with server.raw() as connection:
            connection.sendall(
                f"{method} {target or path} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + body
            )
            return int(connection.makefile("rb").read().split()[1])

    return send


@pytest.mark.parametrize("path", PATHS)
def test_a_page_whose_name_leads_here_reads_nothing(ask, path):
    assert ask(path, Host="evil.example:8000", Sec_Fetch_Site="same-origin", Accept="text/html") == 421


def test_a_page_whose_name_leads_here_sends_nothing(ask, server, body, clean, count):
    counted = re.compile(r'tsstats_documents_total{outcome="failed",reason="misdirected".*} (.*)')
    before = float((counted.search(server.get("/metrics").text) or ["", 0])[1])
    assert ask(method="POST", body=body, Host="evil.example:8000") == 421
    assert ask("/v1/ingest/tailscale", method="POST", body=body, Host="evil.example") == 421
    assert count("receipts") == count("rejects") == 0
    assert float(counted.search(server.get("/metrics").text)[1]) == before + 2


def test_how_it_is_said(server):
    answer = server.get("/", Host="evil.example")
    assert (answer.status, answer.json["type"]) == (421, "/problems/misdirected")
    assert "TSSTATS_HOSTS" in answer.json["detail"]
    assert "evil" not in answer.text


@pytest.mark.parametrize("host", STRANGERS)
def test_refuses_other_names(ask, host):
    assert ask(Host=host) in (400, 421)
    assert not is_own_name(host, frozenset())


@pytest.mark.parametrize("host", OWN)
def test_answers_to_its_own_names(ask, host):
    assert ask(Host=host) == 200


def test_the_target_counts_as_the_host_does(ask):
    assert ask(target="http://localhost:8000/", Host="localhost") == 200
    assert ask(target="http://evil.example/metrics", Host="localhost") == 421
    assert ask(target="HTTP://localhost@evil.example/", Host="localhost") in (400, 421)
    assert ask(target="http://evil.example?@localhost/", Host="localhost") in (400, 421)


def test_two_hosts_are_refused(server):
    with server.raw() as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        assert int(connection.makefile("rb").read().split()[1]) in (400, 421)


def test_old_programs_may_leave_the_name_out(ask):
    assert ask(version="1.0") == 200


@pytest.mark.parametrize("name", WAYS)
def test_what_a_proxy_brings_is_refused(ask, body, clean, count, name):
    assert ask(method="POST", body=body, **{"Host": "localhost", name: "203.0.113.9"}) == 403
    assert ask("/metrics", **{"Host": "127.0.0.1", name: ""}) == 403
    assert count("receipts") == 0


def test_what_programs_send_is_taken(ask):
    sent = {
        "User-Agent": "curl/8",
        "Accept": "*/*",
        "X-Request-Id": "1",
        "traceparent": "00",
        "TE": "trailers",
    }
    assert ask(Host="localhost", **sent) == 200


def test_a_proxy_that_is_refused_is_told_the_way_out(server):
    answer = server.get("/", **{"Tailscale-User-Login": "a@example.com"})
    assert "TSSTATS_AUTH=on" in answer.json["detail"]


@pytest.mark.parametrize("mode", ["no-cors", "cors", "websocket"])
def test_pages_of_others_may_not_fetch(ask, mode):
    assert ask(Host="localhost", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode=mode) == 403


def test_links_of_others_lead_here(ask):
    assert ask(Host="localhost", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 200
    assert ask(Host="localhost", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate") == 200
    assert ask(Host="localhost", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="no-cors") == 200


def test_health_checks_may_call_it_anything(ask):
    assert ask("/healthz", Host="evil.example", X_Forwarded_For="203.0.113.9") == 200


def test_other_names_can_be_allowed(start_server):
    server = start_server(TSSTATS_HOSTS="Stats.Lan., 192.0.2.7")
    for host, status in (("stats.lan:8000", 200), ("STATS.lan.", 200), ("192.0.2.7", 200), ("web.lan", 421)):
        assert server.get("/", Host=host).status == status


@pytest.mark.parametrize("text", ["stats.lan:8000", "http://stats.lan", "*", "a,,b", "a b"])
def test_names_that_cannot_be_used_are_refused(text):
    with pytest.raises(ConfigError, match="TSSTATS_HOSTS"):
        Config.from_env({"TSSTATS_HOSTS": text})


@pytest.mark.parametrize("auth", ["on", "off"])
def test_where_tokens_are_decided_on_any_name_is_right(start_server, auth):
    server = start_server(TSSTATS_AUTH=auth)
    answer = server.get("/", Host="stats.example.com", **{"X-Forwarded-For": "203.0.113.9"})
    assert answer.status == 200

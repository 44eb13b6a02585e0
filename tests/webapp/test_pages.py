"""GET /: an overview for browsers, without data, with data, and with the database away."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.storage import overview
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.overview import Overview, Reporter, Traffic
from webapp.pages import _ago, _size

BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
pytestmark = pytest.mark.usefixtures("clean")


def test_curl_gets_version_and_how_to_post(server):
    answer = server.get("/", Accept="*/*")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["vary"] == "Accept"
    assert f"curl --data-binary @- {server.url}" in answer.text


def test_an_odd_host_header_is_not_repeated(server):
    assert "rm" not in server.get("/", Host="a$(rm)").text


def test_an_empty_database_shows_how_to_begin(start_server):
    answer = start_server().request("GET", "/", headers=BROWSER)
    assert answer.status == 200
    assert "No document yet" in answer.text
    assert len(answer.content) < 4096


def test_a_browser_gets_the_overview(start_server, status):
    server = start_server()
    now = datetime.now(UTC)
    for minutes, rx_bytes in ((20, 1000), (5, 501_000)):
        sent = json.dumps(status("web-1", rx_bytes, Health=["<b>DNS</b> is away"]))
        assert server.post(sent, f"/?time={(now - timedelta(minutes=minutes)).timestamp():.6f}").status == 200
    old = (now - timedelta(hours=3)).timestamp()
    server.post(json.dumps(status("old-1", BackendState="Stopped")), f"/?time={old:.6f}")
    answer = server.request("GET", "/", headers=BROWSER)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))
    assert answer.status == 200
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert "1 of 2 reporters heard in the last 15 minutes" in page
    assert "2 of 3 nodes online" in page
    assert "&lt;b&gt;DNS&lt;/b&gt; is away web-1" in page
    assert "web-1 tail0example.ts.net Running 1.94.2 1 of 2 5 min ago" in page
    assert "old-1 tail0example.ts.net Stopped 1.94.2 3 h ago silent" in page
    assert "Reporter Received Sent web-1 488 KiB 977 KiB" in page
    assert "Peer Received Sent db-1 488 KiB 977 KiB" in page
    assert server.get("/static/style.css").status == 200


def test_the_overview_is_exact(server, status, database_uri):
    now = datetime.now(UTC)
    times = [now - timedelta(minutes=10), now - timedelta(minutes=1)]
    for time, rx_bytes in zip(times, (100, 350), strict=True):
        server.post(
            json.dumps(status("web-1", rx_bytes, Health=["b", "a"])), f"/?time={time.timestamp():.6f}"
        )
    with Database(database_uri) as database:
        read = overview.read(database, now=now)
        traffic = overview.read_traffic(database, now=now)
    [reporter] = read.reporters
    last_seen = times[1].replace(microsecond=times[1].microsecond)
    assert abs(reporter.last_seen - last_seen) < timedelta(microseconds=2)
    assert read == Overview(
        reporters=[
            Reporter(
                name="web-1",
                tailnet="tail0example.ts.net",
                last_seen=reporter.last_seen,
                silent=False,
                state="Running",
                version="1.94.2-t0a29cf18b-g3f044c9f6",
                peers=2,
                peers_online=1,
            )
        ],
        hosts=1,
        silent_hosts=0,
        nodes_online=2,
        nodes=3,
        health=[("a", ["web-1"]), ("b", ["web-1"])],
    )
    assert (traffic.by_reporter, traffic.by_peer) == (
        [Traffic("web-1", 250, 500)],
        [Traffic("db-1", 250, 500)],
    )


def test_the_page_says_so_when_the_database_is_away(start_server, closed_uri):
    answer = start_server(closed_uri).request("GET", "/", headers=BROWSER)
    assert (answer.status, answer.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert "The database is away" in answer.text
    assert 1 <= int(answer.headers["retry-after"]) <= 5


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")],
)
def test_ago(seconds, said):
    now = datetime(2026, 1, 31, tzinfo=UTC)
    assert _ago(now, now - timedelta(seconds=seconds)) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 40, "5.0 TiB"),
        (2**63 - 1, "8.0 EiB"),
    ],
)
def test_size(count, said):
    assert _size(count) == said

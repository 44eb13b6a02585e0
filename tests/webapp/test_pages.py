"""GET /: an overview for browsers, without data, with data, and with the database away."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.config import Config
from ringstats_ts.storage import overview
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.overview import Overview, Reporter, Traffic
from webapp import create_app
from webapp.pages import _ago, _size

BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
pytestmark = pytest.mark.usefixtures("clean")


def plain(html):
    """The text of a page, in one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def minutes_ago(minutes):
    return f"/?time={(datetime.now(UTC) - timedelta(minutes=minutes)).timestamp():.6f}"


@pytest.fixture
def browse(database_uri):
    """Gets the page from an application in this process; its answer and text."""
    client = create_app(Config.from_env({"DATABASE_URI": database_uri})).test_client()

    def get():
        answer = client.get("/", headers=BROWSER)
        return answer, plain(answer.text)

    return get


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
    page = plain(answer.text)
    assert answer.status == 200
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert "1 of 2 reporters heard in the last 15 minutes" in page
    assert "2 of 3 nodes online" in page
    assert "&lt;b&gt;DNS&lt;/b&gt; is away web-1" in page
    assert (
        "Host Last heard State Peers online Version"
        " old-1 tail0example.ts.net 3 h ago silent was Stopped 1.94.2"
        " web-1 tail0example.ts.net 5 min ago Running 1 of 2 1.94.2 "
    ) in page
    assert "not shown" not in page
    assert "Reporter Received Sent web-1 488 KiB 977 KiB" in page
    assert "Added up over all reporters. Peer Received from it Sent to it db-1 488 KiB 977 KiB" in page
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
                stable_id="nweb-1CNTRL",
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
        [Traffic("web-1", "nweb-1CNTRL", 250, 500)],
        [Traffic("db-1", "ndb-1CNTRL", 250, 500)],
    )


def test_the_most_of_a_tailnet_that_one_reporter_sees_is_counted(server, make_status, database_uri):
    peers = {"a": {"Online": True}, "b": {"Online": True}, "c": {"Online": False}}
    server.post(json.dumps(make_status("sees-four", peers)))
    server.post(json.dumps(make_status("sees-two", {"a": {"Online": False}})))
    with Database(database_uri) as database:
        read = overview.read(database, now=datetime.now(UTC))
    assert (read.nodes_online, read.nodes) == (3, 4)


def test_silent_reporters_come_first_and_both_groups_are_bounded(server, status, browse, monkeypatch):
    monkeypatch.setattr(overview, "SHOWN_REPORTERS", 2)
    heard = {"heard-1": 1, "heard-2": 2, "heard-3": 3}
    silent = {"silent-1": 60, "silent-2": 120, "silent-3": 180, "silent-4": 240}
    for name, minutes in (heard | silent).items():
        assert server.post(json.dumps(status(name)), minutes_ago(minutes)).status == 200
    _, page = browse()
    assert re.findall(r"(?:heard|silent)-\d", page) == ["silent-1", "silent-2", "heard-1", "heard-2"]
    assert "3 more are not shown, 2 of them silent." in page


def test_hosts_and_peers_of_one_name_are_told_apart(server, make_status, browse):
    for minutes, rx_bytes in ((3, 1000), (1, 3000)):
        for number in "12":
            peers = {"db": {"ID": f"nPeer{number}", "RxBytes": rx_bytes, "TxBytes": 0}}
            document = make_status("twin", peers)
            document["Self"]["ID"] = f"nHost{number}"
            document["Self"]["PublicKey"] = f"nodekey:{number:0>64}"
            assert server.post(json.dumps(document), minutes_ago(minutes)).status == 200
    server.post(json.dumps(make_status("single")))
    _, page = browse()
    assert "twin tail0example.ts.net nHost1 1 min ago" in page
    assert "twin tail0example.ts.net nHost2 1 min ago" in page
    assert "single tail0example.ts.net 0 s ago" in page
    assert "Received Sent twin nHost1 2.0 KiB 0 B twin nHost2 2.0 KiB 0 B" in page
    assert "Sent to it db nPeer1 2.0 KiB 0 B db nPeer2 2.0 KiB 0 B" in page


def divide_by_zero(database, *, now):
    database.run("SELECT 1 / 0")


def test_traffic_that_cannot_be_read_leaves_the_rest_of_the_page(server, status, browse, monkeypatch):
    server.post(json.dumps(status("web-1")))
    monkeypatch.setattr(overview, "read_traffic", divide_by_zero)
    for _ in range(2):
        answer, page = browse()
        assert answer.status_code == 200
        assert "1 of 1 reporters heard" in page
        assert "The traffic of the last day could not be added up." in page
        assert "zero" not in page


def test_an_overview_that_cannot_be_read_is_503_without_the_reason(browse, monkeypatch, caplog):
    monkeypatch.setattr(overview, "read", divide_by_zero)
    for _ in range(2):
        answer, page = browse()
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert "The overview could not be read The database refused." in page
        assert "zero" not in page
    assert "division by zero" in caplog.text


def test_a_database_that_is_too_slow_is_not_away(browse, monkeypatch):
    slow = "DO $$ BEGIN RAISE EXCEPTION 'canceled' USING ERRCODE = 'query_canceled'; END $$"
    monkeypatch.setattr(overview, "read", lambda database, now: database.run(slow))
    answer, page = browse()
    assert answer.status_code == 503
    assert "The overview could not be read The database took too long. Nothing was changed" in page
    assert "away" not in page


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

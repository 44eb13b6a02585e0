"""Whose word stands for a node: its own host's, else that of who told first, while that one is heard."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload, Token
from ringstats_ts.storage.changes import settle_nodes
from tests.examples import examples
from tests.test_changes import empty

NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE = timedelta(minutes=1)
ago = {"now": timedelta(0), "a day": timedelta(hours=25), "two days": timedelta(hours=50)}


@pytest.fixture
def take(database, config, make_status):
    """Ingests the status of a host: its own node says `os`, its peers what `peers` tell of them."""

    def take_one(host, at, os="linux", peers=None, *, node=None, **fields):
        status = make_status(node or host, peers=peers or {}, **fields)
        status["Self"]["OS"] = os
        (receipt,) = ingest(Payload(json.dumps(status).encode(), NOW, host=host, time=at), database, config)
        return receipt

    return take_one


@pytest.fixture
def node(database):
    """What is known of a node, and of whom."""

    def read(name):
        found = database.run(
            "SELECT n.os, h.name, n.said_as FROM tailscale_nodes AS n"
            " LEFT JOIN hosts AS h ON h.host_id = n.said_by WHERE n.stable_id = %(id)s",
            {"id": f"n{name}CNTRL"},
        )
        return found[0] if found else None

    return read


def test_its_own_report_stands_before_what_peers_tell(take, node):
    take("gateway", NOW - 9 * MINUTE, peers={"db": {"OS": "bsd"}})
    assert node("db") == ("bsd", "gateway", "peer")
    take("db", NOW - 8 * MINUTE, "linux")
    assert node("db") == ("linux", "db", "own")
    take("gateway", NOW - 7 * MINUTE, peers={"db": {"OS": "pwned"}})
    assert node("db") == ("linux", "db", "own")
    take("db", NOW - 6 * MINUTE, "macOS")
    assert node("db") == ("macOS", "db", "own")


def test_a_peer_that_came_later_does_not_change_what_the_first_tells(take, node):
    take("gateway", NOW - 9 * MINUTE, peers={"db": {"OS": "linux"}})
    take("web", NOW - 8 * MINUTE, peers={"db": {"OS": "pwned"}})
    assert node("db") == ("linux", "gateway", "peer")
    take("gateway", NOW - 7 * MINUTE, peers={"db": {"OS": "macOS"}})
    take("web", NOW - 6 * MINUTE, peers={"db": {"OS": "pwned again"}})
    assert node("db") == ("macOS", "gateway", "peer")


@pytest.mark.parametrize("silent", [False, True])
def test_another_takes_over_when_who_told_was_not_heard_for_a_day(take, node, silent):
    take("gateway", NOW - (ago["a day"] if silent else 23 * 60 * MINUTE), peers={"db": {"OS": "linux"}})
    take("web", NOW, peers={"db": {"OS": "macOS"}})
    assert node("db") == (("macOS", "web", "peer") if silent else ("linux", "gateway", "peer"))


def test_a_node_that_fell_silent_is_told_of_by_peers_and_speaks_again_when_it_is_back(take, node, database):
    take("db", NOW - ago["two days"], "linux")
    take("gateway", NOW - ago["two days"], peers={"db": {"OS": "bsd"}})
    assert node("db") == ("linux", "db", "own")
    take("gateway", NOW - MINUTE, peers={"db": {"OS": "bsd"}})
    # Nothing changed: it is settled by upkeep.
    assert node("db") == ("linux", "db", "own")
    assert [settle_nodes(database), settle_nodes(database)] == [1, 0]
    assert node("db") == ("bsd", "gateway", "peer")
    take("db", NOW, "linux")
    assert [settle_nodes(database), settle_nodes(database)] == [1, 0]
    assert node("db") == ("linux", "db", "own")


def test_the_longest_known_of_those_who_are_heard_takes_over(take, node, database):
    take("gateway", NOW - ago["two days"], peers={"db": {"OS": "a"}})
    for host in ("gone", "web", "ap"):
        take(host, NOW - ago["two days"], peers={"db": {"OS": host}})
    for host in ("ap", "web"):
        take(host, NOW, peers={"db": {"OS": host}})
    assert settle_nodes(database) == 1
    assert node("db") == ("web", "web", "peer")
    assert node("gateway") == ("linux", "gateway", "own")


def test_nobody_claims_a_node_whose_own_host_reports(take, node):
    take("gateway", NOW - 9 * MINUTE, "linux")
    take("evil", NOW - 8 * MINUTE, "pwned", node="gateway")
    assert node("gateway") == ("linux", "gateway", "own")
    take("gateway", NOW - 7 * MINUTE, "macOS")
    assert node("gateway") == ("macOS", "gateway", "own")


def test_a_host_with_a_node_of_its_own_gets_no_other_that_others_speak_for(take, node, database):
    take("web", NOW - 9 * MINUTE, "linux")
    take("gateway", NOW - 8 * MINUTE, peers={"db": {"OS": "linux"}})
    for minute in range(7, 3, -1):
        take("web", NOW - minute * MINUTE, f"pwned {minute}", node="db")
        settle_nodes(database)
    assert node("db") == ("linux", "gateway", "peer")
    take("db", NOW, "macOS")
    assert node("db") == ("macOS", "db", "own")


def test_a_host_that_told_of_a_node_does_not_become_it(take, node):
    take("web", NOW - 9 * MINUTE, "linux", peers={"db": {"OS": "linux"}})
    take("web", NOW - 8 * MINUTE, "pwned", node="db")
    assert node("db")[1:] == ("web", "peer")
    take("db", NOW, "macOS")
    assert node("db") == ("macOS", "db", "own")


def test_a_host_that_logs_in_as_a_new_node_is_that_one(take, node):
    take("web", NOW - 9 * MINUTE, "linux", node="web-old")
    take("web", NOW - 8 * MINUTE, "macOS", node="web-new")
    assert node("web-new") == ("macOS", "web", "own")
    # The old one is nobody's own any more: who lists it may speak for it.
    take("gateway", NOW - 7 * MINUTE, peers={"web-old": {"OS": "bsd"}})
    assert node("web-old") == ("bsd", "gateway", "peer")


def test_a_host_that_logged_out_is_still_its_node(take, node):
    take("web", NOW - 9 * MINUTE, "linux")
    take("web", NOW - 8 * MINUTE, BackendState="NeedsLogin", Self={"HostName": "web", "OS": "linux"})
    take("gateway", NOW - 7 * MINUTE, peers={"web": {"OS": "bsd"}})
    assert node("web") == ("linux", "web", "own")
    take("web", NOW - 6 * MINUTE, "macOS")
    assert node("web") == ("macOS", "web", "own")


def test_numeric_ids_of_two_tailnets_are_two_nodes(take, database):
    for host, tailnet in (("a", "one.example"), ("b", "two.example")):
        take(host, NOW - MINUTE, host, Self={"ID": "1", "HostName": host, "OS": host}, MagicDNSSuffix=tailnet)
    assert database.run("SELECT scope, os, said_as FROM tailscale_nodes ORDER BY 1") == [
        ("one.example", "a", "own"),
        ("two.example", "b", "own"),
    ]
    assert settle_nodes(database) == 0


class TestListing:
    """A listing of the API stands before peers and behind the node's own report."""

    @pytest.fixture
    def list_devices(self, database, config):
        def take(os, *, at=NOW, names=("db", "gateway"), token=None, host="api", **fields):
            devices = [
                {
                    "nodeId": f"n{name}CNTRL",
                    "id": "1",
                    "hostname": name,
                    "name": f"{name}.tail0example.ts.net",
                }
                | {"os": os, "user": "ana@example.com", "clientVersion": "9", "nodeKey": "nodekey:00"}
                | {"tags": ["tag:b", "tag:a"], "addresses": ["100.64.0.1"]}
                | fields
                for name in names
            ]
            body = json.dumps({"devices": devices}).encode()
            ingest(Payload(body, NOW, "devices", host=host, time=at, token=token), database, config)

        return take

    def test_it_stands_before_peers_and_behind_the_own_report(self, take, node, list_devices, database):
        take("gateway", NOW - 9 * MINUTE, peers={"db": {"OS": "bsd"}})
        list_devices("linux", at=NOW - 8 * MINUTE)
        assert (node("db"), node("gateway")) == (("linux", "api", "listing"), ("linux", "gateway", "own"))
        read = "SELECT name, dns_name, tags, version, user_name FROM tailscale_nodes WHERE name = 'db'"
        assert database.run(read) == [
            ("db", "db.tail0example.ts.net.", ["tag:a", "tag:b"], "9", "ana@example.com")
        ]
        take("gateway", NOW - 7 * MINUTE, peers={"db": {"OS": "pwned"}})
        assert node("db") == ("linux", "api", "listing")
        list_devices("macOS", at=NOW - 6 * MINUTE)
        assert node("db") == ("macOS", "api", "listing")
        list_devices("an older one", at=NOW - 8 * MINUTE - MINUTE)
        assert node("db") == ("macOS", "api", "listing")
        take("db", NOW - 5 * MINUTE, "own")
        list_devices("pwned", at=NOW)
        assert node("db") == ("own", "db", "own")

    def test_one_that_stands_is_not_replaced_by_that_of_another_host(self, node, list_devices):
        list_devices("linux", at=NOW - MINUTE)
        list_devices("pwned", host="other")
        assert node("db") == ("linux", "api", "listing")

    def test_peers_speak_when_it_fell_silent(self, take, node, list_devices, database):
        list_devices("linux", at=NOW - ago["a day"])
        take("gateway", NOW, peers={"db": {"OS": "bsd"}})
        assert node("db") == ("bsd", "gateway", "peer")

    @pytest.mark.parametrize("hosts", ["web", "we*"])
    def test_with_a_token_for_some_hosts_it_changes_no_node(self, take, node, list_devices, database, hosts):
        take("gateway", NOW - 9 * MINUTE, peers={"db": {"OS": "linux"}})
        before = database.run("SELECT * FROM tailscale_nodes ORDER BY node_id")
        list_devices("pwned", token=Token(1, "a", hosts, frozenset({"ingest"})), host="web")
        assert database.run("SELECT count(*) FROM tailscale_devices") == [(2,)]
        assert database.run("SELECT * FROM tailscale_nodes ORDER BY node_id") == before

    def test_a_host_that_sends_both_keeps_the_listing(self, take, node, list_devices):
        take("gateway", NOW - 9 * MINUTE, peers={"db": {"OS": "bsd"}})
        list_devices("linux", at=NOW - 8 * MINUTE, host="gateway")
        take("gateway", NOW - 7 * MINUTE, peers={"db": {"OS": "haiku"}})
        assert node("db") == ("linux", "gateway", "listing")


def test_older_samples_of_others_move_nothing(take, database):
    take("gateway", NOW - 9 * MINUTE, peers={"db": {"OS": "linux"}})
    before = database.run("SELECT * FROM tailscale_nodes ORDER BY node_id")
    take("web", NOW - timedelta(days=80), node="gateway", peers={"db": {"OS": "pwned"}})
    assert database.run("SELECT * FROM tailscale_nodes ORDER BY node_id") == before


WORDS = st.lists(
    st.tuples(st.sampled_from(["db", "web", "gateway"]), st.sampled_from(["linux", "macOS", "bsd"])),
    min_size=1,
    max_size=7,
)


@examples(12)
@given(words=WORDS, data=st.data())
def test_in_any_order_of_arrival_the_own_word_stands(database, take, node, words, data):
    words = [("gateway", "first"), *words, ("db", "last")]
    order = data.draw(st.permutations(range(1, len(words))))
    empty(database)
    for index in [0, *order]:
        host, os = words[index]
        at = NOW - timedelta(hours=2) + index * MINUTE
        if host == "db":
            take("db", at, os)
        else:
            take(host, at, peers={"db": {"OS": os}})
    assert node("db") == ("last", "db", "own")


@examples(12)
@given(words=WORDS, data=st.data())
def test_in_any_order_of_arrival_the_word_of_the_first_teller_stands(database, take, node, words, data):
    words = [("gateway", "first"), *((host, os) for host, os in words if host != "db")]
    order = data.draw(st.permutations(range(1, len(words))))
    empty(database)
    for index in [0, *order]:
        host, os = words[index]
        take(host, NOW - timedelta(hours=2) + index * MINUTE, peers={"db": {"OS": os}})
    last = [os for host, os in words if host == "gateway"][-1]
    assert node("db") == (last, "gateway", "peer")


class TestLabels:
    """The past keeps the users and tags that it had: case 05."""

    @pytest.fixture
    def told(self, database):
        def read(function, columns, width):
            return database.run(
                f"SELECT {columns}, sum(samples) FROM {function}(%(since)s, %(until)s, %(width)s::interval)"
                f" GROUP BY 1 ORDER BY 1",
                {"since": NOW - timedelta(days=3), "until": NOW + timedelta(hours=1), "width": width},
            )

        return read

    def post(self, database, config, document, token, at):
        body = json.dumps(document).encode()
        ingest(Payload(body, NOW, time=at, token=token), database, config)

    @pytest.mark.parametrize("width", ["1 minute", "5 minutes", "7 minutes", "1 hour", "1 day", "1 month"])
    def test_a_token_for_one_host_moves_no_samples_of_others(
        self, database, config, make_status, told, width
    ):
        scope = frozenset({"ingest"})
        victim, web = Token(1, "a", "gateway", scope), Token(2, "b", "web-1", scope)
        peers = {"db": {"Tags": ["tag:db"], "UserID": 1}, "laptop": {"UserID": 1}}
        honest = make_status(peers=peers)
        for hours in (50, 26, 25, 2, 1):
            self.post(database, config, honest, victim, NOW - timedelta(hours=hours))
        names = database.run("SELECT stable_id, name, user_name, tags FROM tailscale_nodes ORDER BY 1")
        tags, users = (
            told("tailscale_traffic_by_tag", "tag", width),
            told("tailscale_traffic_by_user", "user_name", width),
        )
        assert (tags, users) == ([("tag:db", 5), (None, 5)], [("ana@example.com", 10)])
        lies = make_status(
            peers={
                name: {
                    "HostName": "PWNED",
                    "DNSName": "pwned.evil.ts.net.",
                    "Tags": ["tag:pwned"],
                    "UserID": 666,
                }
                for name in ("db", "laptop")
            },
            User={"666": {"ID": 666, "LoginName": "mallory@evil", "DisplayName": "M"}},
        )
        self.post(database, config, lies, web, NOW)
        found = database.run("SELECT stable_id, name, user_name, tags FROM tailscale_nodes ORDER BY 1")
        assert found == names
        assert (
            told("tailscale_traffic_by_tag", "tag", width) == sorted([*tags[:1], ("tag:pwned", 2)]) + tags[1:]
        )
        assert told("tailscale_traffic_by_user", "user_name", width) == [*users, ("mallory@evil", 2)]

    def test_a_bucket_has_the_labels_of_its_last_sample(self, database, config, make_status):
        start = (NOW - timedelta(days=1)).replace(hour=0, minute=0, second=0)
        token = Token(1, "a", "gateway", frozenset({"ingest"}))
        for minute, tag in ((0, "tag:a"), (10, "tag:a"), (50, "tag:b"), (70, "tag:b"), (130, "tag:c")):
            self.post(
                database, config, make_status(peers={"db": {"Tags": [tag]}}), token, start + minute * MINUTE
            )
        read = "SELECT extract(hour FROM bucket)::integer, tag, samples FROM tailscale_traffic_by_tag"
        window = {"since": start, "until": start + timedelta(hours=3), "cut": start + 30 * MINUTE}
        assert database.run(f"{read}(%(since)s, %(until)s)", window) == [
            (0, "tag:b", 3),
            (1, "tag:b", 1),
            (2, "tag:c", 1),
        ]
        assert database.run(f"{read}(%(since)s, %(cut)s)", window) == [(0, "tag:a", 2)]

    def test_sums_by_tag_and_user_are_those_of_the_traffic(self, database, config, make_status):
        token = Token(1, "a", "gateway", frozenset({"ingest"}))
        for minute, tag in enumerate(("tag:a", None, "tag:b", "tag:a")):
            peers = {name: {"Tags": tag and [tag], "RxBytes": 100 * minute} for name in ("db", "web")}
            self.post(database, config, make_status(peers=peers), token, NOW - 9 * MINUTE + minute * MINUTE)
        window = {"since": NOW - timedelta(hours=1), "until": NOW}
        sums = [
            database.run(
                f"SELECT sum(rx_bytes), sum(samples) FROM {function}(%(since)s, %(until)s, '1 minute')",
                window,
            )
            for function in ("tailscale_traffic", "tailscale_traffic_by_tag", "tailscale_traffic_by_user")
        ]
        assert sums == [[(600, 8)]] * 3

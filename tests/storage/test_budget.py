"""What is new is rationed by host, sender and day; what is known is not."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ringstats_ts.errors import BudgetSpent, PartlyRefused
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload, Shortage, Token
from ringstats_ts.rejects import reject, retry
from ringstats_ts.storage import upkeep
from ringstats_ts.storage.budget import ATTRIBUTES, SERIES, Allowance, Budget
from ringstats_ts.storage.database import Transaction
from ringstats_ts.storage.health import examine
from ringstats_ts.storage.rejects import find_reject, list_rejects

NOW = datetime.now(UTC).replace(microsecond=0)
SOURCES = Path(__file__).parent.parent / "sources"
ALLOWED = Allowance(sender="192.0.2.1", max_hosts=20, new_hosts=3, new_series=10, new_attributes=1000)
TOKEN = Token(7, "key", "*", frozenset({"ingest"}))


@pytest.fixture
def spent(database):
    def rows(what="series"):
        return {
            (level, sender, host): number
            for level, sender, host, number in database.run(
                f"SELECT level, sender, host, {what} FROM budgets WHERE {what} > 0"
            )
        }

    return rows


@pytest.fixture
def buy(database):
    """Buys in a transaction of its own, and makes the hosts."""

    def one(allowance=ALLOWED, *, host="h", hosts=0, series=0, database=database):
        with database.transaction() as transaction:
            budget = Budget(transaction, allowance)
            granted = budget.take(host, SERIES, [1] * series).granted
            if hosts:
                make_hosts(transaction, budget, hosts)
        return granted

    return one


def make_hosts(transaction, budget, hosts):
    budget.take_hosts(["x"] * hosts)
    for _ in range(hosts):
        transaction.query(
            "INSERT INTO hosts (identity, name, first_seen, last_seen)"
            " VALUES (gen_random_uuid(), 'x', now(), now())"
        )


@pytest.mark.parametrize(
    ("payload", "sender"),
    [
        ({"token": TOKEN, "sender": "192.0.2.1"}, "token 7"),
        ({"sender": "192.0.2.1"}, "192.0.2.1"),
        ({"sender": "2001:db8::1:2:3:4"}, "2001:db8::/64"),
        ({"sender": "2001:db8::5"}, "2001:db8::/64"),
    ],
)
def test_a_sender_is_its_token_else_the_network_of_its_address(config, payload, sender):
    config = replace(config, max_hosts=1, new_hosts=2, new_series=3, new_attributes=4)
    assert Allowance.of(Payload(b"", NOW, **payload), config) == Allowance(sender, 1, 2, 3, 4)


def test_counts_what_is_new_at_every_level(buy, spent):
    assert [buy(series=4), buy(series=6, host="i"), buy(replace(ALLOWED, sender="token 7"), series=1)] == [
        4,
        6,
        1,
    ]
    assert spent() == {
        ("all", "", ""): 11,
        ("sender", "192.0.2.1", ""): 10,
        ("host", "192.0.2.1", "h"): 4,
        ("host", "192.0.2.1", "i"): 6,
        ("sender", "token 7", ""): 1,
        ("host", "token 7", "h"): 1,
    }


def test_gives_what_there_is_room_for_and_says_who_ran_out(buy, database):
    assert [buy(series=7), buy(series=5), buy(series=5)] == [7, 3, 0]
    assert [buy(series=10, host=host) for host in "abc"] == [10, 10, 10]
    assert buy(series=2, host="d") == 0
    other = replace(ALLOWED, sender="192.0.2.2")
    assert buy(other, series=2, host="h") == 2
    assert database.rows("spent_budgets") == [
        ("sender", "192.0.2.1", "", 0, 2, 0),
        ("host", "192.0.2.1", "h", 0, 7, 0),
    ]


def test_all_senders_together_have_a_limit_too(buy):
    # 16 times what one host may.
    for number in range(4):
        assert [buy(replace(ALLOWED, sender=str(number)), series=10, host=host) for host in "abcd"] == [
            10
        ] * 4
    assert buy(replace(ALLOWED, sender="more"), series=1) == 0


def test_a_day_begins_anew(buy, database, spent):
    buy(series=10)
    assert buy(series=1) == 0
    database.run("UPDATE budgets SET day = day - 1")
    assert database.rows("spent_budgets") == []
    assert buy(series=4) == 4
    assert spent()["all", "", ""] == 4


def test_refuses_hosts_beyond_those_of_the_sender(buy, spent):
    buy(hosts=2)
    with pytest.raises(
        BudgetSpent, match=r"This sender.*brought 3 new hosts today.*TSSTATS_NEW_HOSTS"
    ) as caught:
        buy(hosts=2)
    assert (caught.value.retryable, caught.value.level, caught.value.what) == (True, "sender", "hosts")
    buy(hosts=1)
    buy(replace(ALLOWED, sender="token 7"), hosts=1)
    assert spent("hosts")["sender", "192.0.2.1", ""] == 3


def test_no_more_hosts_report_than_may_in_all(buy, database):
    allowed = replace(ALLOWED, max_hosts=5)
    for sender, hosts in (("a", 3), ("b", 2)):
        buy(replace(allowed, sender=sender), hosts=hosts)
    with pytest.raises(BudgetSpent, match=r"No more than 5 hosts may report.*TSSTATS_MAX_HOSTS"):
        buy(replace(allowed, sender="c"), hosts=1)
    buy(replace(allowed, sender="c"), series=1)
    buy(None, hosts=1)
    assert database.run("SELECT count(*) FROM hosts") == [(6,)]


def test_a_rolled_back_transaction_has_spent_nothing(database, spent):
    transaction = Transaction(database.connection().cursor(), database.translated)
    Budget(transaction, ALLOWED).take("h", SERIES, [1] * 10)
    transaction.flush()
    assert spent()["all", "", ""] == 10
    database.run("ROLLBACK")
    assert spent() == {}


def test_nothing_new_costs_nothing(buy, database):
    assert buy(replace(ALLOWED, new_hosts=0, new_series=0, max_hosts=0)) == 0
    assert database.run("SELECT count(*) FROM budgets") == [(0,)]


class TestDocuments:
    """What becomes of documents with more that is new than there is room for."""

    @pytest.fixture
    def take(self, database, config):
        def take(document, host="h", *, minute=0, sender="192.0.2.1", new=(100, 10, 10_000), **told):
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            hosts, series, attributes = new
            at = None if minute is None else NOW - timedelta(hours=2) + timedelta(minutes=minute)
            payload = Payload(body, NOW, host=host, time=at, sender=sender, **told)
            own = replace(config, new_hosts=hosts, new_series=series, new_attributes=attributes)
            (receipt,) = ingest(payload, database, own)
            return receipt

        return take

    def test_one_careless_host_does_not_take_what_another_of_its_address_may_make(
        self, take, make_status, database
    ):
        take({f"x{name}": 1 for name in range(11)}, "buggy")
        with pytest.raises(BudgetSpent):
            take({f"y{name}": 1 for name in range(11)}, "buggy", minute=1)
        assert take(make_status(peers={"db": 1}), "gateway").shortages == ()
        assert take({"load_1m": 0.5}, "web-77").rows == 2
        assert database.run("SELECT count(*) FROM series WHERE labels_key = '{}'") == [(11,)]

    def test_what_is_known_is_stored_and_the_rest_left_out_with_a_warning(self, take, database):
        known = {f"k{number}": number for number in range(8)}
        take(known)
        receipt = take(known | {f"n{number}": number for number in range(5)}, minute=1)
        assert receipt.rows == 8 + 2 + 1
        assert receipt.shortages == (Shortage("host", SERIES, 3),)
        (warning,) = receipt.warnings
        assert warning.startswith("Left out what is new in 3 rows. This host has brought 10 new series")
        assert "TSSTATS_NEW_SERIES" in warning
        assert database.run("SELECT count(*) FROM samples") == [(8 + 10,)]

    @pytest.mark.parametrize("told", [{}, {"key": "k"}, {"minute": None}, {"minute": None, "key": "k"}])
    def test_the_document_again_stores_what_was_left_out(self, take, database, told):
        document = {f"n{number}": number for number in range(12)}
        first = take(document, **told)
        assert (first.rows, first.duplicate) == (11, False)
        second = take(document, **told, new=(100, 11, 10_000))
        assert (second.rows, second.duplicate, second.time) == (12, False, first.time)
        third = take(document, **told, new=(100, 12, 10_000))
        assert (third.rows, third.duplicate, third.shortages) == (13, False, ())
        assert take(document, **told).duplicate
        assert database.run("SELECT count(*) FROM samples") == [(12,)]
        assert database.run("SELECT count(*), sum(row_count), sum(short_rows) FROM receipts") == [(1, 13, 0)]

    def test_peers_beyond_the_budget_are_left_out_of_a_status(self, take, make_status, database):
        take(make_status(peers={"db": 1}), new=(100, 3, 10_000))
        receipt = take(make_status(peers={"db": 2, "web": 1, "ap": 1}), minute=1, new=(100, 3, 10_000))
        assert (receipt.rows, receipt.shortages) == (3, (Shortage("host", SERIES, 1),))
        assert database.run("SELECT count(*) FROM tailscale_nodes") == [(3,)]
        assert database.run("SELECT count(*) FROM tailscale_node_changes") == [(3,)]
        assert database.run("SELECT peers FROM tailscale_status ORDER BY time DESC LIMIT 1") == [(3,)]

    def test_a_status_whose_nodes_are_all_new_is_stored_without_them(self, take, make_status, database):
        take({"load": 1}, new=(100, 1, 10_000))
        receipt = take(make_status(peers={"db": 1}), new=(100, 1, 10_000))
        assert receipt.rows == 1
        assert database.run("SELECT node_id, backend_state FROM tailscale_status") == [(None, "Running")]

    def test_the_exit_node_of_the_changes_is_left_out_too(self, take, make_status, database):
        status = make_status(peers={}, ExitNodeStatus={"ID": "nX", "Online": True, "TailscaleIPs": []})
        take(status, new=(100, 1, 10_000))
        assert database.run("SELECT exit_node_id FROM tailscale_status_changes") == [(None,)]

    def test_what_would_be_nothing_is_refused(self, take, database):
        take({f"n{number}": number for number in range(10)})
        for document in ({"x": 1}, {"x": 1, "y": 2}):
            with pytest.raises(BudgetSpent) as caught:
                take(document, minute=1)
            assert (caught.value.level, caught.value.what) == ("host", SERIES)
        assert database.run("SELECT count(*) FROM documents") == [(1,)]

    def test_attributes_beyond_the_budget_are_left_out(self, take, make_status, database):
        take({"n": 1, "text": "x" * 600}, new=(100, 10, 1000))
        receipt = take({"n": 1, "text": "y" * 600}, minute=1, new=(100, 10, 1000))
        assert (receipt.rows, receipt.shortages) == (2, (Shortage("host", ATTRIBUTES, 1),))
        assert receipt.warnings[0].startswith("Left out the attributes of 1 row. ")
        again = take({"n": 1, "text": "y" * 600}, minute=1)
        assert (again.rows, again.duplicate, again.shortages) == (2, False, ())
        assert texts(database) == ["x", "y"]

    def test_known_attributes_are_stored_when_the_budget_is_spent(self, take, database):
        for minute, text in enumerate("xyx"):
            take({"n": 1, "text": text * 600}, minute=minute, new=(100, 10, 1000))
        assert texts(database) == ["x", None, "x"]

    def test_nothing_but_attributes_beyond_the_budget_is_refused(self, take):
        with pytest.raises(BudgetSpent, match="TSSTATS_NEW_ATTRIBUTES"):
            take({"text": "x" * 2000}, new=(100, 10, 1000))

    def test_peers_without_their_attributes_have_their_counters(self, take, make_status, database):
        receipt = take(make_status(peers={"db": 7}), new=(100, 10, 10))
        assert receipt.rows == 2
        assert database.run("SELECT rx_bytes FROM tailscale_peers") == [(7,)]

    def test_of_a_pattoo_post_the_rest_is_stored_when_it_comes_again(self, take, database):
        post = (SOURCES / "pattoo" / "generation-7" / "payload.json").read_bytes()
        everything = take(post, "other", minute=None, sender="192.0.2.9", new=(100, 1000, 100_000)).rows
        database.run("TRUNCATE hosts, receipts, series, samples, documents, budgets CASCADE")
        database.close()
        first = take(post, minute=None, new=(100, 1, 100_000))
        assert (first.rows, first.shortages) == (2, (Shortage("host", SERIES, everything - 2),))
        second = take(post, minute=None, new=(100, 1000, 100_000))
        assert (second.rows, second.duplicate, second.shortages) == (everything - 2, False, ())
        assert take(post, minute=None).duplicate

    def test_an_operator_who_retries_a_reject_is_not_bounded(self, take, database, config):
        take({"n": 1}, new=(100, 1, 10_000))
        payload = Payload(b'{"x": 1}', NOW, host="h", time=NOW, sender="192.0.2.1")
        spent = replace(config, new_series=1)
        with pytest.raises(BudgetSpent) as caught:
            ingest(payload, database, spent)
        reject(payload, caught.value, database, spent)
        (refused,) = list_rejects(database)
        (receipt,) = retry(find_reject(database, refused.reject_id), database, spent, now=NOW)
        assert (receipt.rows, list_rejects(database)) == (2, [])

    def test_files_are_not_bounded(self, take):
        assert take({"a": 1, "b": 2}, new=(1, 1, 10), backfill=True).shortages == ()

    def test_doctor_names_who_ran_out(self, take, database):
        assert self.budgets(database) == (True, "nothing new was turned away today")
        take({"a": 1, "b": 2}, new=(1, 1, 10_000))
        with pytest.raises(BudgetSpent):
            take({"a": 1}, "other", new=(1, 1, 10_000))
        ok, detail = self.budgets(database)
        assert not ok
        assert "host:h from 192.0.2.1 (left out: 1 x new series)" in detail
        assert "192.0.2.1 (left out: 1 x new host)" in detail

    def budgets(self, database):
        (found,) = [finding for finding in examine(database, {}) if finding.subject == "budgets"]
        return found.ok, found.detail

    def test_drift_is_bounded_by_host_and_by_source(self, take, make_status, database, monkeypatch):
        monkeypatch.setattr("ringstats_ts.storage.write.DRIFT_OF_HOST", 150)
        monkeypatch.setattr("ringstats_ts.storage.write.DRIFT_OF_SOURCE", 180)
        for minute in range(3):
            take(make_status(**{f"x{minute}-{n}": 1 for n in range(100)}), minute=minute)
        assert database.run("SELECT count(*) FROM drift") == [(150,)]
        for minute in range(2):
            take(make_status(**{f"y{minute}-{n}": 1 for n in range(100)}), "other", minute=minute)
        assert database.run("SELECT host_id, count(*) FROM drift GROUP BY 1 ORDER BY 1") == [
            (1, 150),
            (2, 30),
        ]

    def test_of_a_partial_body_the_documents_of_other_hosts_are_stored(self, database, config):
        body = b"\n".join(b'{"host": "h%d", "n": 1}' % number for number in range(4))
        with pytest.raises(PartlyRefused) as caught:
            ingest(
                Payload(body, NOW, partial=True, sender="192.0.2.1"), database, replace(config, new_hosts=2)
            )
        assert Counter(type(refusal.error) for refusal in caught.value.refusals) == {BudgetSpent: 2}
        assert [receipt.host for receipt in caught.value.receipts] == ["h0", "h1"]


def texts(database):
    found = database.run(
        "SELECT left(document ->> 'text', 1)"
        " FROM documents JOIN attributes USING (attribute_id) ORDER BY time"
    )
    return [text for (text,) in found]


def test_a_flood_of_names_leaves_the_tables_small_and_others_alone(database, config, make_status):
    config = replace(config, new_hosts=5, new_series=40)
    count = _take(database, config, make_status("good", peers={"db": 1}))
    refused = 0
    for number in range(30):
        peers = {f"p{number}-{peer}": peer for peer in range(10)}
        _take(database, config, make_status("bad", peers=peers), number)
    for number in range(10):
        try:
            _take(database, config, make_status(f"host{number}", peers={}), number)
        except BudgetSpent:
            refused += 1
    assert count == 1
    nodes, hosts = (
        database.run(f"SELECT count(*) FROM {table}")[0][0] for table in ("tailscale_nodes", "hosts")
    )
    assert nodes <= 2 + 40 + 3
    assert (hosts, refused) == (5, 7)
    # Ids are not used up by what is refused.
    assert database.run("SELECT max(node_id) FROM tailscale_nodes")[0][0] <= 55
    for minute in range(1, 4):
        assert _take(database, config, make_status("good", peers={"db": minute}), minute) == 1


def _take(database, config, document, minute=0):
    at = NOW - timedelta(hours=2) + timedelta(minutes=minute)
    return len(ingest(Payload(json.dumps(document).encode(), NOW, time=at), database, config))


def test_old_budgets_are_pruned(database, config, buy, spent):
    buy(series=1)
    database.run("UPDATE budgets SET day = day - 9")
    buy(replace(ALLOWED, sender="token 7"), series=1)
    database.run("UPDATE budgets SET day = day - 9 WHERE sender = '192.0.2.1'")
    upkeep.run_upkeep(database, config)
    assert spent() == {
        ("all", "", ""): 1,
        ("sender", "token 7", ""): 1,
        ("host", "token 7", "h"): 1,
    }

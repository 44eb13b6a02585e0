"""What is new is rationed by sender and day; what is known is not."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.errors import BudgetSpent
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload, Token
from ringstats_ts.rejects import reject
from ringstats_ts.storage import upkeep
from ringstats_ts.storage.budget import Allowance, spend
from ringstats_ts.storage.database import Transaction

NOW = datetime.now(UTC).replace(microsecond=0)
ALLOWED = Allowance(token_id=0, max_hosts=5, new_hosts=3, new_series=10)
TOKEN = Token(7, "key", "*", frozenset({"ingest"}))


@pytest.fixture
def spent(database):
    def rows():
        return database.run("SELECT token_id, hosts, series FROM budgets ORDER BY 1")

    return rows


@pytest.fixture
def buy(database):
    """Spends in a transaction of its own, and makes the hosts."""

    def one(allowance=ALLOWED, *, at=NOW, hosts=0, series=0, database=database):
        with database.transaction() as transaction:
            spend(transaction, allowance, at=at, hosts=hosts, series=series)
            for _ in range(hosts):
                transaction.query(
                    "INSERT INTO hosts (identity, name, first_seen, last_seen)"
                    " VALUES (gen_random_uuid(), 'x', now(), now())"
                )

    return one


def test_the_allowance_is_that_of_the_token_and_the_settings(config):
    config = replace(config, max_hosts=1, new_hosts=2, new_series=3)
    assert Allowance.of(TOKEN, config) == Allowance(7, 1, 2, 3)
    assert Allowance.of(None, config).token_id == 0


def test_counts_what_is_new(buy, spent):
    buy(hosts=1, series=4)
    buy(series=6)
    buy(replace(ALLOWED, token_id=7), hosts=1)
    assert spent() == [(0, 1, 10), (7, 1, 0)]


@pytest.mark.parametrize(
    ("more", "said"),
    [({"hosts": 2}, "more than 3 new hosts"), ({"series": 5}, r"more than 10 new series \(nodes, paths\)")],
)
def test_refuses_what_exceeds_the_day_and_takes_what_does_not(buy, spent, more, said):
    buy(hosts=2, series=6)
    with pytest.raises(BudgetSpent, match=said + " today.*known already are still taken") as caught:
        buy(**more)
    assert caught.value.retryable
    assert spent() == [(0, 2, 6)]
    buy(hosts=1, series=4)
    assert spent() == [(0, 3, 10)]


def test_a_spent_budget_is_that_of_one_sender_and_one_day(buy):
    buy(hosts=3)
    with pytest.raises(BudgetSpent):
        buy(hosts=1)
    buy(series=10)
    buy(replace(ALLOWED, token_id=7), hosts=1)
    buy(at=NOW + timedelta(days=1), hosts=1)


def test_no_more_hosts_report_than_may_in_all(buy, database):
    for token_id, hosts in ((0, 3), (1, 2)):
        buy(replace(ALLOWED, token_id=token_id), hosts=hosts)
    with pytest.raises(BudgetSpent, match="No more than 5 hosts may report.*TSSTATS_MAX_HOSTS"):
        buy(replace(ALLOWED, token_id=2), hosts=1)
    buy(replace(ALLOWED, token_id=2), series=1)
    buy(None, hosts=1)
    assert database.run("SELECT count(*) FROM hosts") == [(6,)]


def test_a_rolled_back_transaction_has_spent_nothing(database, spent):
    database.run("BEGIN")
    spend(
        Transaction(database.connection().cursor(), database.translated), ALLOWED, at=NOW, hosts=3, series=10
    )
    assert spent() == [(0, 3, 10)]
    database.run("ROLLBACK")
    assert spent() == []


def test_nothing_new_costs_nothing(buy, spent):
    buy(replace(ALLOWED, new_hosts=0, new_series=0, max_hosts=0))
    assert spent() == []


def test_a_flood_of_names_leaves_the_tables_small_and_others_alone(database, config, make_status):
    config = replace(config, new_hosts=5, new_series=40)
    count = _take(database, config, make_status("good", peers={"db": 1}))
    refused = 0
    for number in range(30):
        peers = {f"p{number}-{peer}": peer for peer in range(10)}
        try:
            _take(database, config, make_status("bad", peers=peers), number)
        except BudgetSpent:
            refused += 1
    for number in range(10):
        try:
            _take(database, config, make_status(f"host{number}", peers={}), number)
        except BudgetSpent:
            refused += 1
    assert count == 1
    nodes, hosts = (
        database.run(f"SELECT count(*) FROM {table}")[0][0] for table in ("tailscale_nodes", "hosts")
    )
    assert nodes <= 40
    assert hosts <= 5
    assert refused >= 30
    assert database.run("SELECT reason, count(*) FROM rejects GROUP BY 1") == [("budget-spent", refused)]
    # Ids are not used up by what is refused.
    assert database.run("SELECT max(node_id) FROM tailscale_nodes")[0][0] <= 45
    for minute in range(1, 4):
        assert _take(database, config, make_status("good", peers={"db": minute}), minute) == 1


def _take(database, config, document, minute=0):
    payload = Payload(
        json.dumps(document).encode(), NOW, time=NOW - timedelta(hours=2) + timedelta(minutes=minute)
    )
    try:
        return len(ingest(payload, database, config))
    except BudgetSpent as error:
        reject(payload, error, database, config)
        raise


def test_old_budgets_are_pruned(database, config, buy, spent):
    buy(at=NOW - timedelta(days=9), series=1)
    buy(replace(ALLOWED, token_id=7), at=NOW, series=1)
    upkeep.run_upkeep(database, config)
    assert spent() == [(7, 0, 1)]

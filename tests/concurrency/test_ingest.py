"""Documents that come at once are stored as if they had come one after the other."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.storage import store as store_module
from ringstats_ts.storage.database import Database
from tests.threads import at_once

NOW = datetime.now(UTC).replace(microsecond=0)
TIME = NOW - timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def count(database):
    return lambda table="tailscale_peers": database.run(f"SELECT count(*) FROM {table}")[0][0]


@pytest.fixture
def take(database_uri, database, config):
    """Ingests documents on a connection of its own; gives the receipts."""

    def run(*documents, **told):
        body = "\n".join(map(json.dumps, documents)).encode()
        with Database(database_uri) as own:
            return ingest(Payload(body, NOW, **told), own, config)

    return run


def test_copies_of_one_document_are_stored_once(take, count, make_status):
    document = make_status(peers={f"p{i}": i for i in range(20)})
    receipts = []
    at_once([lambda: receipts.extend(take(document, time=TIME))] * 6)
    assert sorted(receipt.duplicate for receipt in receipts) == [False] + [True] * 5
    assert count() == 20
    assert count("receipts") == 1


def test_hosts_with_the_same_new_peers_are_all_stored(take, count, make_status):
    def post(number):
        for minute in range(3):
            document = make_status(f"host{number}", peers={f"p{i}": minute for i in range(30)})
            take(document, time=TIME + minute * MINUTE)

    at_once([lambda number=number: post(number) for number in range(5)])
    assert count() == 5 * 3 * 30
    assert count("tailscale_nodes") == 35


def test_bodies_with_the_same_hosts_in_another_order_do_not_wait_for_each_other(
    take, count, make_status, monkeypatch
):
    # Otherwise the one that is chosen to end a deadlock is tried again.
    monkeypatch.setattr(store_module, "ATTEMPTS", 1)

    def post(step):
        for minutes in range(8):
            hosts = [make_status(f"host{n}", peers={f"p{n}": 1}) for n in range(12)][::step]
            stamp = {"_timestamp": (TIME + minutes * MINUTE).isoformat()}
            take(*(host | stamp for host in hosts))

    at_once([lambda step=step: post(step) for step in (1, -1, 1, -1)])
    assert count() == 8 * 12


def test_bodies_lock_the_hosts_that_they_share_in_one_order(take, make_status, connection, waits):
    """Not in that of the body: two that hold what the other waits for would never end."""
    first, second = make_status("a"), make_status("b")
    # In the table they stand the other way round.
    take(second)
    take(first)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT FROM hosts WHERE name = 'a' FOR UPDATE")
        with waits(lambda: take(second, first)):
            cursor.execute("SELECT FROM hosts WHERE name = 'b' FOR UPDATE NOWAIT")
            cursor.execute("COMMIT")


def test_a_document_sees_what_the_one_before_it_changed(take, count, make_status, open_transaction, waits):
    take(make_status(peers={"db": 1}), time=TIME)
    changes = count("tailscale_node_changes")
    changed = make_status(peers={"db": {"OS": "plan9"}})
    with open_transaction() as hold:
        hold(changed, time=TIME + MINUTE)
        with waits(lambda: take(changed, time=TIME + 2 * MINUTE)) as second:
            hold.commit()
    assert [receipt.duplicate for receipt in second.result] == [False]
    assert count("tailscale_node_changes") == changes + 1


def test_a_copy_waits_for_the_first_and_is_its_duplicate(
    take, count, make_status, open_transaction, waits, monkeypatch
):
    # At the second attempt it would be found by its rows.
    monkeypatch.setattr(store_module, "ATTEMPTS", 1)
    take(make_status(), time=TIME)
    document = make_status(peers={"db": 2000})
    with open_transaction() as hold:
        hold(document, time=TIME + MINUTE)
        with waits(lambda: take(document, time=TIME + MINUTE)) as second:
            hold.commit()
    assert [receipt.duplicate for receipt in second.result] == [True]
    assert count() == 2


@pytest.mark.parametrize("what", ["host", "node", "attributes"])
def test_what_another_transaction_is_making_is_waited_for(
    take, count, make_status, open_transaction, waits, what, monkeypatch
):
    monkeypatch.setattr(store_module, "ATTEMPTS", 1)
    take(make_status("gateway"), make_status("other"))
    first, second = {
        "host": (make_status("new"), make_status("new", peers={"db": 2})),
        "node": (make_status("gateway", {"web": 1}), make_status("other", {"web": 2})),
        "attributes": (make_status("gateway", Extra="x"), make_status("other", Extra="x")),
    }[what]
    before = count("receipts")
    with open_transaction() as hold:
        hold(first, time=TIME)
        with waits(lambda: take(second, time=TIME + MINUTE)) as later:
            hold.commit()
    assert [receipt.duplicate for receipt in later.result] == [False]
    assert count("receipts") == before + 2

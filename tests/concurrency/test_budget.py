"""Senders that spend at once: budgets are not overshot, and nobody waits for ever."""

from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from ringstats_ts.errors import BudgetSpent
from ringstats_ts.storage.budget import SERIES, Allowance, Budget
from ringstats_ts.storage.database import Database
from tests.threads import at_once

ALLOWED = Allowance(sender="0", max_hosts=10, new_hosts=4, new_series=15, new_attributes=1)


def buy_host(transaction, allowance):
    Budget(transaction, allowance).take_hosts(["h"])
    transaction.query(
        "INSERT INTO hosts (identity, name, first_seen, last_seen)"
        " VALUES (gen_random_uuid(), 'x', now(), now())"
    )


@pytest.fixture
def buy(database_uri, database):
    """Buys a host in a transaction of its own."""

    def one(allowance):
        with Database(database_uri) as own, own.transaction() as transaction:
            buy_host(transaction, allowance)

    return one


def test_concurrent_senders_neither_overshoot_nor_wait_for_ever(database_uri, database):
    refused = []

    def run(number):
        allowance = replace(ALLOWED, sender=str(number % 3))
        with Database(database_uri) as own:
            for turn in range(8):
                try:
                    with own.transaction() as transaction:
                        # Several hosts in one transaction, in any order.
                        for host in ("a", "b")[:: 1 if turn % 2 else -1]:
                            Budget(transaction, allowance).take(host, SERIES, [1])
                        buy_host(transaction, allowance)
                except BudgetSpent as error:
                    refused.append(error)

    at_once([lambda number=number: run(number) for number in range(6)])
    assert database.run("SELECT count(*) FROM hosts") == [(10,)]
    assert database.run("SELECT hosts, series FROM budgets WHERE level = 'all'") == [(10, 20)]
    assert len(refused) == 6 * 8 - 10


@pytest.mark.parametrize("taken", [True, False], ids=["committed", "rolled back"])
@pytest.mark.parametrize(
    "allowance",
    [replace(ALLOWED, max_hosts=1), replace(ALLOWED, new_hosts=1)],
    ids=["hosts in all", "hosts of a day"],
)
def test_who_may_be_too_late_waits_for_who_came_first(database_uri, database, buy, waits, allowance, taken):
    other = replace(allowance, sender="7" if allowance.max_hosts == 1 else "0")
    with (
        ExitStack() as stack,
        suppress(RolledBack),
        Database(database_uri) as first,
        first.transaction() as transaction,
    ):
        buy_host(transaction, allowance)
        second = stack.enter_context(waits(lambda: buy(other)))
        if not taken:
            raise RolledBack
    assert type(second.result) is (BudgetSpent if taken else type(None))
    assert database.run("SELECT count(*) FROM hosts") == [(1,)]


def test_of_what_is_left_two_do_not_take_the_same(database_uri, database, waits):
    def take(transaction):
        return Budget(transaction, ALLOWED).take("h", SERIES, [1] * 10).granted

    def take_other():
        with Database(database_uri) as own, own.transaction() as transaction:
            return take(transaction)

    with ExitStack() as stack, Database(database_uri) as first, first.transaction() as transaction:
        assert take(transaction) == 10
        second = stack.enter_context(waits(take_other))
    assert second.result == 5


class RolledBack(Exception):
    """Ends a transaction."""

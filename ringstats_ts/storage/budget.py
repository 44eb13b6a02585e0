"""How much that is new one sender may name: a mistake or an attack cannot fill the dimensions.

Values of hosts and series that are known already cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from ringstats_ts.config import Config
from ringstats_ts.errors import BudgetSpent
from ringstats_ts.model import Token
from ringstats_ts.storage.database import Transaction


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a sender may still make. `token_id` is 0 for all who send no token."""

    token_id: int
    max_hosts: int
    new_hosts: int
    new_series: int

    @classmethod
    def of(cls, token: Token | None, config: Config) -> Allowance:
        """What the settings allow to who sends this token."""
        return cls(
            token_id=token.token_id if token else 0,
            max_hosts=config.max_hosts,
            new_hosts=config.new_hosts,
            new_series=config.new_series,
        )


def spend(
    transaction: Transaction, allowance: Allowance | None, *, at: datetime, hosts: int = 0, series: int = 0
) -> None:
    """Take new hosts and series out of the day's budget; they may be made when it returns.

    Call it before they are made, so that what is refused uses up no ids, and when the
    transaction holds its locks on hosts: the budget's row is locked from here to its end,
    and who waits for another lock behind it could wait for ever. A transaction that is
    rolled back has spent nothing. Without an allowance there is no limit.

    Raises
    ------
    BudgetSpent
        and the transaction is to be rolled back.
    """
    if allowance is None or not (hosts or series):
        return
    day = at.astimezone(UTC).date()
    spent = {"token_id": allowance.token_id, "day": day, "hosts": hosts, "series": series}
    # The row before the lock on hosts, always: no two senders wait for each other.
    ((hosts_today, series_today),) = transaction.rows("spend_budget", spent)
    if hosts and hosts_today > allowance.new_hosts:
        raise _too_many("hosts", allowance.new_hosts, "TSSTATS_NEW_HOSTS")
    if series and series_today > allowance.new_series:
        raise _too_many("series (nodes, paths)", allowance.new_series, "TSSTATS_NEW_SERIES")
    if hosts:
        _check_room(transaction, allowance.max_hosts, hosts)


def _check_room(transaction: Transaction, max_hosts: int, hosts: int) -> None:
    transaction.rows("lock_hosts")
    ((known,),) = transaction.rows("count_hosts", {"limit": max_hosts})
    if known + hosts > max_hosts:
        raise BudgetSpent(
            f"No more than {max_hosts:,} hosts may report.",
            "Hosts that are known already are still taken. Is `host` a name that stays the same? "
            "If so, raise TSSTATS_MAX_HOSTS.",
        )


def _too_many(what: str, limit: int, variable: str) -> BudgetSpent:
    return BudgetSpent(
        f"This sender has named more than {limit:,} new {what} today.",
        f"Values of what is known already are still taken. Try again tomorrow (UTC), or raise {variable}.",
    )

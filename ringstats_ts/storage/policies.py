"""The refresh, columnstore and retention policies: as shipped, as configured, as registered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from ringstats_ts.config import POLICY_PREFIXES, parse_interval
from ringstats_ts.errors import ConfigError
from ringstats_ts.storage.database import Database, Transaction

BUCKETS_PER_BATCH = 500
"""TimescaleDB's own default is 1 in 2.21-2.24, which is 40 times slower."""

_PART = re.compile(r"(start|end|every)\s*=\s*(\d+\s*\w+)")


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. `after` None means never (retention, columnstore)."""

    relation: str
    kind: str
    source: str
    level: int
    after: timedelta | None
    until: timedelta | None
    every: timedelta


def shipped(database: Database) -> list[Policy]:
    """The policies as the migrations ship them, refreshes first and bottom-up."""
    return [Policy(*row) for row in database.rows("policies")]


def configured(database: Database, overrides: Mapping[str, str]) -> list[Policy]:
    """The policies with the environment's overrides.

    `TSSTATS_RETENTION_<RELATION>` and `TSSTATS_COLUMNSTORE_<RELATION>` hold an interval
    or `never`; `TSSTATS_REFRESH_<RELATION>` holds `start=2 days end=5 minutes every=5 minutes`,
    or a part of it.

    Raises
    ------
    ConfigError
        naming the variable.
    """
    policies = {variable(policy): policy for policy in shipped(database)}
    for name, text in overrides.items():
        if name not in policies:
            known = ", ".join(sorted(n for n in policies if n.startswith(_prefix(name))))
            raise ConfigError(f"{name} names no relation with such a policy.", f"There are {known}.")
        policies[name] = _overridden(name, policies[name], text)
    _check(list(policies.values()))
    return list(policies.values())


def differing(database: Database, overrides: Mapping[str, str]) -> list[Policy]:
    """The policies, as configured, that are not registered so."""
    registered = _registered(database)
    return [
        policy
        for policy in configured(database, overrides)
        if registered.get((policy.kind, policy.relation)) != _registration(policy)
    ]


def missing(database: Database) -> list[Policy]:
    """The refreshes that are not registered at all. Of the others each may be `never`."""
    registered = _registered(database)
    return [
        policy
        for policy in shipped(database)
        if policy.kind == "refresh" and (policy.kind, policy.relation) not in registered
    ]


def apply(database: Database, overrides: Mapping[str, str]) -> list[Policy]:
    """Register the policies as configured; those that differed before and were changed."""
    changed = differing(database, overrides)
    with database.transaction() as transaction:
        for policy in changed:
            _register(transaction, policy)
    return changed


def variable(policy: Policy) -> str:
    """The environment variable that overrides the policy."""
    return f"TSSTATS_{policy.kind}_{policy.relation}".upper()


def _prefix(name: str) -> str:
    return next(prefix for prefix in POLICY_PREFIXES if name.startswith(prefix))


def _overridden(name: str, policy: Policy, text: str) -> Policy:
    try:
        if policy.kind != "refresh":
            return replace(policy, after=None if text.strip() == "never" else parse_interval(text))
        parts = {part: parse_interval(interval) for part, interval in _PART.findall(text)}
    except ValueError as error:
        raise ConfigError(f"{name} {text!r} cannot be used: {error}.") from None
    if not parts or _PART.sub("", text).strip(" ,"):
        raise ConfigError(
            f"{name} {text!r} cannot be used.", "Write it like `start=2 days end=5 minutes every=5 minutes`."
        )
    return replace(
        policy,
        after=parts.get("start", policy.after),
        until=parts.get("end", policy.until),
        every=parts.get("every", policy.every),
    )


def _check(policies: list[Policy]) -> None:
    """A refresh must not reach back to where raw rows are dropped: it would drop the totals too."""
    for refresh in (policy for policy in policies if policy.kind == "refresh"):
        for kept in (p for p in policies if p.kind == "retention" and p.source == refresh.source):
            if kept.level < refresh.level and kept.after and refresh.after and kept.after <= refresh.after:
                raise ConfigError(
                    f"{variable(refresh)} looks back {refresh.after}, "
                    f"but {variable(kept)} drops what it needs after {kept.after}.",
                    "Keep rows longer than refreshes look back.",
                )


def _registered(database: Database) -> dict[tuple[str, str], list[timedelta | None]]:
    return {(kind, relation): rest for kind, relation, *rest in database.rows("registered_policies")}


def _registration(policy: Policy) -> list[timedelta | None] | None:
    if policy.kind != "refresh" and policy.after is None:
        return None
    return [policy.after, policy.until, policy.every]


def _register(transaction: Transaction, policy: Policy) -> None:
    params = {
        "relation": policy.relation,
        "after": policy.after,
        "until": policy.until,
        "every": policy.every,
        "buckets_per_batch": BUCKETS_PER_BATCH,
    }
    transaction.rows(f"remove_{policy.kind}_policy", params)
    if _registration(policy) is not None:
        transaction.rows(f"add_{policy.kind}_policy", params)

"""Tokens: made, looked up, revoked. Their secrets are nowhere kept, only digests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ringstats_ts.errors import NotFound, RingstatsError
from ringstats_ts.identity import Credential
from ringstats_ts.model import Token
from ringstats_ts.storage.database import Database

LIVE = 2
"""Live tokens for the same hosts and scopes: the one in use, and the one that replaces it."""

TOUCHED = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token and its life."""

    token: Token
    digest: bytes
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def state(self, now: datetime) -> str:
        """`live`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "live"

    def to_be_touched(self, now: datetime) -> bool:
        """Whether its use is to be noted."""
        return self.last_used_at is None or self.last_used_at <= now - TOUCHED


def find_token(database: Database, key_id: str) -> StoredToken | None:
    """Look a token up."""
    found = database.rows("find_token", {"key_id": key_id})
    return _stored(found[0]) if found else None


def list_tokens(database: Database) -> list[StoredToken]:
    """Every token, the oldest first."""
    return [_stored(row) for row in database.rows("list_tokens")]


def add_token(
    database: Database,
    credential: Credential,
    *,
    hosts: str,
    scopes: Collection[str],
    expires_at: datetime | None,
) -> StoredToken:
    """Keep a new token.

    Raises
    ------
    RingstatsError
        there are two live ones for these hosts and scopes.
    """
    row = {
        "key_id": credential.key_id,
        "digest": credential.digest,
        "hosts": hosts,
        "scopes": sorted(scopes),
        "expires_at": expires_at,
    }
    with database.transaction() as transaction:
        transaction.rows("lock_tokens")
        live = [key_id for (key_id,) in transaction.rows("find_live_tokens", row)]
        if len(live) >= LIVE:
            raise RingstatsError(
                f"{hosts!r} has {len(live)} live tokens for {', '.join(sorted(scopes))} already: "
                f"{', '.join(live)}.",
                f"Revoke one that is no longer sent: `tsstats token revoke {live[0]}`.",
            )
        (added,) = transaction.rows("add_token", row)
    return _stored(added)


def touch_token(database: Database, token: Token) -> None:
    """Note that it is used, at most once an hour."""
    database.rows("touch_token", {"token_id": token.token_id})


def revoke_tokens(database: Database, key_ids: Sequence[str]) -> None:
    """Revoke the tokens, all or none; those that are revoked already stay so.

    Raises
    ------
    NotFound
    """
    with database.transaction() as transaction:
        found = {key_id for (key_id,) in transaction.rows("revoke_tokens", {"key_ids": list(key_ids)})}
        if missing := [key_id for key_id in key_ids if key_id not in found]:
            raise NotFound(
                f"There is no token {missing[0]!r}; none was revoked.", "`tsstats token list` shows them."
            )


def _stored(row: tuple[Any, ...]) -> StoredToken:
    token_id, key_id, digest, hosts, scopes, *life = row
    return StoredToken(Token(token_id, key_id, hosts, frozenset(scopes)), bytes(digest), *life)

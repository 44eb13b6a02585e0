"""Who sent the request: the token that came with it, looked up and remembered for some seconds.

A token that is sent is verified also where none is needed. An address that keeps sending
wrong ones is turned away before anything is looked up for it.
"""

from __future__ import annotations

import hmac
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from flask import Flask, Request, current_app, g
from flask import request as current_request

from ringstats_ts.config import Config
from ringstats_ts.errors import Busy, Forbidden, StorageError, TooManyRequests, Unauthorized
from ringstats_ts.identity import Credential, is_loopback, network_of, read_token
from ringstats_ts.model import Token
from ringstats_ts.storage.tokens import StoredToken, find_token, touch_token
from webapp import log
from webapp.service import service

REMEMBERED = 4096
"""Tokens and addresses that one process keeps in memory, of each; the oldest go first."""

FAILURES = 20
FAILURE_SECONDS = 60.0

SPARE_SECONDS = 1.0
"""How often a token is looked up all the same for an address that sent too many wrong ones: others may
share it, such as all hosts behind one router."""

LOOKUPS = 2
"""Threads of a process that look up tokens at a time: a database that hangs must not hold all of them."""

LOCAL = "local"
"""Who sends through a Unix socket."""

_NOBODY = bytes(32)


def register(app: Flask, config: Config) -> None:
    """Give the application its memory of tokens."""
    app.extensions["tsstats-gate"] = Gate(config)


def authenticate(request: Request, *, needed: bool | None = None) -> Token | None:
    """The token of the request, verified; None where none was sent and none is `needed`.

    It comes as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic. Nothing of
    the body is read.

    Raises
    ------
    Unauthorized
        none was sent, or one that is unknown, wrong, expired or revoked.
    TooManyRequests
        this address sent too many such.
    StorageUnavailable, Busy
        it cannot be looked up now.
    """
    gate: Gate = current_app.extensions["tsstats-gate"]
    needed = gate.needed if needed is None else needed
    sender = request.remote_addr or LOCAL
    text = _sent(request, needed=needed)
    if text is None:
        if needed:
            raise Unauthorized
        return None
    try:
        return gate.verify(text, sender, encrypted=request.is_secure)
    except Unauthorized:
        gate.note_failure(sender)
        raise


def require(scope: str) -> Token | None:
    """Authenticate the current request, and make sure that its token, if any, is for `scope`.

    The token is `g.token` from then on.

    Raises
    ------
    Forbidden
        and what `authenticate` raises.
    """
    token: Token | None = authenticate(current_request)
    g.token = token
    if token is not None and scope not in token.scopes:
        raise Forbidden(f"The token {token.key_id} is not for `{scope}`.")
    if scope == "ingest" and _is_of_a_page(current_request):
        # Browsers let any page post to their own machine, and to where they know a password.
        raise Forbidden("A web page may not send documents.", "Send it with curl, wget or a program.")
    return token


def verify() -> None:
    """Verify the token of the current request, where one was sent; none is needed."""
    g.token = authenticate(current_request, needed=False)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database said of a key id, and until when that is believed."""

    stored: StoredToken | None
    until: float


class Gate:
    """The tokens that this process has seen lately, and the addresses that sent wrong ones."""

    def __init__(self, config: Config) -> None:
        self.needed = config.auth is True
        self._seconds = config.token_cache.total_seconds()
        self._patience = config.queue_timeout.total_seconds()
        self._lookups = threading.BoundedSemaphore(LOOKUPS)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._spared: OrderedDict[str, float] = OrderedDict()
        self._warned = False

    def verify(self, text: str, sender: str, *, encrypted: bool) -> Token:
        """The token of that text. An unknown one and a wrong one take the same way."""
        credential = read_token(text)
        stored = self._look(credential, sender)
        right = hmac.compare_digest(stored.digest if stored else _NOBODY, credential.digest)
        if stored is None or not right:
            raise Unauthorized("The token is not known here.")
        now = datetime.now(UTC)
        if (state := stored.state(now)) != "live":
            raise Unauthorized(
                f"The token {credential.key_id} is {state}.", "`tsstats token create` makes another."
            )
        if stored.to_be_touched(now):
            self._touch(stored, now)
        if not encrypted and sender != LOCAL and not is_loopback(sender):
            self._warn_of_plain_http()
        return stored.token

    def note_failure(self, sender: str) -> None:
        """Count a refusal against the address, or its network.

        Raises
        ------
        TooManyRequests
            there were too many within a minute.
        """
        self._check_failures(sender)
        network = network_of(sender)
        with self._lock:
            since, count = self._failures.pop(network, (0.0, 0))
            if monotonic() - since >= FAILURE_SECONDS:
                since, count = monotonic(), 0
            self._failures[network] = (since, count + 1)
            _bound(self._failures)

    def _check_failures(self, sender: str, *, spare: bool = False) -> None:
        network = network_of(sender)
        since, count = self._failures.get(network, (0.0, 0))
        wait = since + FAILURE_SECONDS - monotonic()
        if count >= FAILURES and wait > 0 and not (spare and self._spare(network)):
            error = TooManyRequests(
                "Too many requests of this address came without a valid token.",
                "Correct the token, and try again in a minute.",
            )
            error.retry_after = wait
            raise error from None

    def _spare(self, network: str) -> bool:
        """Whether it is time for one look-up more."""
        with self._lock:
            if monotonic() - self._spared.get(network, 0.0) < SPARE_SECONDS:
                return False
            self._spared[network] = monotonic()
            self._spared.move_to_end(network)
            _bound(self._spared)
            return True

    def _look(self, credential: Credential, sender: str) -> StoredToken | None:
        known = self._known.get(credential.key_id)
        if known is not None and monotonic() < known.until:
            return known.stored
        # What was good a moment ago is asked for all the same.
        if known is None or known.stored is None:
            self._check_failures(sender, spare=True)
        if not self._lookups.acquire(timeout=self._patience):
            raise Busy("The token could not be looked up in time.")
        # From before the question: a revocation that the answer just misses counts from then.
        until = monotonic() + self._seconds
        try:
            stored = find_token(service().database(), credential.key_id)
        finally:
            self._lookups.release()
        self._remember(credential.key_id, stored, until)
        return stored

    def _remember(self, key_id: str, stored: StoredToken | None, until: float) -> None:
        with self._lock:
            self._known.pop(key_id, None)
            self._known[key_id] = _Known(stored, until)
            _bound(self._known)

    def _touch(self, stored: StoredToken, now: datetime) -> None:
        """Note the use; a database that takes no writes is no reason to refuse a reader."""
        known = self._known.get(stored.token.key_id)
        if known is not None:
            self._remember(stored.token.key_id, replace(stored, last_used_at=now), known.until)
        try:
            touch_token(service().database(), stored.token)
        except StorageError as error:
            log.write(logging.WARNING, "token-use", error=error.code)

    def _warn_of_plain_http(self) -> None:
        if not self._warned:
            self._warned = True
            log.write(
                logging.WARNING,
                "plain-http",
                detail="Tokens come over plain HTTP from other hosts. Where the network does not encrypt, "
                "as a tailnet does, put a proxy with TLS in front and set TSSTATS_PROXY_HOPS.",
            )


def _sent(request: Request, *, needed: bool) -> str | None:
    """The text of a token. A password for somebody in front, such as a proxy, is none."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    found = request.authorization
    if found is not None and found.type == "basic":
        password = found.password or ""
        return password if needed or password.startswith("tss_") else None
    return (found.token if found is not None and found.type == "bearer" else None) or ""


def _is_of_a_page(request: Request) -> bool:
    """Whether a browser sent it. Each says where a post comes from in one of these ways."""
    return "Origin" in request.headers or "Sec-Fetch-Site" in request.headers


def _bound(memory: OrderedDict[str, Any]) -> None:
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)

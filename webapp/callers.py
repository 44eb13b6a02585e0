"""Who may ask where no token is needed, because the service listens on this machine alone.

A loopback address keeps other machines out, not the web pages that a browser of this machine
shows, nor what a proxy brings: a name that a page's owner lets point to 127.0.0.1 makes the
service part of that page, and a proxy makes strangers look like local programs. Both can be
told by what the request says of its way.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from flask import Flask, g, request

from ringstats_ts.config import Config
from ringstats_ts.errors import Forbidden, Misdirected, RingstatsError
from ringstats_ts.identity import is_loopback

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::[0-9]{0,5})?")

_FORWARDED = re.compile(
    r"HTTP_(?:FORWARDED.*|VIA|X_FORWARDED.*|X_ORIGINAL_.*|X_REAL_.*|X_PROXY.*|PROXY_.*|TAILSCALE_.*|CF_.*"
    r"|CDN_.*|X_ENVOY_.*|X_AMZN_.*|X_AZURE_.*|X_APPENGINE_.*|FLY_.*|FASTLY_.*|TRUE_CLIENT_.*|X_CLIENT_.*"
    r"|NGROK_.*|X_AUTH.*|X_AMZ_CF_.*|X_CLOUD_TRACE_CONTEXT|X_VERCEL_.*|X_NF_.*|X_MS_CONTAINERAPP_.*"
    r"|X_SCHEME|X_HOST|X_REQUEST_START"
    r"|(?:.*_)?(?:IP|CLIENTIP|REMOTE_ADDR|REMOTE_USER))"
)
"""What proxies and tunnels put into a request, as WSGI names headers."""


def register(app: Flask, config: Config) -> None:
    """Refuse such requests, where tokens are neither asked for nor renounced."""
    if config.auth is not None:
        return

    def check() -> None:
        # It tells nothing, and monitors call it by all kinds of names.
        if request.endpoint == "health.alive":
            return
        try:
            _check(config)
        except RingstatsError as error:
            if request.blueprint == "ingest":
                g.documents = Counter({("unknown", "failed", error.code): 1})
            raise

    app.before_request(check)


@lru_cache(1024)
def is_of_a_proxy(name: str) -> bool:
    """Whether proxies make the header, by its name as WSGI has it."""
    return _FORWARDED.fullmatch(name) is not None


@lru_cache(1024)
def is_own_name(authority: str, others: frozenset[str]) -> bool:
    """Whether a Host header names this machine, by a loopback name or address or one of the `others`."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    name = (match[1] or match[2]).lower().removesuffix(".")
    # No public name ends in .localhost (RFC 6761).
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name) or name in others


def _check(config: Config) -> None:
    """Refuse the current request where it comes for somebody else.

    Raises
    ------
    Misdirected, Forbidden
    """
    if not all(is_own_name(name, config.hosts) for name in _names()):
        raise Misdirected
    if not config.proxy_hops and any(map(is_of_a_proxy, request.environ)):
        raise Forbidden(
            "The request came through a proxy, and without tokens the service is for this machine alone.",
            "Set TSSTATS_PROXY_HOPS=1, and TSSTATS_AUTH=on with tokens that `tsstats token create` makes, or "
            "TSSTATS_AUTH=off where all whom the proxy lets in may send and read.",
        )
    if (
        request.headers.get("Sec-Fetch-Site") == "cross-site"
        and request.headers.get("Sec-Fetch-Mode") != "navigate"
    ):
        raise Forbidden("A web page of another site may not ask.", "Open the address in a tab of its own.")


def _names() -> list[str]:
    """The names that the request gives the service: in Host, and in a target that is a whole URI."""
    names = [host] if (host := request.environ.get("HTTP_HOST")) is not None else []
    target = str(request.environ.get("RAW_URI", "/"))
    if not target.startswith("/") and target != "*":
        names.append(target.partition("://")[2].partition("/")[0].partition("?")[0])
    # HTTP/1.0 may leave the name out, which no browser does.
    return names

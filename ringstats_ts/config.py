"""Settings: one table, read from the environment once, frozen.

Every setting has a default that works. A secret may also come from a file: the
same name with `_FILE` behind it (Docker and systemd credentials).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import platformdirs

from ringstats_ts.errors import ConfigError

_INTERVAL = re.compile(r"(\d+)\s*(second|minute|hour|day|week)s?")
_LISTEN_HOST = re.compile(r"[^:\[\]]+|\[[^\[\]]+\]")
_NAME = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")
# What stands for itself in an address, or is percent-encoded.
_PLAIN = r"(?:[^\s:/?#\[\]@%&=]|%[0-9A-Fa-f]{2})*"
_SERVER = rf"(?:{_PLAIN}|\[[0-9A-Za-z:.%]+\])(?::[0-9]{{0,5}})?"
_QUERY = rf"[A-Za-z_]+=(?:{_PLAIN}[:/])*{_PLAIN}"
_URI = re.compile(
    rf"postgres(?:ql)?://(?:{_PLAIN}(?::(?:{_PLAIN}[:&=])*{_PLAIN})?@)?{_SERVER}(?:,{_SERVER})*"
    rf"(?:/{_PLAIN})?(?:\?{_QUERY}(?:&{_QUERY})*)?"
)
_DSN = re.compile(r"\s*(?:[a-z_]+ *= *(?:'(?:[^'\\]|\\.)*'|[^\s'\\]+)(?:\s+|$))+")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def parse_interval(text: str) -> timedelta:
    """Read an interval such as `90 days` or `5 minutes`."""
    match = _INTERVAL.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("write it like `90 days`, `12 hours` or `5 minutes`")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("it must be 1 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("it must be 0 or more")
    return value


def _switch(text: str) -> bool:
    try:
        return {"1": True, "on": True, "true": True, "yes": True}.get(text.lower(), False) or {
            "0": False,
            "off": False,
            "false": False,
            "no": False,
        }[text.lower()]
    except KeyError:
        raise ValueError("write `on` or `off`") from None


def _file(text: str) -> Path:
    return Path(text).expanduser()


def _clients(text: str) -> str:
    if text not in ("hash", "raw"):
        raise ValueError("write `hash` or `raw`")
    return text


def _names(text: str) -> frozenset[str]:
    names = [name.strip().lower().removesuffix(".") for name in text.split(",")]
    if not all(map(_NAME.fullmatch, names)):
        raise ValueError("write names or addresses without ports, such as stats.lan,192.0.2.7")
    return frozenset(names)


def _database_uri(text: str) -> str:
    """Check an address by its form: libpq takes what is amiss for a host or a port, and quotes it."""
    is_uri = "://" in text
    known = _URI.fullmatch(text) if is_uri else _DSN.fullmatch(text)
    if known is None or "%00" in text:
        raise ValueError(
            "write it like postgresql://user:password@host/name, and percent-encode the password "
            "(`/` is %2F, `@` is %40, `?` is %3F, `#` is %23, `%` is %25, `[` is %5B, a space is %20)"
            if is_uri
            else "write it like postgresql://user:password@host/name, or host=... user=... password='...'"
        )
    return text


def parse_listen(text: str) -> str:
    """Check an address to listen on, such as `127.0.0.1:8000` or `[::1]:8000`."""
    host, _, port = text.rpartition(":")
    if not _LISTEN_HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("write HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000")
    return text


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its field in `Config`, variable, default and meaning."""

    name: str
    env: tuple[str, ...]
    default: Any
    parse: Callable[[str], Any]
    help: str
    secret: bool = False


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "database_uri",
        ("DATABASE_URI", "DATABASE_URL"),
        None,
        _database_uri,
        "TimescaleDB to use, postgresql://user:password@host/name; none for the embedded one.",
        secret=True,
    ),
    Setting(
        "database_read_uri",
        ("DATABASE_READ_URI",),
        None,
        _database_uri,
        "Login in tsstats_reader that runs the SQL of `tsstats query`; none for the one that "
        "`tsstats migrate` made, else a function of the database.",
        secret=True,
    ),
    Setting(
        "data_dir",
        ("TSSTATS_DATA",),
        platformdirs.user_data_path("tsstats", appauthor=False),
        _file,
        "Directory of the embedded database, of the key of clients in logs, and of the password of the login "
        "that reads.",
    ),
    Setting("listen", ("TSSTATS_LISTEN",), "127.0.0.1:8000", parse_listen, "Address of the web service."),
    Setting("workers", ("TSSTATS_WORKERS",), 2, _whole, "Web worker processes."),
    Setting("threads", ("TSSTATS_THREADS",), 16, _whole, "Threads (and database connections) per worker."),
    Setting(
        "writers",
        ("TSSTATS_WRITERS",),
        8,
        _whole,
        "Requests of one worker that store at a time; its other threads answer health checks and pages.",
    ),
    Setting(
        "queue_timeout",
        ("TSSTATS_QUEUE_TIMEOUT",),
        timedelta(seconds=2),
        parse_interval,
        "Longest that a post waits before it is answered 503: half for a thread, half to be a writer.",
    ),
    Setting(
        "body_timeout",
        ("TSSTATS_BODY_TIMEOUT",),
        timedelta(seconds=30),
        parse_interval,
        "Longest that a body may take to arrive.",
    ),
    Setting(
        "auth",
        ("TSSTATS_AUTH",),
        None,
        _switch,
        "Whether a token is needed. Unset, it is not on a loopback address, and on another one "
        "the service does not start.",
    ),
    Setting(
        "hosts",
        ("TSSTATS_HOSTS",),
        frozenset(),
        _names,
        "Names, besides those of loopback, by which the service may be called where TSSTATS_AUTH is unset; "
        "with commas.",
    ),
    Setting(
        "token_cache",
        ("TSSTATS_TOKEN_CACHE",),
        timedelta(seconds=15),
        parse_interval,
        "How long a token is known without asking the database: longest that a revoked one is still taken.",
    ),
    Setting(
        "rate",
        ("TSSTATS_RATE",),
        100,
        _count,
        "Requests a second that one token may make of a worker, ten seconds' worth at once; 0 for any.",
    ),
    Setting(
        "proxy_hops",
        ("TSSTATS_PROXY_HOPS",),
        0,
        _count,
        "Reverse proxies in front, whose X-Forwarded headers are believed; 0 believes none.",
    ),
    Setting(
        "upkeep",
        ("TSSTATS_UPKEEP",),
        True,
        _switch,
        "Whether web workers prune, and refresh for late documents; off where something else does.",
    ),
    Setting(
        "max_body_bytes",
        ("TSSTATS_MAX_BODY_BYTES",),
        4 * 1024 * 1024,
        _whole,
        "Largest body as sent [bytes].",
    ),
    Setting(
        "max_document_bytes",
        ("TSSTATS_MAX_DOCUMENT_BYTES",),
        16 * 1024 * 1024,
        _whole,
        "Largest body after decompression [bytes].",
    ),
    Setting("max_depth", ("TSSTATS_MAX_DEPTH",), 64, _whole, "Deepest nesting of a document."),
    Setting(
        "max_values",
        ("TSSTATS_MAX_VALUES",),
        1_000_000,
        _whole,
        "Most values in one body; an object counts for 20.",
    ),
    Setting("max_key_bytes", ("TSSTATS_MAX_KEY_BYTES",), 512, _whole, "Longest key of an object [bytes]."),
    Setting("max_string_bytes", ("TSSTATS_MAX_STRING_BYTES",), 64 * 1024, _whole, "Longest string [bytes]."),
    Setting("max_lines", ("TSSTATS_MAX_LINES",), 5000, _whole, "Most documents in one NDJSON or array body."),
    Setting(
        "database_timeout",
        ("TSSTATS_DATABASE_TIMEOUT",),
        timedelta(seconds=8),
        parse_interval,
        "Longest that one document may take in the database.",
    ),
    Setting(
        "future",
        ("TSSTATS_FUTURE",),
        timedelta(minutes=10),
        parse_interval,
        "How far in the future a sample time may lie.",
    ),
    Setting(
        "past",
        ("TSSTATS_PAST",),
        timedelta(days=90),
        parse_interval,
        "How far in the past a sample that is posted may lie; files that are ingested may be older.",
    ),
    Setting(
        "max_days",
        ("TSSTATS_MAX_DAYS",),
        31,
        _whole,
        "Most days (UTC) that the samples of one body may be of.",
    ),
    Setting("max_hosts", ("TSSTATS_MAX_HOSTS",), 10_000, _whole, "Most hosts that may report."),
    Setting(
        "new_hosts",
        ("TSSTATS_NEW_HOSTS",),
        1000,
        _whole,
        "New hosts that a sender (a token, else an address) may name in a day; all together 4 times that.",
    ),
    Setting(
        "new_series",
        ("TSSTATS_NEW_SERIES",),
        50_000,
        _whole,
        "New series (nodes, paths) that a host may name in a day; its sender 4 times that, all 16 times.",
    ),
    Setting(
        "new_attributes",
        ("TSSTATS_NEW_ATTRIBUTES",),
        64 * 1024 * 1024,
        _whole,
        "New attributes that a host may bring in a day; its sender 4 times that, all 16 times [bytes].",
    ),
    Setting(
        "clients",
        ("TSSTATS_CLIENTS",),
        "hash",
        _clients,
        "How the clients in logs are stored: `hash`, as a keyed hash; `raw`, as they are.",
    ),
    Setting(
        "client_key",
        ("TSSTATS_CLIENT_KEY",),
        None,
        str,
        "Key of these hashes; none for the one in `client-key` of TSSTATS_DATA, which is made at first use.",
        secret=True,
    ),
    Setting(
        "keep_secrets",
        ("TSSTATS_KEEP_SECRETS",),
        False,
        _switch,
        "Whether JSON of no known kind is stored with what looks like a secret in it; of the other "
        "sources, and in what is refused, it is always blanked.",
    ),
    Setting(
        "places",
        ("TSSTATS_PLACES",),
        None,
        _file,
        "File in MaxMind's format (.mmdb) that tells where clients are; none for no places.",
    ),
    Setting(
        "networks",
        ("TSSTATS_NETWORKS",),
        None,
        _file,
        "Registry of FDSN network codes, in its JSON or text; none leaves temporary codes as they are.",
    ),
    Setting(
        "receipts_keep",
        ("TSSTATS_RECEIPTS_KEEP",),
        timedelta(days=14),
        parse_interval,
        "Age at which receipts are pruned.",
    ),
    Setting(
        "rejects_keep",
        ("TSSTATS_REJECTS_KEEP",),
        timedelta(days=14),
        parse_interval,
        "Age at which rejects are pruned.",
    ),
    Setting(
        "rejects_keep_bytes",
        ("TSSTATS_REJECTS_KEEP_BYTES",),
        256 * 1024 * 1024,
        _whole,
        "Size of all kept rejects from which the oldest are pruned [bytes].",
    ),
    Setting(
        "rejects_keep_count",
        ("TSSTATS_REJECTS_KEEP_COUNT",),
        100_000,
        _whole,
        "Number of rejects from which the oldest are pruned.",
    ),
    Setting(
        "embedded_sync",
        ("TSSTATS_EMBEDDED_SYNC",),
        True,
        _switch,
        "Whether commits of the embedded database reach the disk; off loses data in a power cut.",
    ),
    Setting(
        "embedded_free_bytes",
        ("TSSTATS_EMBEDDED_FREE_BYTES",),
        300_000_000,
        _count,
        "Free space of the embedded database's disk below which documents are answered 503 [bytes].",
    ),
)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in force. `policies` are the overrides of `TSSTATS_<KIND>_<RELATION>`."""

    database_uri: str | None
    database_read_uri: str | None
    data_dir: Path
    listen: str
    workers: int
    threads: int
    writers: int
    queue_timeout: timedelta
    body_timeout: timedelta
    auth: bool | None
    hosts: frozenset[str]
    token_cache: timedelta
    rate: int
    proxy_hops: int
    upkeep: bool
    max_body_bytes: int
    max_document_bytes: int
    max_depth: int
    max_values: int
    max_key_bytes: int
    max_string_bytes: int
    max_lines: int
    database_timeout: timedelta
    future: timedelta
    past: timedelta
    max_days: int
    max_hosts: int
    new_hosts: int
    new_series: int
    new_attributes: int
    clients: str
    client_key: str | None
    keep_secrets: bool
    places: Path | None
    networks: Path | None
    receipts_keep: timedelta
    rejects_keep: timedelta
    rejects_keep_bytes: int
    rejects_keep_count: int
    embedded_sync: bool
    embedded_free_bytes: int
    policies: Mapping[str, str]

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Config:
        """Read the settings.

        `overrides` win over the environment; those that are None are passed over.

        Raises
        ------
        ConfigError
            naming the variable, and what it should look like.
        """
        environ = os.environ if environ is None else environ
        values = {setting.name: _read(setting, environ) for setting in SETTINGS}
        values["policies"] = {
            name: value for name, value in environ.items() if name.startswith(POLICY_PREFIXES)
        }
        values |= {name: value for name, value in overrides.items() if value is not None}
        return cls(**values)

    def __repr__(self) -> str:
        secret = {setting.name for setting in SETTINGS if setting.secret}
        shown = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name not in secret)
        return f"Config({', '.join(shown)})"


OWNER_VARIABLE = "TSSTATS_OWNER_FD"
"""Set by `tsstats up` for its web service: the read end of a pipe whose other end only it holds."""

SHARED_NEEDED = 16 * 1024 * 1024
"""Room [bytes] that the processes of one service want in shared memory, for metrics and notes."""

POLICY_PREFIXES = ("TSSTATS_REFRESH_", "TSSTATS_COLUMNSTORE_", "TSSTATS_RETENTION_")


def absolute_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that name files, as a process in another directory has to be told them."""
    files = [name for setting in SETTINGS if setting.parse is _file for name in setting.env]
    secrets = [f"{name}_FILE" for setting in SETTINGS if setting.secret for name in setting.env]
    told = {name: _file(environ[name]) for name in files if environ.get(name)}
    told |= {name: Path(environ[name]) for name in secrets if environ.get(name)}
    return {name: str(path.absolute()) for name, path in told.items()}


def _read(setting: Setting, environ: Mapping[str, str]) -> Any:
    for name in setting.env:
        text = environ.get(name)
        if not text and setting.secret and (path := environ.get(f"{name}_FILE")):
            text = _secret(name, Path(path))
        if text:
            try:
                return setting.parse(text)
            except ValueError as error:
                shown = "" if setting.secret else f" {text!r}"
                raise ConfigError(f"{name}{shown} cannot be used: {error}.") from None
    return setting.default


def _secret(name: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{name}_FILE {str(path)!r} cannot be read: {error.strerror}.") from None
    if not text:
        # Unset, it would mean the embedded database, or a key of its own.
        raise ConfigError(f"{name}_FILE {str(path)!r} is empty.")
    return text

"""The schema: migrations by yoyo, and whether a database is one that can be used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import as_file, files
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg2
import psycopg2.extensions
import yoyo
from yoyo.backends import DatabaseBackend
from yoyo.migrations import Migration, MigrationList

from ringstats_ts.errors import OutdatedSchema, StorageError, UnsuitableDatabase
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.failures import translate
from ringstats_ts.words import counted

TIMESCALEDB_NEEDED = (2, 20)
POSTGRESQL_NEEDED = 15
_ANOTHER = "another database (DATABASE_URI, or TSSTATS_DATA for the embedded one)"

_YOYO_TABLES = ("_yoyo_digest", "_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock")
_RELATION = re.compile(r"^CREATE (?:MATERIALIZED )?(?:TABLE|VIEW) (\w+)", re.MULTILINE)
_SCHEMA = re.compile(r"^CREATE SCHEMA (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Server:
    """What answers at the other end."""

    postgresql: str
    timescaledb: str
    license: str


def check(database: Database) -> Server:
    """Make sure that the database can be used as it is.

    Raises
    ------
    UnsuitableDatabase
        no TimescaleDB, the Apache edition, or too old; or a schema that is not this version's.
    OutdatedSchema
        migrations are missing.
    StorageUnavailable
        it cannot be reached.
    """
    server = check_server(database)
    applied = _applied(database)
    _check_texts(applied)
    missing = [name for name in shipped() if name not in applied]
    if missing:
        raise OutdatedSchema(
            f"The database lacks {counted(len(missing), 'migration')}, from {missing[0]} on."
        )
    return server


def check_server(database: Database) -> Server:
    """Make sure that it is TimescaleDB Community in a version that we know."""
    ((number, version, extension, available, edition),) = database.rows("server")
    if number < POSTGRESQL_NEEDED * 10_000:
        raise UnsuitableDatabase(
            f"The server is PostgreSQL {version}; {POSTGRESQL_NEEDED} or newer is needed.", "Upgrade it."
        )
    if extension is None:
        raise UnsuitableDatabase(
            "The database has no TimescaleDB.",
            "Run `CREATE EXTENSION timescaledb` as a superuser."
            if available
            else "Use a server with TimescaleDB Community, such as the image timescale/timescaledb, "
            "or leave DATABASE_URI out for the embedded one.",
        )
    if edition != "timescale":
        raise UnsuitableDatabase(
            f"The database has TimescaleDB {extension} in its Apache edition, "
            "which has no continuous aggregates.",
            "Install the Community edition (timescaledb-2-postgresql, or the image timescale/timescaledb).",
        )
    if tuple(map(int, re.findall(r"\d+", extension)[:2])) < TIMESCALEDB_NEEDED:
        raise UnsuitableDatabase(
            f"The database has TimescaleDB {extension}; 2.20 or newer is needed.",
            "Upgrade it, then run `ALTER EXTENSION timescaledb UPDATE`.",
        )
    return Server(version, extension, edition)


def is_fresh(database: Database) -> bool:
    """Whether no migration is applied."""
    return not _applied(database)


def pending(database: Database) -> list[str]:
    """The shipped migrations that are not applied, in order."""
    applied = _applied(database)
    return [name for name in shipped() if name not in applied]


def status(database: Database) -> list[tuple[str, str]]:
    """Every migration, shipped or applied: `applied`, `pending`, `changed` or `unknown`."""
    applied = _applied(database)
    states = dict.fromkeys(shipped(), "pending")
    states |= {name: "applied" if name in states else "unknown" for name in applied}
    states |= dict.fromkeys(_changed(applied), "changed")
    return sorted(states.items())


def check_texts(database: Database) -> None:
    """Make sure that every applied migration is one of this version, with its text.

    Raises
    ------
    UnsuitableDatabase
        with the way out.
    """
    _check_texts(_applied(database))


def _check_texts(applied: Mapping[str, str | None]) -> None:
    _check_known(applied)
    if changed := _changed(applied):
        raise UnsuitableDatabase(
            f"The database was made with another text of migration {changed[0]} than this version has.",
            f"Use the version that made it, or {_ANOTHER}. "
            "`tsstats migrate --accept` goes on with the tables as they are.",
        )


def _check_known(applied: Mapping[str, str | None]) -> None:
    if unknown := [name for name in applied if name not in _digests()]:
        raise UnsuitableDatabase(
            f"The database is newer than this version: it has migration {unknown[-1]}, "
            "which this version does not know.",
            f"Use the version that made it, or a newer one, or {_ANOTHER}.",
        )


def _changed(applied: Mapping[str, str | None]) -> list[str]:
    return [name for name, digest in applied.items() if digest != _digests().get(name, digest)]


def accept(database: Database, uri: str) -> None:
    """Take the applied migrations that this version knows for its own, whatever their text was."""
    with locked(database, uri):
        for name in _applied(database).keys() & _digests().keys():
            _note_digest(database, name)


def shipped() -> list[str]:
    """Names of the migrations of this version, in order."""
    return list(_digests())


@cache
def _digests() -> dict[str, str]:
    """The shipped migrations, in order, and the SHA-256 of the text of each."""
    with _directory() as directory:
        paths = sorted(path for path in directory.glob("*.sql") if not path.name.endswith(".rollback.sql"))
        return {path.stem: sha256(path.read_bytes()).hexdigest() for path in paths}


def shipped_names() -> tuple[list[str], list[str]]:
    """Names of all relations that migrations make in `public`, yoyo's too, and of the schemas."""
    with _directory() as directory:
        text = "\n".join(path.read_text(encoding="utf-8") for path in directory.glob("*.sql"))
    return [*_YOYO_TABLES, *_RELATION.findall(text)], _SCHEMA.findall(text)


def migrate(database: Database, uri: str, stopped: Callable[[], bool] = lambda: False) -> list[str]:
    """Apply what is pending, each migration in a transaction of its own; the names applied.

    `stopped` is asked before each: the rest stays pending where it says so.
    """
    _create_extension(database)
    check_server(database)
    with locked(database, uri), _yoyo(uri) as (backend, migrations):
        check_texts(database)
        names = []
        for migration in backend.to_apply(migrations):
            if stopped():
                break
            # Before: what is cut off in between is applied again, with the text of that time.
            _note_digest(database, migration.id)
            if _step(backend, migration, "apply"):
                names.append(migration.id)
    return names


def roll_back(database: Database, uri: str, *, everything: bool = False) -> list[str]:
    """Undo the last migration, or all; the names undone. The data in their tables is gone."""
    with locked(database, uri), _yoyo(uri) as (backend, migrations):
        _check_known(_applied(database))
        applied = list(backend.to_rollback(migrations))
        todo = applied if everything else applied[:1]
        return [migration.id for migration in todo if _step(backend, migration, "rollback")]


def _step(backend: DatabaseBackend, migration: Migration, direction: str) -> bool:
    """Apply a migration or undo it, and note that, in one transaction: all of it is there or nothing.

    Returns False where somebody else has done it meanwhile. Where the database locks nobody out (the embedded
    one has no advisory locks), its transactions still come one after the other.
    """
    with backend.transaction():
        if backend.is_applied(migration) == (direction == "apply"):
            return False
        migration.process_steps(backend, direction)
        backend.log_migration(migration, direction)
        mark = backend.mark_one if direction == "apply" else backend.unmark_one
        mark(migration, log=False)
    return True


def _applied(database: Database) -> dict[str, str | None]:
    """The applied migrations, in order, and the digest of the text of each where it was noted."""
    ((migrations, digests),) = database.rows("has_migrations")
    if not migrations:
        return {}
    return dict(database.rows("applied_migrations" if digests else "applied_without_digests"))


def _note_digest(database: Database, name: str) -> None:
    database.rows("note_digest", {"name": name, "digest": _digests()[name]})


def _create_extension(database: Database) -> None:
    ((_, _, extension, available, _),) = database.rows("server")
    if extension is None and available:
        try:
            database.run("CREATE EXTENSION IF NOT EXISTS timescaledb")
        except StorageError as error:
            if database.rows("server")[0][2] is not None:
                return  # Another process created it at the same time.
            raise UnsuitableDatabase(
                f"TimescaleDB cannot be created in this database: {error.message}",
                "Run `CREATE EXTENSION timescaledb` as a superuser.",
            ) from error


@contextmanager
def locked(database: Database, uri: str) -> Iterator[None]:
    """One process at a time changes the schema and its privileges. The lock ends with the process.

    A session of its own holds it, on a table that no reader may lock. The embedded database,
    which has one transaction at a time, would not let us in beside it: there the lock of its
    directory keeps others out.
    """
    _create_digests(database)
    if is_embedded(database):
        yield
        return
    with Database(uri) as holder, holder.transaction() as transaction:
        for statement in _HOLDING:
            transaction.query(statement)
        yield


_HOLDING = (
    # Whatever bounds the role has: a migration takes as long as it takes.
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL lock_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    # The mode excludes itself, and lets digests be written.
    "LOCK TABLE _yoyo_digest IN SHARE UPDATE EXCLUSIVE MODE",
)


def is_embedded(database: Database) -> bool:
    """Whether the server is one process without sessions of its own."""
    return database.run("SELECT pg_backend_pid()") == [(0,)]


def _create_digests(database: Database) -> None:
    try:
        database.rows("create_digests")
    except StorageError:
        # Two that create it at once: one is refused.
        database.rows("create_digests")


@contextmanager
def _yoyo(uri: str) -> Iterator[tuple[DatabaseBackend, MigrationList]]:
    with ExitStack() as stack:
        directory = stack.enter_context(_directory())
        try:
            backend = yoyo.get_backend(_yoyo_uri(uri))
            stack.callback(backend.connection.close)
            with redirect_stdout(StringIO()):  # yoyo prints what a SELECT in a migration gives
                # A run that was killed may have left yoyo's own lock; ours is held.
                backend.break_lock()
                yield backend, yoyo.read_migrations(str(directory))
        except psycopg2.Error as error:
            raise translate(error) from error


def _yoyo_uri(uri: str) -> str:
    """The same database in the form that yoyo reads: everything but the name as arguments."""
    parts: dict[str, Any] = psycopg2.extensions.parse_dsn(uri)
    name = parts.pop("dbname", "")
    return f"postgresql:///{quote(name, safe='')}?{urlencode(parts)}"


@contextmanager
def _directory() -> Iterator[Path]:
    """Where the migrations are: in the installed package, or in a checkout beside it."""
    package = files("ringstats_ts")
    with as_file(package.joinpath("migrations")) as installed, as_file(package) as source:
        yield installed if installed.is_dir() else source.parent / "migrations"

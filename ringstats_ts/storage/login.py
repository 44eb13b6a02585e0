"""The login that only reads: `migrate` makes it, and keeps its password beside the key of clients.

Roles are those of the whole server. Several databases share this one, and so do machines; whoever
made it has the password, and nobody changes it afterwards.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from psycopg2.extensions import encrypt_password, make_dsn

from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError, StorageError
from ringstats_ts.references.keys import make_once
from ringstats_ts.storage import schema
from ringstats_ts.storage.database import Database

LOGIN = "tsstats_login"

_MAKE = (
    f"CREATE ROLE {LOGIN} LOGIN PASSWORD %(verifier)s CONNECTION LIMIT 20 IN ROLE tsstats_reader",
    f"COMMENT ON ROLE {LOGIN} IS 'Reads as tsstats_reader; ringstats-ts keeps its password in a file.'",
    f"ALTER ROLE {LOGIN} SET statement_timeout = '30s'",
    f"ALTER ROLE {LOGIN} SET idle_in_transaction_session_timeout = '30s'",
    f"ALTER ROLE {LOGIN} SET default_transaction_read_only = on",
)
_AS_SUPERUSER = f"ALTER ROLE {LOGIN} SET temp_file_limit = '2GB'"

_ELSEWHERE = (
    "Copy that file from the TSSTATS_DATA of the machine that made the login, or set DATABASE_READ_URI."
)


def make(database: Database, config: Config) -> bool:
    """Make the login, unless it is there or another is named; whether it was made.

    Where our role may not make it, or the password cannot be kept, nothing happens: people's
    SQL is read by the function then.
    """
    if config.database_read_uri is not None or schema.is_embedded(database):
        return False
    made, is_superuser, creates_roles = _state(database)
    if made or not (is_superuser or creates_roles):
        return False
    try:
        # First: of a login without it nobody would have the password.
        password = _make_password(_path(database, config))
        statements = [*_MAKE, _AS_SUPERUSER] if is_superuser else _MAKE
        # Made here, so that the password is never in a statement, nor in the server's log.
        verifier = encrypt_password(password, LOGIN, database.connection(), "scram-sha-256")
        # One message, which is one transaction.
        database.run(";\n".join(statements), {"verifier": verifier})
    except (OSError, StorageError):
        return False
    return True


def elsewhere(database: Database, config: Config) -> str | None:
    """What to do where the login is there and its password is not; None otherwise."""
    if config.database_read_uri is not None or schema.is_embedded(database) or not _state(database)[0]:
        return None
    try:
        _password(database, config)
    except StorageError:
        return None
    except ConfigError as error:
        return str(error)
    return None


def connect(database: Database, uri: str, config: Config) -> Database:
    """The database of that address, as the login, which can be used.

    Raises
    ------
    ConfigError, StorageError
        saying why it cannot.
    """
    if schema.is_embedded(database):
        raise ConfigError("The embedded database has no logins.")
    reader = Database(make_dsn(uri, user=LOGIN, password=_password(database, config)))
    try:
        check(reader)
    except StorageError as error:
        reader.close()
        raise ConfigError(f"{LOGIN} cannot be used with the password kept here. {error}") from error
    except ConfigError:
        reader.close()
        raise
    return reader


def check(reader: Database) -> None:
    """Make sure that a login reads, and that it may do no more.

    Raises
    ------
    ConfigError, StorageError
    """
    if reader.rows("is_reader") != [(True,)]:
        raise ConfigError("The login is not a member of tsstats_reader.")
    if reader.rows("may_do_more") != [(False,)]:
        raise ConfigError("The login may do more than read.")


def _state(database: Database) -> tuple[bool, bool, bool]:
    ((made, is_superuser, creates_roles),) = database.rows("login", {"login": LOGIN})
    return made, is_superuser, creates_roles


def _path(database: Database, config: Config) -> Path:
    """The file of this server's login, whatever address the server has."""
    ((identifier,),) = database.rows("server_identifier")
    return config.data_dir / f"{LOGIN}-{identifier:d}"


def _make_password(path: Path) -> str:
    make_once(path, f"{secrets.token_urlsafe(32)}\n")
    return _read(path)


def _password(database: Database, config: Config) -> str:
    path = _path(database, config)
    try:
        return _read(path)
    except OSError as error:
        made, *_ = _state(database)
        if made:
            raise ConfigError(
                f"The password of {LOGIN} is not in {path}: {error.strerror}.", _ELSEWHERE
            ) from None
        raise ConfigError(
            f"There is no {LOGIN}.", "`tsstats migrate` makes it where its role may create roles."
        ) from None


def _read(path: Path) -> str:
    password = path.read_text(encoding="ascii", errors="replace").strip()
    if not password:
        raise OSError(0, "the file is empty")
    return password

"""The address of the database: what libpq would quote a part of the password from is refused unseen."""

import logging
import re

import pytest
from click.testing import CliRunner

from ringstats_ts.cli import main
from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError, StorageError
from ringstats_ts.storage.connect import connect

PASSWORDS = [
    "SEC/RET", "SEC@RET", "123/RET", "12@3/RET", "SEC#RET", "SEC?RET", "12?a=RET",
    "SEC%RET", "SEC%0ZRET", "SEC RET",
    "SEC[RET", "SEC]RET", "SEC%00RET", "1,RET/", "//RET", "SEC\tRET", "SEC\nRET",
]  # fmt: skip


@pytest.mark.parametrize("name", ["DATABASE_URI", "DATABASE_URL", "DATABASE_READ_URI"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_strange_password_is_refused_without_showing_it(name, password):
    with pytest.raises(ConfigError, match="percent-encode the password") as refused:
        Config.from_env({name: f"postgresql://u:{password}@127.0.0.1:1/x"})
    assert not re.search("SEC|RET", str(refused.value))


@pytest.mark.parametrize(
    "address", ["host=h password=SE'CRET", "host=h password=a SECRET", "SECRET", "mysql://u:SECRET@h/x"]
)
def test_what_is_no_address_is_refused_without_showing_it(address):
    with pytest.raises(ConfigError) as refused:
        Config.from_env({"DATABASE_URI": address})
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("address", [
    "postgresql://postgres@127.0.0.1:5601/postgres", "postgresql://", "postgres://u@[::1]:5432/db",
    "postgresql:///x?host=/var/run/postgresql&port=5432", "postgresql://u:p%2F%40@h/db?sslmode=require",
    "postgresql://u:a:b=c&d!$@h1,h2:5433/db", r"host=h dbname=x password='a\'b /@'",
    "host=/tmp password=abc=",
])  # fmt: skip
def test_what_libpq_reads_as_it_was_meant_is_taken(address):
    assert Config.from_env({"DATABASE_URI": address}).database_uri == address


@pytest.mark.parametrize(
    "verb", [["doctor"], ["query", "SELECT 1"], ["migrate"], ["rejects", "list"], ["serve"]]
)
def test_no_verb_shows_it(verb):
    for password in ("SECRET/PW", "SECRET@PW"):
        done = CliRunner().invoke(
            main, verb, env={"DATABASE_URI": f"postgresql://u:{password}@127.0.0.1:1/x"}
        )
        assert done.exit_code != 0
        assert not re.search("SECRET|PW", done.output)


@pytest.mark.parametrize("address", [
    "postgresql://u:SECRET/PW@127.0.0.1:1/x", "postgresql://u:SECRET@PW@127.0.0.1:1/x",
    "host=127.0.0.1 port=SECRET",
    "host=127.0.0.1 port=1 sslmode=SECRET", "host=h SECRET", "postgresql://u:p@127.0.0.1:1/x?SECRET=1",
    "postgresql://u:%SECRET@127.0.0.1:1/x", "host=127.0.0.1 port=1 connect_timeout=SECRET",
])  # fmt: skip
def test_nor_does_a_connection(address, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError) as refused:
        connect(address, None, None)
    assert not re.search("SECRET|PW", f"{refused.value}{refused.value.__cause__}{caplog.text}")

"""`tsstats token`: made once, shown once, listed without their secrets, revoked."""

import json
import re
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from ringstats_ts.identity import read_token
from tests.conftest import SERVER


@pytest.fixture(autouse=True)
def no_tokens(service, connection):
    """Runs beside a service: its embedded database is used while it runs."""
    if SERVER:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tokens")


@pytest.fixture
def create(tsstats):
    made = []

    def run(*words, code=0, **environment):
        done = tsstats("token", "create", *words, **environment)
        assert done.code == code, done.errors
        if code == 0 and "--json" not in words:
            made.append(read_token(done.output.strip()).key_id)
        return done

    yield run
    if made:
        tsstats("token", "revoke", *made)


def listed(tsstats, key_id):
    (record,) = [r for r in tsstats("token", "list", "--json").json if r["key_id"] == key_id]
    return record


def test_prints_the_token_alone_and_once(tsstats, create):
    done = create("first-1")

    text = done.output.removesuffix("\n")
    key_id, secret = text.split("_")[1:3]
    assert re.fullmatch(r"tss_\w{8}_[0-9A-Za-z]{43}_\w{6}", text)
    assert secret not in done.errors
    for words in (("list",), ("list", "--json")):
        shown = tsstats("token", *words)
        assert key_id in shown.output
        assert secret not in shown.output
    assert listed(tsstats, key_id) | {"created_at": None, "expires_at": None} == {
        "key_id": key_id,
        "hosts": "first-1",
        "scopes": ["ingest"],
        "state": "live",
        "created_at": None,
        "expires_at": None,
        "last_used_at": None,
        "revoked_at": None,
    }


def test_is_good_for_a_year_unless_told(tsstats, create):
    now = datetime.now(UTC)
    expected = {
        (): timedelta(days=365),
        ("--expires", "90 days"): timedelta(days=90),
        ("--expires", (now + timedelta(days=2)).isoformat()): timedelta(days=2),
        ("--expires", "never"): None,
    }
    for number, (words, length) in enumerate(expected.items()):
        key_id = read_token(create(f"year-{number}", *words).output.strip()).key_id
        expires = listed(tsstats, key_id)["expires_at"]
        if length is None:
            assert expires is None
        else:
            assert abs(datetime.fromisoformat(expires) - now - length) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "words",
    [
        ("x", "--expires", "2020-01-01"),
        ("x", "--expires", "soon"),
        ("x", "--expires", "0 days"),
        ("x", "--expires", "9999999999 days"),
        ("x", "--scope", "admin"),
        ("",),
        (),
    ],
)
def test_refuses_what_cannot_be_meant(create, words):
    assert "Traceback" not in create(*words, code=2).errors


def test_prints_json(tsstats):
    made = tsstats("token", "create", "json-*", "--scope", "read", "--scope", "ingest", "--json").json

    assert read_token(made["token"]).key_id == made["key_id"]
    assert (made["hosts"], made["scopes"], made["state"]) == ("json-*", ["ingest", "read"], "live")


def test_takes_its_options_from_the_environment(tsstats, create):
    done = create("env-1", TSSTATS_TOKEN_SCOPE="read ingest", TSSTATS_TOKEN_EXPIRES="never")

    record = listed(tsstats, read_token(done.output.strip()).key_id)
    assert (record["scopes"], record["expires_at"]) == (["ingest", "read"], None)


def test_a_third_for_the_same_hosts_is_refused_and_the_two_are_named(tsstats, create):
    first, second = (read_token(create("web-*").output.strip()).key_id for _ in range(2))

    refused = create("web-*", code=1)
    assert first in refused.errors
    assert second in refused.errors
    assert refused.output == ""

    create("web-?")
    create("web-*", "--scope", "read")
    assert tsstats("token", "revoke", first).code == 0
    create("web-*")


def test_revokes_a_whole_token_and_does_not_repeat_it(tsstats, create):
    text = create("leaked").output.strip()
    done = tsstats("token", "revoke", text)
    assert done.code == 0
    assert done.errors == f"Revoked {read_token(text).key_id}.\n"
    unknown = tsstats("token", "revoke", "tss_Missing1_secret")
    assert (unknown.code, "secret" in unknown.errors) == (1, False)


def test_revokes_all_that_are_named_or_none(tsstats, create):
    first, second = (read_token(create("all-1").output.strip()).key_id for _ in range(2))

    missing = tsstats("token", "revoke", first, "Missing1")
    assert missing.code == 1
    assert "Missing1" in missing.errors
    assert listed(tsstats, first)["state"] == "live"

    assert tsstats("token", "revoke", first, second).code == 0
    revoked = [listed(tsstats, key_id) for key_id in (first, second)]
    assert [record["state"] for record in revoked] == ["revoked", "revoked"]
    assert tsstats("token", "revoke", first).code == 0
    assert listed(tsstats, first) == revoked[0]


def test_lists_for_people(tsstats, create):
    create("people-1")

    lines = tsstats("token", "list").output.splitlines()

    assert lines[0].split("  ")[0] == "key id"
    assert " ".join(lines[0].split()) == "key id hosts scopes state created expires last used revoked"
    assert re.fullmatch(r"\(\d+ tokens?\)", lines[-1])


def test_works_where_no_service_runs(embedded_tsstats):
    if SERVER:
        pytest.skip("an embedded database is started for this")

    assert json.loads(embedded_tsstats("token", "list", "--json").output) == []
    text = embedded_tsstats("token", "create", "web-1").output.strip()
    assert [r["key_id"] for r in embedded_tsstats("token", "list", "--json").json] == [
        read_token(text).key_id
    ]


@pytest.mark.parametrize("verb", ["serve", "up"])
def test_does_not_open_the_service_to_everybody_by_oversight(new_tsstats, database_uri, verb):
    done = new_tsstats(verb, "--listen", "0.0.0.0:1", "--database", database_uri, TSSTATS_AUTH="")
    assert done.code == 1

    done = new_tsstats(verb, "--listen", "0.0.0.0:18999", "--database", database_uri)

    assert done.code == 1
    assert "TSSTATS_AUTH=on and make tokens with `tsstats token create`" in done.errors
    assert "TSSTATS_AUTH=off" in done.errors
    assert "Traceback" not in done.errors
    assert "Starting gunicorn" not in done.errors


def test_up_with_tokens_says_how_to_make_the_first(new_tsstats, new_database):
    with new_database("first_token", migrated=True) as uri:
        new_tsstats.uri = uri
        new_tsstats.data_dir.mkdir(parents=True)
        with new_tsstats.up(TSSTATS_AUTH="on", TSSTATS_WORKERS="1") as running:
            assert "`tsstats token create HOST` makes one" in running.log
            assert running.post(b"{}").status == 401
        with psycopg2.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM rejects")
            assert cursor.fetchone() == (0,)
        connection.close()

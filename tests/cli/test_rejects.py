"""`tsstats rejects` as an operator uses it."""

import json

import pytest

UNKNOWN = {"a": 1, "note": "tskey-auth-SECRET"}


@pytest.fixture
def refused(service, tsstats, make_status):
    """Three rejects: one that no release knows, one that is only early, one with a misspelt parameter."""
    assert tsstats("rejects", "drop", "--all", "--yes").code == 0
    assert service.request("POST", "/v1/ingest/tailscale", json.dumps(UNKNOWN)).status == 422
    assert service.request("POST", "/?host=edge&time=2999-01-01", json.dumps(make_status())).status == 422
    assert service.request("POST", "/?tiem=2026-01-01", json.dumps(make_status())).status == 400
    return [reject["id"] for reject in tsstats("rejects", "list", "--json").json]


def test_lists_what_was_refused(tsstats, refused):
    done = tsstats("rejects", "list")
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines] == [*map(str, refused), "(3"]
    assert [line.split()[2] for line in lines[:3]] == ["127.0.0.1", "edge", "127.0.0.1"]
    assert "unknown-source" in lines[0]
    assert "lies in the future" in lines[1]
    assert lines[3] == "(3 rejects)"
    listed = tsstats("rejects", "list", "--host", "edge", "--json").json
    assert [(r["id"], r["reason"], r["time"], r["retries"]) for r in listed] == [
        (refused[1], "timestamp-out-of-range", "2999-01-01T00:00:00Z", 0)
    ]
    assert tsstats("rejects", "list", "--since", "2998-01-01").output == "(0 rejects)\n"
    assert len(tsstats("rejects", "list", "--reason", "bad-parameter", "--json").json) == 1


def test_shows_the_payload_as_it_came_and_why_it_was_refused(tsstats, refused):
    done = tsstats("rejects", "show", refused[0])
    assert done.code == 0
    assert json.loads(done.output) == UNKNOWN | {"note": "tskey-<redacted>"}
    assert "reason: unknown-source\n" in done.errors
    assert "sender: 127.0.0.1\n" in done.errors
    shown = tsstats("rejects", "show", refused[0], "--json").json
    assert shown["payload"] == done.output
    assert shown["kept_bytes"] == len(done.output)


def test_says_that_a_payload_was_too_large_to_be_kept(service, tsstats, refused):
    large = json.dumps({"a": ["x" * 1000] * 1100})
    assert service.request("POST", "/v1/ingest/tailscale", large).status == 422
    assert f"{len(large):,} bytes, not kept" in tsstats("rejects", "list").output
    newest = tsstats("rejects", "list", "--json").json[-1]["id"]
    done = tsstats("rejects", "show", newest)
    assert (done.code, done.output) == (1, "")
    assert "at most 1,048,576 are kept" in done.errors
    done = tsstats("rejects", "retry", newest)
    assert done.code == 1
    assert "Ask for it to be sent again." in done.errors


def test_retries_what_can_be_stored_and_keeps_the_rest(tsstats, refused):
    done = tsstats("rejects", "retry", "--all")
    assert done.code == 65
    assert (
        done.output == "3 rejects: 0 documents stored (0 rows), 0 there already, 3 rejects refused again.\n"
    )
    done = tsstats("rejects", "retry", refused[1], refused[2], "--time", "2026-11-20T12:00:00Z", "--json")
    assert done.code == 0
    assert done.json["stored"] == 2
    sql = "SELECT name FROM hosts JOIN tailscale_status USING (host_id) WHERE time = '2026-11-20T12:00:00Z'"
    assert sorted(row["name"] for row in tsstats("query", sql, "--json").json) == ["edge", "gateway"]
    (left,) = tsstats("rejects", "list", "--json").json
    assert (left["id"], left["retries"]) == (refused[0], 1)
    assert left["retried_at"] > left["received_at"]


def test_retries_all_of_a_reason(tsstats, refused):
    done = tsstats("rejects", "retry", "--all", "--reason", "unknown-source")
    assert done.code == 65
    assert f"reject {refused[0]}: " in done.errors
    assert "1 reject: 0 documents stored" in done.output


def test_drops_what_is_named(tsstats, refused):
    assert tsstats("rejects", "drop", refused[0]).output == "Dropped 1 reject.\n"
    assert (
        tsstats("rejects", "drop", "--all", "--reason", "bad-parameter", "--yes").output
        == "Dropped 1 reject.\n"
    )
    asked = tsstats("rejects", "drop", "--all", stdin=b"n\n")
    assert asked.code == 1
    assert "This drops 1 reject. Go on?" in asked.errors
    assert [reject["id"] for reject in tsstats("rejects", "list", "--json").json] == [refused[1]]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("retry",), 2, "Name rejects by their IDs, or say --all."),
        (("retry", "1", "--all"), 2, "Name rejects by their IDs, or say --all."),
        (("drop", "1", "--reason", "x"), 2, "--reason goes with --all."),
        (("retry", "999999"), 1, "There is no reject 999999. `tsstats rejects list`"),
        (("show", "999999"), 1, "There is no reject 999999."),
        (("show", "x"), 2, "'x' is not a valid integer"),
        (("show", "99999999999999999999"), 1, "There is no reject"),
    ],
)
def test_says_what_is_wrong(service, tsstats, words, code, said):
    done = tsstats("rejects", *words)
    assert done.code == code
    assert said in done.errors
    assert "Traceback" not in done.errors


def test_a_database_that_is_away_is_to_be_tried_later(tsstats):
    done = tsstats("rejects", "list", "--database", "postgresql://nobody@127.0.0.1:1/none")
    assert done.code == 75

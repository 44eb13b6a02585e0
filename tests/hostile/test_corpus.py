"""Every case of what is JSON and what is not, sent to the service: alone, and as a field that nobody knows.

The cases and their outcomes are those of test_json_conformance. With TSSTATS_TEST_JSON_SUITE
the files of JSONTestSuite are sent too.
"""

import json

import pytest

from tests.test_json_conformance import (
    ACCEPTED,
    BYTES,
    EITHER_WAY,
    EMPTY,
    MALFORMED,
    NUMBERS,
    STRINGS,
    STRUCTURES,
    SUITE,
    TRUNCATED,
    UNSTORABLE,
    WHITE_SPACE,
    suite,
)

REFUSED = {MALFORMED: 400, TRUNCATED: 400, EMPTY: 400, UNSTORABLE: 422}
VALUES = NUMBERS | STRINGS | BYTES | STRUCTURES


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def alone(outcome):
    """Of a body that is the case: no case is a document of a source."""
    return 422 if outcome is ACCEPTED or not isinstance(outcome, str) else REFUSED.get(outcome, 422)


def inside(outcome):
    """Of a document with the case in it, which is one level deeper."""
    if outcome is ACCEPTED or outcome == "\0":
        return 422
    return REFUSED.get(outcome, 200) if isinstance(outcome, str) and outcome != EMPTY else 200


@pytest.fixture
def around(status):
    """Puts a text into a document in order, as the value of a field that nobody knows."""
    before, behind = json.dumps(status | {"NewField": "here"}).encode().split(b'"here"')
    return lambda text: before + text + behind


def test_a_body_that_is_a_case_is_refused_by_its_outcome(intake):
    cases = {as_bytes(text): alone(outcome) for text, outcome in (VALUES | WHITE_SPACE).items()}
    with intake.unchanged():
        assert {body: intake.post(body).status for body in cases} == cases


def test_a_case_inside_a_document_is_kept_or_refused_by_its_outcome(intake, around):
    cases = {as_bytes(text): inside(outcome) for text, outcome in VALUES.items()}
    # The deepest that is read as JSON at all.
    cases[b"[" * 1024 + b"]" * 1024] = 400
    # As many objects as may be; here there are a few more.
    cases[b'[{"a":' * 50_000] = 413
    assert {text: intake.judged(around(text)) for text in cases} == cases


@suite
def test_the_suite_is_refused_or_kept_as_it_says(intake, around):
    files = {path.stem: path.read_bytes() for path in sorted(SUITE.glob("*.json"))}
    with intake.unchanged():
        statuses = {name: intake.post(body).status for name, body in files.items()}
    # A body is a list of documents: an empty array holds none.
    assert {name for name, status in statuses.items() if name[:2] == "y_" and status != 422} == {
        "y_array_empty",
        "y_structure_whitespace_array",
    }
    assert {status for name, status in statuses.items() if name[:2] == "n_"} == {400}
    assert {name for name, status in statuses.items() if name[:2] == "i_" and status != 400} == set(
        EITHER_WAY
    )

    statuses = {name: intake.judged(around(body)) for name, body in files.items()}
    assert {name: status for name, status in statuses.items() if name[:2] == "y_" and status != 200} == {
        "y_object_escaped_null_in_key": 422,
        "y_string_null_escape": 422,
    }
    # As many objects as may be; here there are a few more.
    assert {name: status for name, status in statuses.items() if name[:2] == "n_" and status != 400} == {
        "n_structure_open_array_object": 413
    }
    assert {name: status for name, status in statuses.items() if name[:2] == "i_" and status != 400} == {
        name: 422 if outcome == UNSTORABLE else 200
        for name, outcome in EITHER_WAY.items()
        # Another encoding, or a byte order mark, is one of a whole body.
        if "UTF-8_BOM" not in name and "utf16" not in name and "UTF-16" not in name
    }

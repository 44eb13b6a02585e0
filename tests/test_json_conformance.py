"""What is JSON and what is not, RFC 8259: each case with its one outcome.

`TSSTATS_TEST_JSON_SUITE` may name a folder of JSONTestSuite (github.com/nst/JSONTestSuite,
`test_parsing`); its files are then read as well.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringstats_ts.decode import documents, refuse_rounded
from ringstats_ts.errors import PayloadError

MALFORMED, TRUNCATED, UNSTORABLE, EMPTY = (
    "malformed-payload",
    "truncated-payload",
    "unstorable-payload",
    "empty-payload",
)
ACCEPTED = object()
LONE = "\\ud800"

# A string of the table stands for a value, a code for a refusal.
NUMBERS: dict[str, Any] = {
    "0": 0,
    "-0": 0,
    "-0.0": -0.0,
    "123": 123,
    "1.5": 1.5,
    "1e2": 100.0,
    "1E+2": 100.0,
    "1e-2": 0.01,
    "20e1": 200.0,
    "9223372036854775807": 2**63 - 1,
    "-9223372036854775808": -(2**63),
    "18446744073709551615": 2**64 - 1,
    "18446744073709551616": UNSTORABLE,
    "-9223372036854775809": UNSTORABLE,
    "1" * 5000: MALFORMED,
    "1" * 300: UNSTORABLE,
    "123456789012345678901e0": 123456789012345678901.0,
    "123456789012345678901.5": 123456789012345678901.5,
    "1e400": MALFORMED,
    "-1e400": MALFORMED,
    "0.4e00669999999999999999999999999": MALFORMED,
    "1e-400": 0.0,
    "123.456e-99999999": 0.0,
    "0." + "0" * 400 + "1": 0.0,
    "00": MALFORMED,
    "01": MALFORMED,
    "-01": MALFORMED,
    "+1": MALFORMED,
    "-": MALFORMED,
    "--1": MALFORMED,
    "- 1": MALFORMED,
    ".5": MALFORMED,
    "-.5": MALFORMED,
    "5.": MALFORMED,
    "1.e2": MALFORMED,
    "1e": MALFORMED,
    "1e+": MALFORMED,
    "1e1.5": MALFORMED,
    "1 000": MALFORMED,
    "1_000": MALFORMED,
    "0x10": MALFORMED,
    "1f": MALFORMED,
    "١": MALFORMED,
    "１": MALFORMED,
    "NaN": MALFORMED,
    "-NaN": MALFORMED,
    "nan": MALFORMED,
    "Infinity": MALFORMED,
    "-Infinity": MALFORMED,
    "inf": MALFORMED,
}
STRINGS: dict[str, Any] = {
    '""': "",
    '"é€😀"': "é€😀",
    '"\\u00e9\\u20AC\\ud83d\\ude00"': "é€😀",
    '"\\"\\\\\\/\\b\\f\\n\\r\\t"': '"\\/\b\f\n\r\t',
    '"\\\\u0041"': "\\u0041",
    '"\x7f\u2028\u2029"': "\x7f\u2028\u2029",
    '"\\uFFFF\\uFDD0"': "\uffff\ufdd0",
    '"\\u0000"': "\0",  # a source refuses it, with the place where it stands
    '"/* */ // #"': "/* */ // #",
    '"[{"': "[{",
    f'"{LONE}"': MALFORMED,
    f'"{LONE}x"': MALFORMED,
    f'"{LONE}\\u0041"': MALFORMED,
    f'"{LONE}{LONE}"': MALFORMED,
    '"\\udc00"': MALFORMED,
    '"\\ude00\\ud83d"': MALFORMED,
    '"\\x41"': MALFORMED,
    '"\\u004"': MALFORMED,
    '"\\u 041"': MALFORMED,
    '"\\U00000041"': MALFORMED,
    '"\\a"': MALFORMED,
    '"\\\'"': MALFORMED,
    '"a\nb"': MALFORMED,
    '"a\tb"': MALFORMED,
    '"a\0b"': MALFORMED,
    '"\x1f"': MALFORMED,
    "'a'": MALFORMED,
    "a": MALFORMED,
    "“a”": MALFORMED,
    "\\u0022a\\u0022": MALFORMED,
    '"a" "b"': MALFORMED,
}
BYTES: dict[bytes, Any] = {
    b'"\xc3\xa9"': "é",
    b'"\xf4\x8f\xbf\xbf"': "\U0010ffff",
    b'"\xe9"': MALFORMED,  # Latin-1
    b'"\x80"': MALFORMED,  # continuation alone
    b'"\xc3"': MALFORMED,  # cut off
    b'"\xe2\x82"': MALFORMED,
    b'"\xc0\xaf"': MALFORMED,  # longer than need be
    b'"\xe0\x80\xaf"': MALFORMED,
    b'"\xf8\x88\x80\x80\x80"': MALFORMED,
    b'"\xed\xa0\x80"': MALFORMED,  # half a surrogate pair
    b'"\xed\xa0\xbd\xed\xb8\x80"': MALFORMED,  # CESU-8
    b'"\xf4\x90\x80\x80"': MALFORMED,  # behind the last character
    b'"\xff\xfe"': MALFORMED,
    b"\xff": MALFORMED,
    b"1\xe2\x80\x8b": MALFORMED,  # a space that nobody sees
    b"\xc2\xa01": MALFORMED,
}
STRUCTURES: dict[str, Any] = {
    '{"a":1}': {"a": 1},
    '{"a":[true,false,null,{}]}': {"a": [True, False, None, {}]},
    '{"":{"":[]}}': {"": {"": []}},
    '{"a\\u0062":1}': {"ab": 1},
    '{"a":1,"a":2}': {"a": 2},
    '{"a":1,"\\u0061":2}': {"a": 2},
    '{"a":{"b":1},"a":{}}': {"a": {}},
    "true": True,
    "null": None,
    '"a"': "a",
    "[]": EMPTY,
    "[ \n]": EMPTY,
    "{}": {},
    '{"a":1,}': MALFORMED,
    "{,}": MALFORMED,
    '{"a"}': MALFORMED,
    '{"a":}': MALFORMED,
    '{"a" 1}': MALFORMED,
    '{"a":1 "b":2}': MALFORMED,
    '{"a":1;"b":2}': MALFORMED,
    '{"a":1]': MALFORMED,
    '{"a"::1}': MALFORMED,
    "{a:1}": MALFORMED,
    "{'a':1}": MALFORMED,
    "{1:1}": MALFORMED,
    "{null:1}": MALFORMED,
    "{[]:1}": MALFORMED,
    '{"a":1}}': MALFORMED,
    '{"a":1}{"b":2}': MALFORMED,
    '{"a":1},{"b":2}': MALFORMED,
    '{"a":1}#': MALFORMED,
    '{"a":1} // x': MALFORMED,
    '{"a":/* x */1}': MALFORMED,
    '{"a":True}': MALFORMED,
    '{"a":TRUE}': MALFORMED,
    '{"a":nul}': MALFORMED,
    '{"a":None}': MALFORMED,
    '{"a":undefined}': MALFORMED,
    '{"a":...}': MALFORMED,
    '{"a":1': TRUNCATED,
    '{"a":': TRUNCATED,
    '{"a': TRUNCATED,
    '{"a":"': TRUNCATED,
    '{"a":"\\"': TRUNCATED,
    '{"a":"\\\\\\"}': TRUNCATED,
    '{"a":"\\u00': TRUNCATED,
    '{"a":"b""}': TRUNCATED,
    "{": TRUNCATED,
    "[": TRUNCATED,
    '[{"a":"]}"': TRUNCATED,
    '[{"a":"\\"]}"},': TRUNCATED,
    "[1,]": MALFORMED,
    "[,1]": MALFORMED,
    "[1,,2]": MALFORMED,
    "[1 2]": MALFORMED,
    "[1}": MALFORMED,
    "]": MALFORMED,
    "}": MALFORMED,
    "1]": MALFORMED,
    "[" * 65 + "]" * 65: ACCEPTED,  # 64 levels in an array of documents
    '{"a":' * 64 + "1" + "}" * 64: ACCEPTED,
    '{"a":' * 65 + "1" + "}" * 65: UNSTORABLE,
    "[" * 66 + "]" * 66: UNSTORABLE,
    "[" * 1024 + "]" * 1024: UNSTORABLE,
    "[" * 1025 + "]" * 1025: MALFORMED,
    "[" * 100_000: TRUNCATED,
    '[{"a":' * 50_000: TRUNCATED,
}
WHITE_SPACE: dict[bytes, Any] = {
    b" \t\r\n1 \t\r\n": 1,
    b'{ "a"\t:\r\n1\n}': {"a": 1},
    b"\xef\xbb\xbf1": 1,
    "\ufeff{}".encode("utf-16-le"): {},
    "\ufeff{}".encode("utf-16-be"): {},
    "{}".encode("utf-16-le"): {},
    "{}".encode("utf-16-be"): {},
    "\ufeff{}".encode("utf-32-le"): MALFORMED,
    "\ufeff{}".encode("utf-32-be"): MALFORMED,
    b"\xef\xbb\xbf\xef\xbb\xbf1": MALFORMED,
    b"1\xef\xbb\xbf": MALFORMED,
    b"\xef\xbb1": MALFORMED,
    b"\xff\xfe{\x00\x00\xd8": MALFORMED,
    b"\x0c1": MALFORMED,
    b"1\x0b": MALFORMED,
    b"\xc2\x851": MALFORMED,
    b"1\0": 1,  # UTF-16
    b"1 \0": MALFORMED,
    b"{}   \0": MALFORMED,
    b"": EMPTY,
    b" \t\r\n": EMPTY,
    b"\xef\xbb\xbf": EMPTY,
}


def cases() -> Iterator[Any]:
    for category in ("NUMBERS", "STRINGS", "BYTES", "STRUCTURES", "WHITE_SPACE"):
        for number, (text, outcome) in enumerate(globals()[category].items()):
            body = text if isinstance(text, bytes) else text.encode()
            yield pytest.param(body, outcome, id=f"{category.lower()}-{number}-{text[:20]!r}")


@pytest.mark.parametrize(("body", "outcome"), list(cases()))
def test_every_case_has_its_outcome(body: bytes, outcome: Any) -> None:
    got = decoded(body)
    if outcome in (MALFORMED, TRUNCATED, UNSTORABLE, EMPTY):
        assert got == outcome
    elif outcome is ACCEPTED:
        assert isinstance(got, dict | list)
    else:
        assert repr(got) == repr(outcome)


@pytest.mark.parametrize(("text", "outcome"), [*NUMBERS.items(), *STRINGS.items()])
def test_inside_of_a_document_the_outcome_is_the_same(text: str, outcome: Any) -> None:
    for before, behind in (('{"a":', "}"), ('[{"a":[', "]}]"), ('{"a":1}\n{"a":', "}\n"), ('{"a" : ', " }")):
        got = decoded(f"{before}{text}{behind}".encode())
        if outcome in (MALFORMED, UNSTORABLE):
            assert got == outcome
        else:
            assert isinstance(got, dict)


SUITE = Path(os.environ.get("TSSTATS_TEST_JSON_SUITE", "")) / "test_parsing"
suite = pytest.mark.skipif(
    not (os.environ.get("TSSTATS_TEST_JSON_SUITE") and SUITE.is_dir()),
    reason="TSSTATS_TEST_JSON_SUITE names no copy of JSONTestSuite",
)

EITHER_WAY = {
    "i_number_double_huge_neg_exp": "ok",
    "i_number_real_underflow": "ok",
    "i_number_too_big_neg_int": UNSTORABLE,
    "i_number_too_big_pos_int": UNSTORABLE,
    "i_number_very_big_negative_int": UNSTORABLE,
    "i_string_UTF-16LE_with_BOM": "ok",
    "i_string_utf16BE_no_BOM": "ok",
    "i_string_utf16LE_no_BOM": "ok",
    "i_structure_500_nested_arrays": UNSTORABLE,
    "i_structure_UTF-8_BOM_empty_object": "ok",
}
"""What is left to us; all the others are malformed."""


@suite
def test_the_suite_is_accepted_and_refused_as_it_says() -> None:
    outcomes = {path.stem: outcome(path.read_bytes()) for path in sorted(SUITE.glob("*.json"))}
    # A body is a list of documents: an empty array holds none.
    assert {name for name, got in outcomes.items() if name[:2] == "y_" and got != "ok"} == {
        "y_array_empty",
        "y_structure_whitespace_array",
    }
    refused = {got for name, got in outcomes.items() if name[:2] == "n_"}
    assert refused == {MALFORMED, TRUNCATED, EMPTY}
    assert {
        name: got for name, got in outcomes.items() if name[:2] == "i_" and got != MALFORMED
    } == EITHER_WAY


def outcome(body: bytes) -> str:
    got = decoded(body, first=False)
    return "ok" if isinstance(got, list) else got


def decoded(body: bytes, *, first: bool = True) -> Any:
    """The first document, or all of them; the code of the error where there is one."""
    try:
        found = documents(body, max_documents=1000)
        refuse_rounded(body)
    except PayloadError as error:
        return error.code
    return found[0].value if first else found

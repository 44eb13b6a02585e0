"""What a document must not exceed, and that no body makes the service think for long."""

import time
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringstats_ts.decode import documents, refuse_rounded, separate_documents
from ringstats_ts.errors import PayloadError, UnstorablePayload
from ringstats_ts.limits import Limits, is_cut, refuse_beyond, surely_within

NASTY = st.text(st.sampled_from('[]{}"\\,:x é€0'), max_size=12)
VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NASTY, inner, max_size=3),
    max_leaves=20,
)
SMALL = Limits(depth=3, key_bytes=9, string_bytes=10)
SIZE = 4 * 1024 * 1024


def depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


def longest(value: Any, kind: str) -> int:
    own = [value] if isinstance(value, str) and kind == "string" else []
    if isinstance(value, dict):
        own = list(value) if kind == "key" else own
        inside = list(value.values())
    else:
        inside = value if isinstance(value, list) else []
    return max([len(text.encode()) for text in own] + [longest(member, kind) for member in inside], default=0)


@given(VALUES, st.booleans())
@example(["]", ["]", ["]", ["]", "["], "["], "["], "["], False)
@example([[], [[], [[]]]], False)
@example({'"' * 5: "\\" * 5}, False)
def test_the_limits_are_exact(value: Any, indented: bool) -> None:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else 0)
    within = depth(value) <= 3 and longest(value, "key") <= 9 and longest(value, "string") <= 10
    try:
        refuse_beyond(value, SMALL)
        assert within
    except UnstorablePayload:
        assert not within
    assert within or not surely_within(text, SMALL)
    assert depth(value) <= 3 or not surely_within(text, Limits(depth=3))


def test_a_usual_document_needs_no_second_look() -> None:
    peer = {"URL": "http://[fd7a::1]:80", "Name": 'Ana’s "Mac" \\', "Tags": [["x" * 200]], "é" * 100: "}]"}
    text = orjson.dumps({"Peer": {f"nodekey:{number}": peer for number in range(50)}})
    assert surely_within(text, Limits())
    assert not surely_within(text, Limits(depth=4))


@pytest.mark.parametrize(
    ("document", "message", "pointer"),
    [
        ({"a": [{"b/": "x" * 65_537}]}, "A string is 65,537 bytes long; 65,536 are taken", "/a/0/b~1"),
        ({"a": {"b": {"k" * 513: 1}}}, "A key is 513 bytes long; 512 are taken", "/a/b"),
        ({"a": "é" * 32_769}, "A string is 65,538 bytes long", "/a"),
        ({'"' * 513: 1}, "A key is 513 bytes long", ""),
        ({"a": '"' * 65_537}, "A string is 65,537 bytes long", "/a"),
        ("x" * 65_537, "A string is 65,537 bytes long", ""),
    ],
)
def test_long_keys_and_strings_are_refused(document: Any, message: str, pointer: str) -> None:
    body = orjson.dumps(document)
    with pytest.raises(UnstorablePayload, match=message) as caught:
        documents(body, max_documents=1)
    kind = message.split()[1].upper()
    assert (caught.value.pointer, caught.value.line) == (pointer, None)
    assert caught.value.hint == f"Send it without, or raise TSSTATS_MAX_{kind}_BYTES."
    with pytest.raises(UnstorablePayload, match=message) as caught:
        documents(b"{}\n\n" + orjson.dumps({"d": document}) + b"\n{}", max_documents=5)
    assert (caught.value.pointer, caught.value.line) == (f"/d{pointer}", 3)
    good, bad = separate_documents(b"{}\n" + orjson.dumps({"d": document}), max_documents=5)
    assert good.error is None
    assert isinstance(bad.error, UnstorablePayload)


def test_keys_and_strings_as_long_as_they_may_be_are_taken() -> None:
    document = {"k" * 512: "x" * 65_536, '"' * 512: '"' * 65_536, "é" * 256: "é" * 32_768}
    (found,) = documents(orjson.dumps(document), max_documents=1)
    assert found.value == document
    raised = {"max_key_bytes": 2, "max_string_bytes": 3}
    with pytest.raises(UnstorablePayload, match="A string is 4 bytes long; 3 are taken"):
        documents(b'{"aa":"abc","bb":["abcd"]}', max_documents=1, **raised)


@given(st.lists(VALUES, max_size=4), st.data())
def test_a_cut_is_seen_wherever_it_is(values: list[Any], data: st.DataObject) -> None:
    text = orjson.dumps(values)
    end = data.draw(st.integers(1, len(text)))
    assert is_cut(text[:end]) == (end < len(text))


@given(
    st.lists(st.integers(-(10**22), 10**22) | st.sampled_from([2**64, 2**64 - 1, -(2**63), -(2**63) - 1])),
    st.text(st.sampled_from('0123456789",:-\\ '), max_size=60),
    st.booleans(),
)
def test_integers_that_would_be_rounded_are_found(numbers: list[int], text: str, first: bool) -> None:
    written = orjson.dumps(text).decode()
    parts = [written, *map(str, numbers)] if first else [*map(str, numbers), written]
    body = f"[{','.join(parts)}]".encode()
    if all(-(2**63) <= number < 2**64 for number in numbers):
        refuse_rounded(body)
        return
    with pytest.raises(UnstorablePayload, match="more than 64 bits"):
        refuse_rounded(body)


def filled(unit: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    return before + unit * ((SIZE - len(before) - len(behind)) // len(unit)) + behind


DEEP = b"[" * 1000 + b"]" * 1000
HOSTILE = {
    "open strings": filled(b'"', b'{"a":'),
    "brackets in strings": filled(b'"[",', b"["),
    "brackets in strings of a line": b"{}\n" + filled(b'"["'),
    "open brackets": filled(b"["),
    "open brackets of a line": filled(b"[", b"{}\n"),
    "closed brackets": filled(b"[]"),
    "deep arrays side by side": filled(DEEP + b",", b"[", b"1]"),
    "deep arrays": filled(b"[" * 64 + b"]" * 64 + b",", b'{"a":[', b"1]}"),
    "escaped quotes": filled(b'\\"', b'{"a":"', b'"}'),
    "escaped quotes, open": filled(b'\\"', b'{"a":"'),
    "backslashes": filled(b"\\", b'{"a":"'),
    "blank lines": filled(b"\n", b"{}", b"{}"),
    "blank lines before nonsense": filled(b"\n", b"", b"x"),
    "lines": filled(b"{}\n"),
    "warnings": filled(b"#\n", b"", b"{"),
    "spaces before a warning": filled(b" ", b"", b"#"),
    "one number": filled(b"1", b'{"a":', b"}"),
    "long integers": filled(b"123456789012345678901,", b'{"a":[', b"1]}"),
    "integers as long as may be": filled(b"1234567890123456789,", b'{"a":[', b"1]}"),
    "long integers in a string": filled(b",123456789012345678901", b'{"a":"', b'"}'),
    "long integers in strings": filled(b'":12345678901234567890",', b'{"a":[', b"1]}"),
    "minus signs": filled(b"-"),
    "one string": filled(b"x", b'{"a":"', b'"}'),
    "one key": filled(b"x", b'{"', b'":1}'),
    "keys": b"{" + b",".join(b'"%d":1' % number for number in range(400_000)) + b"}",
    "the same key": filled(b'"a":1,', b"{", b'"a":1}'),
    "strings, and a gap that asks for a closer look": filled(b'"",', b'{"a":[' + b" " * 600, b"1]}"),
    "NUL": filled(b"\0"),
    "UTF-16": b"\xff\xfe" + filled(b"\x00\xd8"),
    "spaces": filled(b" "),
    "lines of strings": (b'{"a":"' + b"x " * 400 + b'"}\n') * 5000,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("read", [documents, separate_documents])
def test_no_body_takes_long(body: bytes, read: Any) -> None:
    started = time.process_time()
    for look in (lambda: read(body, max_documents=5000), lambda: refuse_rounded(body)):
        with suppress(PayloadError):
            look()
    # Some 0.1 s: what is not in proportion to the size takes minutes.
    assert time.process_time() - started < 5

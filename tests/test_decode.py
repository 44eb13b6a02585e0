"""Bodies to documents: what curl, PowerShell and broken pipes send."""

import gzip
import json

import pytest

from ringstats_ts.decode import documents, inflate, refuse_rounded
from ringstats_ts.errors import (
    EmptyPayload,
    MalformedPayload,
    PayloadError,
    PayloadTooLarge,
    TruncatedPayload,
    UnstorablePayload,
)

DOCUMENT = {"BackendState": "Running", "Self": {"HostName": "Ana’s MacBook"}, "Peer": {}}
TEXT = json.dumps(DOCUMENT, ensure_ascii=False)


def decode(body, max_documents=100, max_depth=64):
    return documents(body, max_documents=max_documents, max_depth=max_depth)


@pytest.mark.parametrize(
    "body",
    [
        TEXT.encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.encode("utf-16"),
        b"\xff\xfe" + TEXT.replace("\n", "\r\n").encode("utf-16-le"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        b"\r\n  " + TEXT.encode() + b"\n\n",
    ],
)
def test_reads_every_encoding_that_hosts_send(body):
    (document,) = decode(body)
    assert document.value == DOCUMENT


def test_reads_utf16_whose_nul_bytes_curl_d_dropped():
    ascii_only = json.dumps(DOCUMENT)
    (document,) = decode(b"\xff\xfe" + ascii_only.encode())
    assert document.value == DOCUMENT


def test_reads_lines_and_counts_them_with_the_empty_ones():
    found = decode(b'{"a":1}\n\n{"a":2}\r\n{"a":3}')
    assert [(d.value["a"], d.line) for d in found] == [(1, 1), (2, 3), (3, 4)]


def test_reads_arrays():
    assert [(d.value["a"], d.index) for d in decode(b'[{"a":1},{"a":2}]')] == [(1, 0), (2, 1)]


@pytest.mark.parametrize("body", [b"", b" \n\t ", b"\xef\xbb\xbf", b"[]", "\ufeff".encode("utf-16-le")])
def test_an_empty_body_says_so(body):
    with pytest.raises(EmptyPayload):
        decode(body)


def test_truncation_anywhere_is_told_from_nonsense():
    body = TEXT.encode()
    for end in range(1, len(body)):
        with pytest.raises(TruncatedPayload):
            decode(body[:end])


def test_a_warning_in_front_has_its_own_answer():
    warning = b'Warning: client version "1.80.0" != tailscaled server version "1.78.1"\n'
    with pytest.raises(MalformedPayload, match="2>&1") as caught:
        decode(warning + TEXT.encode())
    assert "client version" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>502</html>", "begins with `<`, as HTML and XML do"),
        (b"failed to connect to local tailscaled", "begins with letters"),
        (b"7aBkXh0=\tpublic\t51820\toff", "begins with digits"),
        (b"(none)\t", "begins with a mark"),
        (b"\x16\x03\x01", "begins with bytes that are not ASCII text"),
        (b'{"a": 1,}', "line 1, column"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON|UTF-8"),
    ],
)
def test_what_is_not_json_is_told_by_its_first_byte(body, message):
    with pytest.raises(MalformedPayload, match=message):
        decode(body)


def test_a_bad_line_is_named():
    with pytest.raises(MalformedPayload) as caught:
        decode(b'{"a":1}\nnonsense\n{"a":3}')
    assert caught.value.line == 2


def test_a_cut_last_line_is_truncated():
    with pytest.raises(TruncatedPayload) as caught:
        decode(b'{"a":1}\n{"a":')
    assert caught.value.line == 2


def test_limits_depth_lines_and_elements():
    with pytest.raises(UnstorablePayload, match="deeper than 64"):
        decode(b"[" * 1 + b'{"a":' * 70 + b"1" + b"}" * 70 + b"]")
    with pytest.raises(PayloadTooLarge, match="more than 3 lines"):
        decode(b'{"a":1}\n' * 4, max_documents=3)
    with pytest.raises(PayloadTooLarge, match="more than 3 elements"):
        decode(b"[{},{},{},{}]", max_documents=3)


def test_a_thousand_levels_do_not_crash():
    with pytest.raises(PayloadError):
        decode(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


def test_inflates_members_one_behind_the_other():
    body = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0\0"
    assert inflate([body], 100) == b"one two"
    assert inflate([body[i : i + 1] for i in range(len(body))], 100) == b"one two"


def test_a_bomb_stops_at_the_limit():
    bomb = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(PayloadTooLarge):
        inflate([bomb], 1_000_000)


@pytest.mark.parametrize("end", [5, 12, -1])
def test_truncated_gzip_is_told(end):
    with pytest.raises(TruncatedPayload):
        inflate([gzip.compress(TEXT.encode())[:end]], 10_000)


def test_damaged_gzip_is_told():
    damaged = bytearray(gzip.compress(TEXT.encode()))
    damaged[20] ^= 0xFF
    with pytest.raises(MalformedPayload):
        inflate([bytes(damaged)], 10_000)
    with pytest.raises(MalformedPayload):
        inflate([gzip.compress(b"x") + b"garbage"], 10_000)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_an_integer_that_would_be_rounded_is_refused(number):
    for body in (f'{{"a": {number}}}', f'{{"a": 1}}\n{{"a": [1, {number}]}}'):
        with pytest.raises(UnstorablePayload, match="more than 64 bits"):
            refuse_rounded(body.encode())


def test_integers_of_64_bits_long_fractions_and_digits_in_strings_pass():
    refuse_rounded(f'{{"a": {2**64 - 1}, "b": -{2**63}, "c": 0.{"1" * 30}, "d": ": {"1" * 30} ,"}}'.encode())


def test_values_are_counted_before_they_are_made():
    with pytest.raises(PayloadTooLarge, match="more than 1000 values"):
        documents(b"[" + b"[]," * 2000 + b"[]]", max_documents=10_000, max_depth=64, max_values=1000)


def test_an_object_counts_for_twenty_values():
    body = b"[" + b",".join([b'{"a":1}'] * 51) + b"]"
    with pytest.raises(PayloadTooLarge, match="more than 50 objects"):
        documents(body, max_documents=100, max_values=1000)
    assert len(documents(body, max_documents=100, max_values=1020)) == 51

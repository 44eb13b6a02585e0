"""Bodies made to be costly: none within the limits takes a worker longer than seconds."""

import gzip
import json
import random

import pytest

from ringstats_ts.config import Config
from tests.examples import TIMES
from tests.hostile.intake import MIB, processor_seconds

CONFIG = Config.from_env({})
SMALL = CONFIG.max_body_bytes
LARGE = CONFIG.max_document_bytes
VALUES = CONFIG.max_values
SECONDS = 4
"""Twice of what the worst takes on a machine that others use."""


def filled(text, size, separator=b","):
    """As many of the text as there is room for."""
    return separator.join([text] * ((size - 100) // (len(text) + len(separator))))


def field(text):
    """A document in order with this as a field that nobody knows."""
    return b'{"BackendState":"Running","Self":{"HostName":"cost"},"New":' + text + b"}"


def numbered(template, count, separator=b","):
    return separator.join(template % ((number,) * template.count(b"%")) for number in range(count))


NODE = b'"nodekey:%d":{"ID":"n%d","PublicKey":"nodekey:%d","HostName":"h%d","RxBytes":%d}'
PLAIN = b'"k%d":{"ID":"x%d"}'
STAMPED = b'"%d":{"ID":"t%d","LastHandshake":"2026-01-01T00:00:00.123456789+01:37"}'


def peers(template, count):
    return (
        b'{"BackendState":"Running","Self":{"HostName":"cost"},"Peer":{' + numbered(template, count) + b"}}"
    )


def latin_text(size):
    return json.dumps(random.Random(1).randbytes(size // 3).decode("latin-1")).encode()


def bodies(size):
    deep = b'{"a":' * 62 + b"1" + b"}" * 62
    yield "spaces", field(b"1").ljust(size)
    yield "zeros", field(b"[" + filled(b"0", min(size, 2 * VALUES - 100)) + b"]")
    yield "empty arrays", field(b"[" + filled(b"[]", size) + b"]")
    yield "empty objects", field(b"[" + filled(b"{}", size) + b"]")
    yield "empty strings", field(b"[" + filled(b'""', size) + b"]")
    yield "floats", field(b"[" + filled(b"1.2345678901234567e-300", size) + b"]")
    yield "long integers", field(b"[" + filled(b"18446744073709551615", size) + b"]")
    yield "numbers of 60 digits", field(b"[" + filled(b"1." + b"7" * 60, size) + b"]")
    yield "one number", field(b"0." + b"1" * (size - 200))
    yield "integer of many digits", field(b"9" * (size - 200))
    yield "integers of 18 digits in strings", field(b"[" + filled(b'"%s"' % (b"9" * 30), size) + b"]")
    yield "deep", field(b"[" + filled(deep, size) + b"]")
    yield "too deep", field(b"[" + filled(b'{"a":' * 65 + b"1" + b"}" * 65, size) + b"]")
    yield "open brackets", b"[" * size
    yield "open objects", b'{"a":' * (size // 5)
    yield "escaped quotes", field(b'["' + b'\\"' * (size // 2 - 100) + b'"]')
    yield "backslashes", field(b'["' + b"\\\\" * (size // 2 - 100) + b'"]')
    yield "escapes", field(b"[" + filled(b'"' + b"\\u00e9" * 1000 + b'"', size) + b"]")
    yield "NUL at the end", field(b"[" + filled(b'"abcdefgh"', size - 20) + b',"\\u0000"]')
    yield "long strings", field(b"[" + filled(b'"' + b"x" * 65_000 + b'"', size) + b"]")
    yield "strings of 65,537", field(b"[" + filled(b'"' + b"x" * 65_537 + b'"', size) + b"]")
    yield "strings with brackets", field(b"[" + filled(b'"[{]}"', size) + b"]")
    yield "one key", field(b"{" + filled(b'"a":1', size) + b"}")
    yield "keys", field(b"{" + numbered(b'"%d":1', size // 12) + b"}")
    yield (
        "keys at the top",
        b'{"BackendState":"Running","Version":"1",' + numbered(b'"%d":1', size // 12) + b"}",
    )
    yield "long keys", field(b"{" + numbered(b'"' + b"k" * 500 + b'%d":1', size // 512) + b"}")
    yield "keys with secrets", field(b"{" + numbered(b'"tskey-auth-%d":"tskey-%d"', size // 40) + b"}")
    yield "nearly secrets", field(b'["' + b"tskey-/register/tss_" * (size // 20 - 20) + b'"]')
    yield "nearly secrets in strings", field(b"[" + filled(b'"' + b"tskey-" * 10_000 + b'"', size) + b"]")
    yield "nodes", peers(NODE, size // 100)
    yield "nodes of two fields", peers(PLAIN, size // 24)
    yield "times", peers(STAMPED, size // 80)
    yield "users", field(b"1")[:-1] + b',"User":{' + numbered(b'"%d":{"ID":%d}', size // 24) + b"}}"
    yield "addresses", field(b"1")[:-1] + b',"TailscaleIPs":[' + filled(b'"100.64.0.1"', size) + b"]}"
    yield "health", field(b"1")[:-1] + b',"Health":[' + numbered(b'"warning %d"', size // 18) + b"]}"
    yield "lines", filled(field(b"1"), size, b"\n")
    yield "blank lines", field(b"1") + b"\n" * (size - 200) + field(b"1")
    yield "lines of no document", filled(b"1", size, b"\n")
    yield "bad last line", filled(field(b"1"), size, b"\n") + b"\n{"
    yield "array of documents", b"[" + b",".join([field(b"1")] * 5000) + b"]"
    yield "array of unknown documents", b"[" + b",".join([b'{"a":1}'] * 5000) + b"]"
    yield "lines of unknown documents", b"\n".join([b'{"a":1}'] * 5000)
    yield "lines of no JSON", field(b"1") + b"\n" + b"\n".join([b"x"] * 4999)
    yield "warnings in front", b"# \n" * (size // 3 - 100) + b"{"
    yield "UTF-16", field(b"[" + filled(b'"abc"', size // 2) + b"]").decode().encode("utf-16")
    yield (
        "UTF-16 of one byte more",
        field(b"[" + filled(b'"abc"', size // 2) + b"]").decode().encode("utf-16") + b"\0",
    )
    yield "Latin", latin_text(size)
    yield "quotes", b'"' * size
    yield "AuthURL", b'{"AuthURL":' * (size // 11)
    yield "AuthURL and quotes", b'{"a":"' + b'AuthURL\\"' * (size // 9) + b'"'
    yield "AuthURL and spaces", b'{"AuthURL"' + b" " * (size - 200) + b"}"
    yield "AuthURLs and spaces", b"{" + (b'"AuthURL"' + b" " * 1000) * (size // 1009)


PATHS = ["/?host=cost", "/?host=cost&partial=1"]


@pytest.mark.parametrize("path", PATHS, ids=["whole", "partial"])
def test_a_body_costs_seconds_at_most(intake, path):
    # A quarter of the limit: the embedded database would take its time over more.
    costs = {name: spent(intake, body[:MIB], path) for name, body in bodies(MIB)}
    assert {name: cost for name, cost in costs.items() if cost > SECONDS} == {}


@pytest.mark.skipif(TIMES == 1, reason="takes minutes; TSSTATS_TEST_EXAMPLES=2 has it")
@pytest.mark.parametrize("path", PATHS, ids=["whole", "partial"])
def test_a_body_of_the_limit_costs_seconds_at_most(intake, path):
    costs = {}
    for size, pack in ((SMALL, bytes), (LARGE, gzip.compress)):
        for name, body in bodies(size):
            if len(sent := pack(body[:size])) <= SMALL:
                costs[name, size] = spent(intake, sent, path)
    assert {name: cost for name, cost in costs.items() if cost > 2 * SECONDS} == {}


def spent(intake, body, path):
    """Processor time that a request takes [s]. What the database has no time for is 503."""
    before = processor_seconds(intake.server)
    answer = intake.server.post(body, path)
    assert answer.status in (200, 400, 413, 422, 503), answer.content
    return processor_seconds(intake.server) - before

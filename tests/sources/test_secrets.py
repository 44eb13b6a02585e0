"""Secrets, entry by entry of the table: each alone, in every spelling and place, in whole and broken text."""

import json
from time import process_time

import orjson
import pytest

from ringstats_ts import shapes
from ringstats_ts.shapes import is_secret_name, redact_text, redact_url
from ringstats_ts.sources.canonical import canonical
from ringstats_ts.sources.secrets import keepable, redact, without_secrets

PLAIN = "hUnTer2SeCrEt"
"""It tells by nothing that it is a secret."""

NAMES = (*shapes.STEMS, *shapes.WORDS, *shapes.LAST_WORDS, *shapes.RUN_TOGETHER)
SPELLED = [
    *(name for name in NAMES),
    *(name.upper() for name in NAMES),
    *(f"the_{name}" for name in NAMES),
    *(f"X-{name.title()}" for name in NAMES),
    *(f"the{name.title()}" for name in NAMES),
]

TAIL = "0123456789abcdefABCDEF0123456789abcdef"
VALUES = {
    "skey-": [f"tskey-auth-{TAIL}", f"hskey-auth-{TAIL}"],
    "login.tailscale.com/a/": [f"https://login.tailscale.com/a/{TAIL}"],
    "/register/": [f"https://headscale.example/register/{TAIL}"],
    "tss_": [f"tss_abcdefgh_{TAIL}"],
    "bearer": [f"Bearer {TAIL}", f"bearer {TAIL}", "BEARER x7"],
    "basic": ["Basic dXNlcjpodW50ZXIy", "basic dXNlcjpodW50ZXIy"],
    "akia": ["AKIAIOSFODNN7EXAMPLE"],
    "asia": ["ASIAIOSFODNN7EXAMPLE"],
    "k_live_": [f"sk_live_{TAIL}", f"rk_live_{TAIL}"],
    "k_test_": [f"sk_test_{TAIL}"],
    "whsec_": [f"whsec_{TAIL}"],
    **{f"gh{kind}_": [f"gh{kind}_{TAIL}"] for kind in "oprsu"},
    "github_pat_": [f"github_pat_{TAIL}"],
    "glpat-": [f"glpat-{TAIL}"],
    "xox": [f"xoxb-{TAIL}", f"xoxp-{TAIL}"],
    "xapp-": [f"xapp-{TAIL}"],
    "aiza": [f"AIza{TAIL}"],
    "ya29.": [f"ya29.{TAIL}"],
    "gocspx-": [f"GOCSPX-{TAIL}"],
    "sk-": [f"sk-{TAIL}", f"sk-ant-{TAIL}"],
    "npm_": [f"npm_{TAIL}"],
    "hvs.": [f"hvs.{TAIL}"],
    "eyj": [f"eyJhbGciOiJIUzI1NiJ9.{TAIL}.{TAIL}"],
    "private key-----": [f"-----BEGIN RSA PRIVATE KEY-----\n{TAIL}\n-----END RSA PRIVATE KEY-----"],
}
EACH_VALUE = [value for values in VALUES.values() for value in values]


def left_of(value):
    """What of a value tells its secret: its last characters but those of the frame."""
    if "PRIVATE KEY" in value:
        return TAIL
    return value.split(" ")[-1][-8:]


def cleaned(document):
    return orjson.dumps(without_secrets(document, canonical(document))).decode()


def test_every_value_of_the_table_has_an_example():
    assert {shape.marker for shape in shapes.VALUES} == VALUES.keys()


@pytest.mark.parametrize("name", SPELLED)
def test_a_name_tells_a_secret(name):
    assert is_secret_name(name)
    assert PLAIN not in cleaned({"a": {name: PLAIN}})
    assert PLAIN not in cleaned({name: [PLAIN, {"x": [PLAIN]}]}) or shapes.is_loose(name)
    assert PLAIN not in cleaned([{"name": name, "value": PLAIN}])
    assert cleaned({name: 5}) == orjson.dumps({name: 5}).decode()
    assert PLAIN not in redact_text(f"x {name}={PLAIN}, y")
    assert PLAIN not in redact_url(f"/a?b=1&{name}={PLAIN}&c=2")
    assert PLAIN not in redact_url(f"/a?b=1&%{ord(name[0]):02x}{name[1:]}={PLAIN}&c=2")
    assert PLAIN not in cleaned({"a": json.dumps({name: PLAIN})})


@pytest.mark.parametrize("value", EACH_VALUE)
def test_a_value_tells_that_it_is_a_secret(value):
    secret = left_of(value)
    assert secret not in redact_text(f"see {value} here")
    assert secret not in cleaned({"note": [value], value: 1})
    assert secret not in cleaned({"note": json.dumps({"x": value})})
    assert secret not in redact_url("/x?y=" + "".join(f"%{ord(c):02X}" for c in value))
    assert secret not in redact_url("/x?y=" + "".join(f"%25{ord(c):02X}" for c in value))
    assert secret not in redact(json.dumps({"note": value}).encode()).decode()


BODIES = [
    '{"AuthURL": "https://login.tailscale.com/a/hUnTer2SeCrEt"}',
    '{"AuthURL": ["https://x.example/hUnTer2SeCrEt"]}',
    '{"AuthURL": {"x": [{"y": "hUnTer2SeCrEt"}]}}',
    '{"authUrl": "hUnTer2SeCrEt"}',
    '{"auth-url" :\n "hUnTer2SeCrEt"}',
    '[{"password": "hUnTer2SeCrEt", "n": 18446744073709551616}]',
    '{"args": ["--password", "hUnTer2SeCrEt"]}',
    '{"env": [{"name": "DB_PASSWORD", "value": "hUnTer2SeCrEt"}]}',
    '{"a": 1}\n{"password": "hUnTer2SeCrEt"}\n{"b": 2}',
]


def escaped(text):
    """The text with every third letter inside its strings as an escape."""
    out, inside = [], False
    for number, character in enumerate(text):
        inside ^= character == '"'
        out.append(f"\\u{ord(character):04x}" if inside and character.isalpha() and number % 3 else character)
    return "".join(out)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", BODIES)
def test_nothing_hides_a_secret_in_a_kept_body(text, encoding):
    for form in (text, text.replace("/", "\\/"), escaped(text)):
        for end in (len(form), len(form) - 1, len(form) - 3):
            left = redact(form[:end].encode(encoding)).decode(encoding, "replace")
            assert "SeCrEt" not in left.replace("\\", "")
            assert "SeCrEt" not in left.encode().decode("unicode_escape", "replace")


def test_what_is_no_secret_stays_as_it_was_sent():
    body = b'{"n" : 18446744073709551616, "t\\u0061": "a\\/b", "password":"x",  "f": 1.50}'
    assert redact(body) == b'{"n" : 18446744073709551616, "ta": "a/b", "password":"<redacted>",  "f": 1.50}'
    assert json.loads(redact(body))["n"] == 2**64


def test_a_body_that_calls_itself_utf_16_hides_nothing():
    for mark in (b"\xff\xfe", b"\xfe\xff", b'{\0"\0', b"\0{\0 "):
        assert b"SeCrEt" not in redact(mark + b'{"password": "hUnTer2SeCrEt"}')


@pytest.mark.parametrize(
    "text",
    [
        "token: expired",
        "The auth key is not valid",
        "PublicKey",
        "https://example.org:8080/a@b",
        "TSSTATS_AUTH=on",
        "Basic authentication",
        "Bearer token missing",
        "Asia/Tokyo",
        "disk-usage",
        "author=ada",
        "2026-01-01T00:00:00Z",
    ],
)
def test_other_text_stays(text):
    assert redact_text(text) == text


def test_logins_of_addresses():
    for secret in ("hunter2", "hun/ter2", "hun@ter2", "hu/n@ter2", "hun?ter2", "hun#ter2"):
        assert "ter2" not in redact_text(f"at postgresql://u:{secret}@db.example/x now")


UNITS = (
    "\0",
    '"',
    "\\",
    " ",
    '{"',
    '":',
    "key=&",
    "a=b&",
    "password",
    "password=",
    'AuthURL"',
    "%25",
    "[",
    '{"a":',
    "eyJ",
    "tskey-",
    "://a:",
    "://",
    "<a ",
    "--a ",
    "a: ",
    "'",
    '\\"',
    "\\u0061",
    '"a",',
    "@",
    "\n",
    '{"a":1}\n',
)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("head", ["", '{"AuthURL:', '{"password":"', "password="])
def test_a_kept_body_costs_no_more_than_its_length(head, unit):
    body = head.encode() + unit.encode() * (100_000 // len(unit))
    start = process_time()
    redact(body)
    assert process_time() - start < 4  # a tenth of it; what is quadratic takes minutes


def test_keepable_is_what_begins_like_json():
    assert keepable(b'{"password": "x') == b'{"password": "<redacted>'
    assert keepable(b"7aBkXh0=\t") is None

"""Documents and bodies that nobody's tool makes."""

import json

from hypothesis import strategies as st


class Raw(str):
    """A text that stands in a document as it is, JSON or not."""

    __slots__ = ()


class Pairs(list):
    """The members of an object in order; keys may be there twice."""


TEXTS = [
    "",
    "\0",
    "a\0b",
    "\ud800",
    "\udc00\ud800",
    "\u202egnp.exe",
    "\u200b",
    "\ufeff",
    "e\u0301",
    "\u00e9",
    "\U0010ffff",
    "'; DROP TABLE hosts; --",
    '"); DELETE FROM receipts; --',
    "$$",
    "%s %(host_id)s",
    "{0}",
    "\\.",
    "\\N",
    "\t\n\r",
    "SELECT",
    "a.b",
    "a[0]",
    "Self.ID",
    "Peer[0].RxBytes",
    "$raw",
    "$absent",
    "$zone",
    "$key",
    "__proto__",
    "_timestamp",
    "BackendState",
    "PublicKey",
    "ID",
    "0001-01-01T00:00:00Z",
    "2026-11-22T12:00:00.123456789Z",
    "9999-12-31T23:59:59+23:59",
    "infinity",
    "2026-02-30T00:00:00Z",
    "nodekey:" + "00" * 32,
    "fe80::1%eth0",
    "999.1.1.1/99",
    "n" * 513,
    "x" * 70_000,
]
NUMBERS = [
    0,
    1,
    -1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**400,
    0.1,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    1e22,
    Raw("1e400"),
    Raw("1E-400"),
    Raw("1.0"),
    Raw("-0"),
    Raw("0.1e1"),
    Raw("NaN"),
    Raw("-Infinity"),
    Raw("01"),
    Raw("1" * 5000),
]
STRINGS = st.sampled_from(TEXTS) | st.text(st.characters(), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.integers()
    | st.floats(allow_nan=False)
    | STRINGS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(STRINGS, inner).map(list), max_size=3).map(Pairs)
    ),
    max_leaves=5,
)
DEEP = st.sampled_from([40, 63, 64, 200, 1100]).map(lambda levels: Raw("[" * levels + "]" * levels))


def pairs(value):
    """The value with its objects as `Pairs`."""
    if isinstance(value, dict):
        return Pairs([key, pairs(member)] for key, member in value.items())
    return [pairs(member) for member in value] if isinstance(value, list) else value


def places(value):
    """Every array and object in the value with the number of each of its members."""
    found, left = [], [value]
    while left:
        outer = left.pop()
        for number in range(len(outer)):
            found.append((outer, number))
            member = outer[number][1] if isinstance(outer, Pairs) else outer[number]
            if isinstance(member, list):
                left.append(member)
    return found


def encode(value, ascii_only):
    """The value as JSON, or as near to that as it comes."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        members = (f"{encode(key, ascii_only)}:{encode(member, ascii_only)}" for key, member in value)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(encode(member, ascii_only) for member in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


@st.composite
def bodies(draw, document):
    """The document as text with a few of its values, keys and members made others."""
    tree = pairs(document)
    for _ in range(draw(st.integers(1, 3))):
        outer, number = draw(st.sampled_from(places(tree)))
        mutate(draw, outer, number)
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16"]))
    return encode(tree, draw(st.booleans())).encode(encoding, "surrogatepass")


def mutate(draw, outer, number):
    is_object = isinstance(outer, Pairs)
    what = draw(st.sampled_from(["value", "value", "value", "drop", "twice", "insert", "key"]))
    if what == "drop":
        del outer[number]
    elif what == "twice":
        again = outer[number]
        outer.append([again[0], draw(VALUES)] if is_object else again)
    elif what == "insert":
        outer.insert(number, [draw(STRINGS), draw(VALUES)] if is_object else draw(VALUES))
    elif is_object:
        outer[number] = (
            [draw(STRINGS), outer[number][1]] if what == "key" else [outer[number][0], draw(VALUES | DEEP)]
        )
    else:
        outer[number] = draw(VALUES | DEEP)

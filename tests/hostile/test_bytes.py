"""Bodies that were cut, damaged, mixed up or recoded on the way: never half a document, never a crash."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import status_document
from tests.examples import examples

DOCUMENTS = [
    status_document("hostile", {"db": 1000}),
    status_document("hostile", {"db": {"Tags": ["tag:ünï"], "Relay": '\\"€😀'}}, Health=["a\nwarning"]),
]
SAMPLES = [json.dumps(document, ensure_ascii=False).encode() for document in DOCUMENTS]
LINES = b"\n".join(
    json.dumps(document | {"BackendState": state}).encode()
    for document, state in zip(DOCUMENTS, ("Running", "Stopped"), strict=True)
)
SMALL = {"BackendState": "Running", "Self": {"ID": "n1CNTRL", "HostName": "é"}, "Health": ['a "b" {']}
RECODED = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 LE": lambda text: text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: text.encode("utf-16-be"),
    "UTF-16 BE, marked": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
}
BROKEN = {
    "two marks": lambda text: b"\xef\xbb\xbf\xef\xbb\xbf" + text.encode(),
    "UTF-16, a byte short": lambda text: text.encode("utf-16")[:-1],
    "UTF-16, a byte long": lambda text: text.encode("utf-16") + b"\0",
    "UTF-16, half a pair": lambda text: text.encode("utf-16") + b"\0\xd8",
    "UTF-16, of the wrong end": lambda text: b"\xfe\xff" + text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "UTF-7": lambda text: text.encode("utf-7").replace(b"{", b"+AHs-"),
    "Latin-1": lambda text: text.encode("latin-1"),
    "EBCDIC": lambda text: text.encode("cp500"),
    "NUL behind": lambda text: text.encode() + b"\0\0",
    "two documents": lambda text: text.encode() * 2,
}


def test_a_body_that_is_cut_anywhere_is_refused(intake):
    body = json.dumps(SMALL, ensure_ascii=False).encode()
    with intake.unchanged():
        assert {intake.post(body[:end]).status for end in range(len(body))} == {400}
    assert intake.judged(body) == 200


@pytest.mark.parametrize("recode", RECODED.values(), ids=RECODED)
def test_another_encoding_of_unicode_is_the_same_document(intake, recode):
    text = json.dumps(SMALL, ensure_ascii=False)
    assert intake.judged(recode(text), sent=[SMALL]) == 200


@pytest.mark.parametrize("recode", BROKEN.values(), ids=BROKEN)
def test_what_is_in_no_encoding_is_refused(intake, recode):
    assert intake.judged(recode(json.dumps(SMALL, ensure_ascii=False))) == 400


@st.composite
def damaged(draw):
    """A sample with bytes flipped, put in, taken out, or with the end of another one."""
    body = bytearray(draw(st.sampled_from([*SAMPLES, LINES])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body) - 1))
        what = draw(st.sampled_from(["flip", "flip", "insert", "drop", "splice", "repeat"]))
        if what == "flip":
            body[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "insert":
            body[at:at] = draw(
                st.binary(min_size=1, max_size=4) | st.sampled_from([b'"', b"\\", b"{", b"\n", b"\0"])
            )
        elif what == "drop":
            del body[at : at + draw(st.integers(1, 40))]
        elif what == "splice":
            other = draw(st.sampled_from(SAMPLES))
            body[at:] = other[draw(st.integers(0, len(other) - 1)) :]
        else:
            body[at:at] = body[at : at + draw(st.integers(1, 400))]
        if not body:
            break
    return bytes(body)


@examples(200)
@given(body=damaged(), path=st.sampled_from(["/?host=hostile", "/?host=hostile&partial=1"]))
def test_a_damaged_body_is_kept_as_it_reads_or_refused(intake, body, path):
    intake.judged(body, path)

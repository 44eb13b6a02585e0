"""Bodies at the limits: one more is refused, and where a document stood is told exactly."""

import codecs
import gzip
import json

import pytest

from ringstats_ts.decode import Document, as_log, documents, in_utf8, inflate, separate_documents
from ringstats_ts.errors import (
    EmptyPayload,
    MalformedPayload,
    PayloadError,
    PayloadTooLarge,
    TruncatedPayload,
    UnstorablePayload,
)

TEXT = '{"name": "Anaïs 𝄞"}'
MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}


def values(found):
    return [document.value for document in found]


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("mark", [True, False], ids=["mark", "no mark"])
@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_a_text_of_any_encoding_comes_in_pieces(encoding, mark, step):
    body = (MARKS[encoding] if mark else b"") + TEXT.encode(encoding)
    pieces = [body[:4], *(body[at : at + step] for at in range(4, len(body), step))]
    assert b"".join(in_utf8(pieces)) == TEXT.encode()
    assert as_log(body).text == TEXT.encode()
    assert values(documents(body, max_documents=1)) == [json.loads(TEXT)]


def test_what_is_no_utf8_passes_as_it_is():
    pieces = [b"\xef\xbb\xbfa\xff", b"\xfe", b"\xe2\x82"]
    assert list(in_utf8(pieces)) == [b"a\xff", b"\xfe", b"\xe2\x82"]
    assert list(in_utf8([])) == [b""]
    assert as_log(b"\0\0a\xff\0").text == b"a\xff\0"


@pytest.mark.parametrize("cut", [1, 3])
def test_utf16_that_does_not_go_on_is_refused(cut):
    with pytest.raises(MalformedPayload, match="byte order mark of UTF-16, but is not UTF-16"):
        list(in_utf8([codecs.BOM_UTF16_LE, "𝄞".encode("utf-16-le")[:cut]]))


@pytest.mark.parametrize("head", [b"\0{\0}", b"\0{", b"{\0}\0", b"{\0"])
def test_utf16_without_a_mark_is_known_by_its_zeros(head):
    encoding = "utf-16-be" if head[0] == 0 else "utf-16-le"
    assert as_log(head).text == head.decode(encoding).encode()


@pytest.mark.parametrize("take", [documents, separate_documents])
@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"[1,1,1,1,1,1,1,1,1,1]", 10),
        (b"[[],[],[],[],[],[]]", 8),
        (b"[" + b",".join([b"{ }"] * 4) + b"]", 80),
    ],
    ids=["commas", "brackets", "objects"],
)
def test_as_many_values_as_may_be(take, body, count):
    assert values(take(body, max_documents=10, max_values=count)) == json.loads(body)
    with pytest.raises(PayloadTooLarge, match="more than .* (values|objects)"):
        take(body, max_documents=10, max_values=count - 1)


@pytest.mark.parametrize("take", [documents, separate_documents])
@pytest.mark.parametrize("between", [b"\n", b"\n\n\r\n  \n", b","])
def test_as_many_documents_as_may_be(take, between):
    body = between.join(b'{"a":%d}' % number for number in range(3))
    body = b"[%b]" % body if between == b"," else body
    found = take(body, max_documents=3)
    assert values(found) == [{"a": number} for number in range(3)]
    step = body.count(b"\n") // 2
    assert [document.line for document in found] == ([None] * 3 if step == 0 else [1, 1 + step, 1 + 2 * step])
    assert [document.index for document in found] == ([0, 1, 2] if step == 0 else [None] * 3)
    with pytest.raises(PayloadTooLarge, match="more than 2 (lines|elements)"):
        take(body, max_documents=2)


def test_each_of_separate_documents_has_its_own_text():
    array = b' [ {"a": [1, 2]} ,\t"x,]",\r\n[{}] ,3.50]'
    assert [d.text for d in separate_documents(array, max_documents=9)] == [
        b'{"a": [1, 2]}',
        b'"x,]"',
        b"[{}]",
        b"3.50",
    ]
    lines = b'{"a": 1}\n\nbroken\n{"b": '
    found = separate_documents(lines, max_documents=9)
    assert [(d.line, d.text, type(d.error)) for d in found] == [
        (1, b'{"a": 1}', type(None)),
        (3, b"broken", MalformedPayload),
        (4, b'{"b": ', TruncatedPayload),
    ]
    (one,) = separate_documents(b' {"a": 1} ', max_documents=9)
    assert (one.text, one.line, one.index) == (b' {"a": 1} ', None, None)


def test_a_cut_line_before_the_last_is_not_a_cut_body():
    with pytest.raises(MalformedPayload) as caught:
        documents(b'{"a": 1}\n{"b": \n{"c": 1}', max_documents=9)
    assert (type(caught.value), caught.value.line) == (MalformedPayload, 2)


@pytest.mark.parametrize(
    ("where", "error", "told"),
    [
        ({"line": 3}, {}, (3, None)),
        ({"line": 3}, {"line": 7, "pointer": "/a"}, (7, "/a")),
        ({"index": 0}, {}, (None, "/0")),
        ({"index": 4}, {"pointer": "/a", "line": 2}, (2, "/4/a")),
        ({}, {"pointer": "/a"}, (None, "/a")),
    ],
)
def test_an_error_says_where_its_document_stood(where, error, told):
    raised = PayloadError(**error)
    Document(None, **where).locate(raised)
    assert (raised.line, raised.pointer) == told


@pytest.mark.parametrize(
    ("body", "limit", "place"),
    [
        ('{"a": {"b": 1}}', {"max_depth": 1}, (None, None)),
        ('[{}, {"key": 1}]', {"max_key_bytes": 2}, (None, "/1")),
        ('{"a": 1}\n{"a": "text"}', {"max_string_bytes": 3}, (2, "/a")),
        ('["text"]', {"max_string_bytes": 3}, (None, "/0")),
    ],
)
def test_a_document_at_a_limit_is_taken_and_one_beyond_is_named(body, limit, place):
    ((name, most),) = limit.items()
    whole = values(documents(body.encode(), max_documents=9))
    assert values(documents(body.encode(), max_documents=9, **{name: most + 1})) == whole
    with pytest.raises(UnstorablePayload) as caught:
        documents(body.encode(), max_documents=9, **limit)
    assert (caught.value.line, caught.value.pointer) == place
    errors = [document.error for document in separate_documents(body.encode(), max_documents=9, **limit)]
    assert [type(error) for error in errors if error] == [UnstorablePayload]
    assert errors[-1] is not None


def test_nothing_is_empty():
    for body in (b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xff\xfe\n\0"):
        with pytest.raises(EmptyPayload):
            documents(body, max_documents=1)
    with pytest.raises(EmptyPayload, match="The array is empty"):
        documents(b"[ ]", max_documents=1)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("body", [b"x" * 50, bytes(range(50))], ids=["short", "as it is"])
def test_a_zipped_body_may_have_as_many_bytes_as_are_taken(body, step):
    zipped = gzip.compress(body[:20]) + gzip.compress(body[20:]) + b"\0\0"
    chunks = [zipped[at : at + step] for at in range(0, len(zipped), step)]
    assert inflate(chunks, len(body)) == body
    with pytest.raises(PayloadTooLarge, match="larger than 49 bytes"):
        inflate(chunks, len(body) - 1)


def test_lines_of_which_none_is_a_document_are_no_documents():
    with pytest.raises(MalformedPayload, match="neither JSON nor a log"):
        separate_documents(b"broken\nlines", max_documents=9)

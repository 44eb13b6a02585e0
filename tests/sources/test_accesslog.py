"""The source `accesslog`: what it reads of a line, what it refuses, and what of a client is kept."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringstats_ts.decode import as_log
from ringstats_ts.errors import EmptyPayload, PayloadError, TruncatedPayload, UnstorablePayload
from ringstats_ts.ingest import ingest
from ringstats_ts.lookups import EventIds, Lookups, Place
from ringstats_ts.model import Context, Log, Payload
from ringstats_ts.sources.accesslog import ACCESSLOG
from ringstats_ts.storage.refresh import refresh

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RAW = Lookups(raw=True)
CASES = [path.parent for path in sorted(Path(__file__).parent.glob("accesslog/*/expected.json"))]
STAMP = "[09/May/2018:16:00:39 +0000]"
LINE = f'192.0.2.1 - frank {STAMP} "GET /api/user?id=7 HTTP/1.1" 200 123 "-" "curl/8"'


def parse(text, lookups=RAW, **context):
    text = text if isinstance(text, bytes) else text.encode()
    return ACCESSLOG.parse(as_log(text), Context(NOW, host="web1", lookups=lookups, **context))


def rows(batch):
    (events,) = batch.events
    return [dict(zip(events.columns, row, strict=True)) for row in events.rows]


def row(line):
    (found,) = rows(parse(f"{line}\n"))
    return found


def reason(line):
    batch = parse(LINE.encode() + b"\n" + line + b"\n")
    assert len(rows(batch)) == 1
    (bad,) = batch.bad_lines
    assert (bad.number, bad.text, bad.cut) == (2, line, False)
    return bad.reason


def test_counts_of_the_sample_are_those_of_its_text():
    text = (Path(__file__).parent / "accesslog/common-sample/payload.log").read_text()
    lines = text.splitlines()
    found = rows(parse(text))
    assert len(found) == len(lines) == 4
    assert sum(row["bytes"] for row in found) == sum(int(line.split()[-1]) for line in lines)
    assert Counter(row["status"] for row in found) == Counter(int(line.split()[-2]) for line in lines)
    assert [row["username"] for row in found] == [line.split()[2] for line in lines]
    assert [f"{row['method']} {row['path']} {row['protocol']}" for row in found] == re.findall('"(.*)"', text)
    assert [row["time"].second for row in found] == [39, 41, 42, 42]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_log_cut_anywhere_gives_what_it_begins_with_or_an_error(case):
    text = as_log((case / "payload.log").read_bytes()).text
    whole = parse(text).events[0].rows
    counts = set()
    for end in range(len(text)):
        found = stored_of(Log(text[:end]))
        assert found == whole[: len(found)]
        counts.add(len(found))
    # Each line counts as soon as its line end is there.
    assert set(range(len(whole))) <= counts


def stored_of(log):
    try:
        return parse(log.text).events[0].rows if ACCESSLOG.detect(log) else []
    except PayloadError:
        return []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_log_in_parts_gives_what_it_gives_whole(case):
    text = as_log((case / "payload.log").read_bytes()).text
    whole = parse(text)
    event_ids, found, bad_lines = EventIds(), [], []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        context = Context(NOW, host="web1", lookups=RAW, event_ids=event_ids)
        batch = ACCESSLOG.parse(Log(line, number, is_part=True), context)
        found += [row for part in batch.events for row in part.rows]
        bad_lines += [bad.number for bad in batch.bad_lines]
    assert found == whole.events[0].rows
    assert bad_lines == [line.number for line in whole.bad_lines]


def test_a_line_that_is_whole_but_for_its_end_is_not_stored():
    # 123 may be what is there of 1234.
    batch = parse(f"{LINE}\n{LINE}")
    assert len(rows(batch)) == 1
    assert [(line.number, line.text, line.cut) for line in batch.bad_lines] == [(2, LINE.encode(), True)]
    with pytest.raises(TruncatedPayload, match="Line 1: It has no line end") as refused:
        parse(LINE)
    assert refused.value.line == 1


def test_equal_lines_are_counted_and_have_the_same_ids_again_in_a_longer_log():
    ids = [row["request_id"] for row in rows(parse(f"{LINE}\n" * 3))]
    longer = [row["request_id"] for row in rows(parse(f"{LINE}\n" * 5))]
    assert len(set(longer)) == 5
    assert longer[:3] == ids
    assert [row["request_id"] for row in rows(parse(f"{LINE}\r\n" * 3))] == ids


def test_line_ends_of_windows_blank_lines_and_numbers_of_lines():
    log = Log(f"\r\n{LINE}\r\n \n\nbroken\r\n{LINE}\n".encode(), first_line=100)
    batch = ACCESSLOG.parse(log, Context(NOW, lookups=RAW, origin="192.0.2.9"))
    assert [row["bytes"] for row in rows(batch)] == [123, 123]
    assert [(line.number, line.text) for line in batch.bad_lines] == [(104, b"broken")]
    assert (batch.host.identity, batch.host.name) == ("origin:192.0.2.9", "192.0.2.9")
    assert batch.warnings == (
        "The log does not name its host; it is known as that of 192.0.2.9."
        " Add `host=NAME` to the URL, or `--host NAME`.",
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (LINE.encode() + b"\0", "It holds the character NUL."),
        (LINE.encode().replace(b"curl", b"c" * 65536), "It is longer than 64 KiB."),
        (bytes(range(1, 10)) + bytes(range(11, 256)), "It is no request in Common or Combined Log Format."),
        (LINE.replace("May", "Mai").encode(), "Its time is none: 09/Mai/2018:16:00:39 +0000."),
        (LINE.replace(" 123 ", f" {2**63} ").encode(), "Its number of bytes takes more than 64 bits."),
    ],
    ids=["NUL", "long", "binary", "time", "bytes"],
)
def test_what_is_wrong_with_a_line_is_said(line, why):
    assert reason(line) == why


def test_the_longest_line_is_read():
    line = LINE.replace("curl", "c" * (65536 - len(LINE) + 4))
    assert len(line) == 65536
    assert len(row(line)["agent"]) > 65000


def test_a_time_outside_of_what_logs_are_of_is_a_bad_line():
    def within(earliest, latest):
        return parse(f"{LINE}\n{LINE}\n".replace("2018", "2017", 1), earliest=earliest, latest=latest)

    early, late = datetime(2017, 5, 9, 16, 0, 39, tzinfo=UTC), datetime(2018, 5, 9, 16, 0, 39, tzinfo=UTC)
    assert within(early, late).bad_lines == ()
    (bad,) = within(early + timedelta(seconds=1), late).bad_lines
    assert (bad.number, bad.reason) == (1, "Its time is from before 2017: 09/May/2017:16:00:39 +0000.")
    (bad,) = within(early, late - timedelta(seconds=1)).bad_lines
    assert (bad.number, bad.reason) == (2, "Its time lies in the future: 09/May/2018:16:00:39 +0000.")


def test_a_log_without_a_good_line_is_refused_with_its_first():
    with pytest.raises(UnstorablePayload, match=r"Line 2: Its time is none: 31/Feb/2018") as refused:
        parse("\n" + f"{LINE}\n".replace("09/May", "31/Feb") * 2)
    assert refused.value.line == 2
    with pytest.raises(EmptyPayload):
        parse("\n \r\n")


def test_it_is_recognised_by_one_of_its_first_lines():
    detect = ACCESSLOG.detect
    assert detect(Log(LINE.encode()))
    assert detect(Log(b"\n" * 1000 + b"broken\r\n" * 19 + f"{LINE}\r\n".encode()))
    assert not detect(Log(b"broken\n" * 20 + LINE.encode()))
    assert not detect(Log(b""))
    assert not detect(Log(b"\n" * 10))
    assert not detect(Log(LINE.replace("curl", "c" * 65536).encode()))
    for document in ({"log": LINE}, [LINE], LINE, 1, None):
        assert not detect(document)
    assert not detect(Log(b'{"log": "%s"}' % LINE.replace('"', '\\"').encode()))


HOSTILE = {
    "words": "a " * 32000,
    "colons": "a " + ":" * 65000 + " ",
    "groups of hexadecimal digits": "a " + "ab:" * 21000,
    "digits": "1" * 65000,
    "dots": "1." * 32000,
    "brackets": "192.0.2.1 - " + "[" * 65000,
    "times": "192.0.2.1 - " + f"{STAMP} " * 2200,
    "times and quotation marks": "192.0.2.1 - " + f'{STAMP} "' * 2000,
    "backslashes": f'192.0.2.1 - - {STAMP} "' + "\\" * 65000,
    "escapes": f'192.0.2.1 - - {STAMP} "' + r"\"" * 32000,
    "escaped bytes": f'192.0.2.1 - - {STAMP} "' + r"\xc3\x01" * 8000 + '" 200 1',
    "quotation marks": f'192.0.2.1 - - {STAMP} "" 200 1 ' + '"" ' * 20000 + '"',
    "spaces in the request": f'192.0.2.1 - - {STAMP} "GET ' + "a " * 32000 + '" 200 1',
    "protocols": f'192.0.2.1 - - {STAMP} "GET ' + " HTTP/1.1" * 7000 + ' " 200 1',
    "digits of the size": f'192.0.2.1 - - {STAMP} "" 200 ' + "9" * 65000,
    "parameters": f'192.0.2.1 - - {STAMP} "GET /?' + "key" * 20000 + '= HTTP/1.1" 200 1',
    "many parameters": f'192.0.2.1 - - {STAMP} "GET /?' + "key=&" * 13000 + ' HTTP/1.1" 200 1',
    "referer": f'192.0.2.1 - - {STAMP} "" 200 1 "' + "=token" * 10000 + '" ""',
    "addresses": f'192.0.2.1 - - {STAMP} "" 200 1 "" "" ' + "1.2.3." * 10000,
    "colons behind": f'192.0.2.1 - - {STAMP} "" 200 1 "" "" ' + ":" * 65000,
    "secrets": f'192.0.2.1 - - {STAMP} "" 200 1 "" "' + "tskey-" * 10000 + '"',
    "users": "192.0.2.1 - " + "a [" * 21000,
    "hosts": "a:1 " * 16000,
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_line_takes_no_longer_than_its_length(line):
    text = f"{LINE}\n{line[:65536]}\n".encode()
    start = process_time()
    ACCESSLOG.detect(Log(text[len(LINE) + 1 :]))
    batch = parse(text)
    # 100 ms here; what is quadratic takes seconds.
    assert process_time() - start < 1
    assert len(rows(batch)) + len(batch.bad_lines) == 2


# What a server writes

WRITTEN = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


def apache(text):
    escaped = {ord('"'): '\\"', ord("\\"): "\\\\"}
    return "".join(
        character.translate(escaped) if " " <= character <= "~" else hexadecimal(character, "x")
        for character in text
    )


def nginx(text):
    plain = set(map(chr, range(32, 127))) - set('"\\')
    return "".join(character if character in plain else hexadecimal(character, "X") for character in text)


def hexadecimal(character, case):
    return "".join(f"\\x{byte:02{case}}" for byte in character.encode())


@given(st.sampled_from([apache, nginx]), WRITTEN, WRITTEN, WRITTEN, WRITTEN, WRITTEN)
def test_what_a_server_writes_of_a_client_comes_back_and_nothing_else(
    server, user, target, query, referer, agent
):
    target, query = "/" + target.replace("?", ""), query.replace("=", "")
    request = f"GET {target}?{query} HTTP/1.1"
    fields = [server(text) for text in (user or "-", request, referer or "-", agent or "-")]
    line = '198.51.100.7 - {} {} "{}" 200 123 "{}" "{}"'.format(fields[0], STAMP, *fields[1:])
    # Of a form that stands for something else, or is masked.
    if "=" in referer or user in ("-", '""') or (user + target + query + referer + agent).count("/register/"):
        return
    found = row(line)
    assert found["time"] == datetime(2018, 5, 9, 16, 0, 39, tzinfo=UTC)
    assert (found["client"], found["username"]) == ("198.51.100.7", user or None)
    assert (found["path"], found["query"], found["request"]) == (target, query, None)
    assert found["section"] == "/" + target[1:].split("/")[0]
    assert (found["status"], found["bytes"], found["rest"]) == (200, 123, None)
    assert found["referer"] == (None if referer in ("", "-") else referer)
    assert found["agent"] == (None if agent in ("", "-") else agent)


@given(
    st.integers(0, 2**32),
    st.integers(-14 * 60, 14 * 60),
)
def test_times_are_instants_whatever_their_zone(seconds, offset):
    at = datetime.fromtimestamp(seconds, timezone(timedelta(minutes=offset)))
    found = row(LINE.replace(STAMP, at.strftime("[%d/%b/%Y:%H:%M:%S %z]")))
    assert found["time"] == at
    assert found["time"].tzinfo is UTC


@given(st.binary())
def test_whatever_stands_in_a_log_each_line_is_stored_or_told(junk):
    text = f"{LINE}\n".encode() + junk + b"\n"
    batch = parse(text)
    lines = [line for line in text.split(b"\n") if line.strip()]
    assert len(rows(batch)) + len(batch.bad_lines) == len(lines)


PAGE = (Path(__file__).parents[2] / "docs/sources/accesslog.md").read_text()
WRITES = {
    "$host:$server_port": "example.org:443",
    "$remote_addr": "::1",
    "$remote_user": "frank",
    "[$time_local]": STAMP,
    "$request_time": "0.004",
    "$request": "GET /api/user HTTP/1.1",
    "$status": "200",
    "$body_bytes_sent": "123",
    "$http_referer": "-",
    "$http_user_agent": "curl/8",
    "%v:%p": "example.org:443",
    "%h": "::1",
    "%l": "-",
    "%u": "frank",
    "%t": STAMP,
    "%r": "GET /api/user HTTP/1.1",
    "%>s": "200",
    "%O": "123",
    "%{Referer}i": "-",
    "%{User-Agent}i": "curl/8",
    "%D": "4000",
}


def test_lines_of_its_page_are_read():
    (lines,) = re.findall("```text\n(.*?)```", PAGE, re.DOTALL)
    batch = parse(lines)
    assert [row["bytes"] for row in rows(batch)] == [123, 234, 34]
    assert batch.bad_lines == ()


@pytest.mark.parametrize(
    ("form", "rest"),
    [(r"log_format tsstats (.*?);", "rt=0.004"), (r'LogFormat "(.*)" tsstats', "4000")],
    ids=["nginx", "Apache"],
)
def test_formats_of_its_page_are_read(form, rest):
    (line,) = re.findall(form, PAGE, re.DOTALL)
    line = re.sub(r"'\s*'|^'|'$", "", line).replace('\\"', '"')
    for name, written in WRITES.items():
        line = line.replace(name, written)
    found = row(line)
    assert (found["virtual_host"], found["client"], found["username"]) == ("example.org:443", "::1", "frank")
    assert (found["section"], found["status"], found["bytes"], found["agent"]) == ("/api", 200, 123, "curl/8")
    assert found["rest"] == rest


# What is kept of a client

PRIVATE = f"""203.0.113.77 ident77 frank77 {STAMP} "GET /" 200 1 "-" "curl/8" "198.51.100.77, ::77:77"
::77:77 - frank77 {STAMP} "GET / HTTP/1.1" 200 2 "-" "curl/8" for=198.51.100.77:4711;by="[::77:77]:80"
host77.example.net - - {STAMP} "GET / HTTP/1.1" 200 3 "-" "curl/8" ::ffff:198.51.100.77 12:34:56 0.077
"""


def test_no_address_or_name_of_a_client_or_user_is_in_a_row():
    found = rows(parse(PRIVATE, Lookups((b"key",))))
    kept = repr([list(row.values()) for row in found])
    for private in ("113.77", "100.77", "::77", "ident77", "frank77", "host77"):
        assert private in PRIVATE
        assert private not in kept
    client = Lookups((b"key",)).client
    assert [row["client"] for row in found] == list(
        map(client, ["203.0.113.77", "::77:77", "host77.example.net"])
    )
    assert [row["username"] for row in found] == [client("frank77"), client("frank77"), None]
    assert [row["rest"] for row in found] == [
        f'"{client("198.51.100.77")}, {client("::77:77")}"',
        f'for={client("198.51.100.77")}:4711;by="[{client("::77:77")}]:80"',
        f"{client('::ffff:198.51.100.77')} 12:34:56 0.077",
    ]


def test_they_are_where_the_operator_asked_for_them():
    found = rows(parse(PRIVATE))
    assert [row["client"] for row in found] == ["203.0.113.77", "::77:77", "host77.example.net"]
    assert [row["ident"] for row in found] == ["ident77", None, None]
    assert [row["rest"] for row in found] == [re.split('"curl/8" ', line)[1] for line in PRIVATE.splitlines()]


def test_places_are_asked_for_once_for_each_address_and_never_for_names():
    asked = []

    def find_place(address):
        asked.append(address)
        return Place("NZ", "Wellington")

    clients = [
        "192.0.2.1",
        "::1",
        "host.example.net",
        "-",
        "fe80::1%eth0",
        "192.0.2.1",
        "unix:",
        "192.0.2.256",
    ]
    text = "".join(f'{client} - - {STAMP} "GET / HTTP/1.1" 200 1\n' for client in clients)
    found = rows(parse(text, Lookups((b"key",), find_place=find_place)))
    assert asked == ["192.0.2.1", "::1"]
    assert [row["country"] for row in found] == ["NZ", "NZ", None, None, None, "NZ", None, None]
    assert {row["city"] for row in found} == {"Wellington", None}


def test_secrets_are_in_no_column():
    secret = "kTHISISSECRET123456"
    start = f"192.0.2.1 - tskey-auth-{secret} {STAMP}"
    lines = [
        f'{start} "GET /tskey-auth-{secret}?q=hskey-auth-{secret} HTTP/1.1" 200 1'
        f' "http://x/tss_{secret}" "tskey-{secret}" "tss_{secret}"',
        f'{start} "GET /?a=1&access_token={secret}&Password={secret};key={secret} HTTP/1.1" 200 1'
        f' "https://example.org/?token={secret}#secret={secret}" "-"',
        f'{start} "GARBAGE tskey-auth-{secret}&token={secret}" 400 0',
    ]
    found = rows(parse("\n".join(lines) + "\n"))
    assert len(found) == 3
    assert secret not in repr(found)
    assert found[1]["query"] == "a=1&access_token=<redacted>&Password=<redacted>;key=<redacted>"


# In the database


def test_minutes_count_what_the_log_says_however_hostile_its_requests(database, config):
    now = datetime.now(UTC).replace(microsecond=0)
    start = now.replace(second=0) - timedelta(hours=3)
    # Longer than an entry of an index may be, and not to be compressed.
    junk = "".join(f"{number * 7919 % 1000003:x}" for number in range(9000))
    kinds = [
        ("GET /api/user?id={} HTTP/1.1", "200", 100),
        ("GET /api/{} HTTP/1.1", "404", 10),
        ("POST / HTTP/1.1", "200", None),
        (f"GET /{junk} HTTP/1.1", "404", 2**63 - 1),
        (f"{junk} / HTTP/1.1", "400", 1),
        (r"\x16\x03\x01", "400", 0),
        ("GET /'); DROP TABLE http_requests; -- HTTP/1.1", "404", 5),
    ]
    wanted, text = Counter(), ""
    for number in range(140):
        request, status, size = kinds[number % len(kinds)]
        at = start + timedelta(seconds=number)
        text += f"192.0.2.{number % 9} - - [{at:%d/%b/%Y:%H:%M:%S} +0000] "
        text += f'"{request.format(number)}" {status} {"-" if size is None else size}\n'
        wanted[at.replace(second=0), status] += 1
    (receipt,) = ingest(Payload(text.encode(), now, host="web1"), database, config)
    assert receipt.rows == 140
    for refreshed in (False, True):
        if refreshed:
            refresh(database, "accesslog", start, now)
        got = database.run(
            "SELECT bucket, status, sum(requests)::integer FROM http_requests_1m GROUP BY 1, 2"
        )
        assert {(at, str(status)): count for at, status, count in got} == wanted
        sizes = database.run(
            "SELECT left(section, 9), method IS NULL, min(bytes), max(bytes), count(*)::integer"
            " FROM http_requests_1m WHERE status <> 400 GROUP BY 1, 2 ORDER BY 1"
        )
        by_section = {section: (least, most) for section, _, least, most, _ in sizes}
        assert by_section["/"] == (None, None)
        assert by_section[f"/{junk[:8]}"][1] == 2**63 - 1
    (again,) = ingest(Payload(text.encode() + b"broken\n", now, host="web1"), database, config)
    assert (again.duplicate, again.rows) == (True, 0)
    assert database.run("SELECT count(*)::integer FROM http_requests") == [(140,)]


def test_the_port_of_a_client_is_no_part_of_it():
    keyed = Lookups(
        keys=(b"k",), find_place=lambda address: Place("FR") if address == "192.0.2.1" else Place()
    )
    (found,) = rows(parse(LINE.replace("192.0.2.1", "192.0.2.1:50123") + "\n", keyed))
    assert (found["client"], found["country"]) == (keyed.client("192.0.2.1"), "FR")


def test_passwords_in_urls_are_masked():
    found = row(LINE.replace("/api/user", "http://ada:sec@ret@example.org/api"))
    assert found["path"] == "http://ada:<redacted>@example.org/api"
    assert row(LINE.replace('"-"', '"https://ada:secret@example.org/?q=a@b"'))["referer"] == (
        "https://ada:<redacted>@example.org/?q=a@b"
    )
    assert row(LINE.replace("/api/user", "/@ada:x@y"))["path"] == "/@ada:x@y"

"""The text of tokens, the hosts they are for, and what they keep apart."""

import hashlib
import json
import string
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringstats_ts.errors import ConfigError, Forbidden, PayloadError, Unauthorized
from ringstats_ts.identity import (
    check_host,
    check_open,
    is_loopback,
    network_of,
    new_token,
    own_host,
    parse_hosts,
    read_token,
)
from ringstats_ts.ingest import ingest, parse
from ringstats_ts.model import Batch, Host, Payload, Token
from ringstats_ts.rejects import reject
from ringstats_ts.sources.secrets import keepable, redact_text

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


def token(hosts, *scopes):
    return Token(1, "Key00001", hosts, frozenset(scopes or ("ingest",)))


def batch(host):
    return Batch("tailscale", host, NOW, True, NOW, b"", ())


class TestText:
    def test_says_its_key_and_keeps_its_secret_as_a_digest(self):
        text = new_token()

        _, key_id, secret, _ = text.split("_")
        assert read_token(text).key_id == key_id
        assert read_token(text).digest == hashlib.sha256(secret.encode()).digest()
        assert len(set(string.digits + string.ascii_letters)) ** len(secret) >= 2**256

    def test_is_new_each_time(self):
        assert len({new_token() for _ in range(1000)}) == 1000

    @given(st.data())
    def test_a_slip_of_the_pen_is_refused(self, data):
        text = new_token()
        place = data.draw(st.integers(0, len(text) - 1))
        other = data.draw(st.sampled_from(string.printable))
        wrong = text[:place] + other + text[place + 1 :]

        if wrong != text:
            with pytest.raises(Unauthorized):
                read_token(wrong)

    @pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "0", lambda t: f" {t}", lambda t: ""])
    def test_a_part_of_it_is_refused(self, change):
        with pytest.raises(Unauthorized):
            read_token(change(new_token()))

    def test_is_blanked_in_what_is_kept(self):
        text = new_token()
        secret = text.split("_")[2]

        assert secret not in redact_text(f"the token {text} is wrong")
        assert secret.encode() not in keepable(json.dumps({"Authorization": f"Bearer {text}"}).encode())
        assert secret[:16] not in redact_text(f"cut off: {text[:40]}")

    def test_is_dropped_from_documents_that_are_stored(self, make_status, config):
        text = new_token()
        body = json.dumps(make_status(Note=f"Bearer {text}")).encode()

        (found,) = parse(Payload(body, NOW), config).batches.values()

        assert text.split("_")[2] not in repr(found)
        assert "tss_<redacted>" in repr(found)


class TestHosts:
    @pytest.mark.parametrize("text", ["", " ", "x" * 254, "a\nb", "a\x00b", "a\x7fb"])
    def test_refuses_what_is_no_name(self, text):
        with pytest.raises(ValueError, match="write a host's name"):
            parse_hosts(text)

    @pytest.mark.parametrize(
        ("hosts", "name"),
        [
            ("web-1", "web-1"),
            ("web-*", "web-"),
            ("web-*", "web-12"),
            ("web-?", "web-1"),
            ("*", "anything"),
            ("[ab]", "[ab]"),
            ("[*", "[x"),
        ],
    )
    def test_takes_names_that_match(self, hosts, name):
        found = check_host(token(hosts), batch(Host("tailscale:/n1", name, stable_id="n1")))

        assert found.host.name == name

    @pytest.mark.parametrize(
        ("hosts", "name"),
        [
            ("web-1", "web-2"),
            ("web-1", "WEB-1"),
            ("web-1", "web-1 "),
            ("web-1", "web-1\n"),
            ("web-1", "web-1."),
            ("web-1", "web-11"),
            ("web-1", "wеb-1"),  # a Cyrillic e
            ("web-1", "web\u20101"),
            ("café", "cafe\u0301"),  # the same to the eye
            ("straße", "strasse"),
            ("ſ", "s"),
            ("web-?", "web-10"),
            ("web-?", "web-"),
            ("web-*", "db-web-1"),
            ("web.1", "webx1"),
            ("[ab]", "a"),
            ("[!a]", "b"),
            ("web-*", "web-" + "x" * 250),
            ("*x", ""),
        ],
    )
    def test_refuses_names_that_do_not(self, hosts, name):
        with pytest.raises(Forbidden):
            check_host(token(hosts), batch(Host("tailscale:/n1", name)))

    def test_a_pattern_takes_no_time_on_a_hostile_name(self):
        with pytest.raises(Forbidden):
            check_host(token("*a*a*a*a*a*a*a*a*b"), batch(Host("name:x", "a" * 253)))

    def test_the_name_that_was_checked_is_the_identity(self):
        """An id in a document may be another host's."""
        found = check_host(token("web-*"), batch(Host("tailscale:/nDB1", "web-1", stable_id="nDB1")))

        assert found.host == Host("host:web-1", "web-1", stable_id="nDB1")

    def test_a_token_for_any_host_leaves_the_identity(self):
        host = Host("tailscale:/nDB1", "db-1", stable_id="nDB1")

        assert check_host(token("*"), batch(host)).host == host
        assert check_host(None, batch(host)).host == host

    def test_a_token_for_one_host_names_it(self):
        assert own_host(token("web-1")) == "web-1"
        assert [own_host(token(hosts)) for hosts in ("web-*", "web-?", "*")] == [None] * 3
        assert own_host(None) is None


class TestIngest:
    """Token A posting as host B: refused, and nothing is stored."""

    @pytest.fixture
    def stored(self, database):
        def rows():
            return {
                table: database.run(f"SELECT count(*) FROM {table}")[0][0]
                for table in ("hosts", "receipts", "tailscale_status", "tailscale_peers", "tailscale_nodes")
            }

        return rows

    @pytest.fixture
    def victim(self, database, config, make_status):
        """Host B as it reports without a token, with its token, and with another one's pattern."""
        for host, sent_with in (("db-1", None), ("db-1", token("db-1")), ("db-1", token("db-*"))):
            body = json.dumps(make_status(host, _timestamp="2026-07-31T12:00:00Z")).encode()
            ingest(
                Payload(body, NOW, key=f"{sent_with and sent_with.hosts}", token=sent_with), database, config
            )
        return database.run("SELECT host_id, name, stable_id, last_seen FROM hosts ORDER BY host_id")

    def foreign(self, make_status):
        theirs, ours = make_status("db-1"), make_status("web-1")
        return {
            "documents of another host": (theirs, {}),
            "the host named": (ours, {"host": "db-1"}),
            "the identity named": (ours, {"host": "host:db-1"}),
            "an upper-case name": (ours, {"host": "WEB-1"}),
            "one of several lines": ([ours, theirs, ours], {}),
            "without any name": (make_status("web-1", Self={}), {}),
            "a name from another field": (ours | {"Self": ours["Self"] | {"DNSName": "db-1.x."}}, {}),
            "replacing": (theirs, {"replace": True, "time": datetime(2026, 7, 31, 12, tzinfo=UTC)}),
            "with their key": (theirs, {"key": "db-1"}),
        }

    NAMES = (
        "documents of another host",
        "the host named",
        "the identity named",
        "an upper-case name",
        "one of several lines",
        "without any name",
        "a name from another field",
        "replacing",
        "with their key",
    )

    @pytest.mark.parametrize("name", NAMES)
    def test_a_pattern_is_held_to(self, name, database, config, make_status, victim, stored):
        document, said = self.foreign(make_status)[name]
        before = stored()

        with pytest.raises(Forbidden):
            ingest(
                Payload(json.dumps(document).encode(), NOW, token=token("web-*"), **said), database, config
            )

        assert stored() == before

    @pytest.mark.parametrize("name", NAMES)
    def test_one_host_is_held_to(self, name, database, config, make_status, victim, stored):
        document, said = self.foreign(make_status)[name]
        payload = Payload(json.dumps(document).encode(), NOW, token=token("web-1"), **said)

        if "host" in said:
            before = stored()
            with pytest.raises(Forbidden):
                ingest(payload, database, config)
            assert stored() == before
        else:
            assert {receipt.host for receipt in ingest(payload, database, config)} == {"web-1"}
            assert {row[1] for row in database.run("SELECT host_id, name FROM hosts")} == {"db-1", "web-1"}
        self.assert_unharmed(database, victim)

    @pytest.mark.parametrize("hosts", ["web-1", "web-*"])
    def test_their_stable_id_writes_none_of_their_rows(self, hosts, database, config, make_status, victim):
        document = make_status("db-1")
        document["Self"] |= {"DNSName": "web-1.tail0example.ts.net.", "HostName": "web-1"}
        payload = Payload(json.dumps(document).encode(), NOW, token=token(hosts))

        (receipt,) = ingest(payload, database, config)
        ((name,),) = database.run(
            "SELECT h.name FROM tailscale_status AS s JOIN hosts AS h USING (host_id) WHERE s.time = %(at)s",
            {"at": NOW},
        )

        assert (receipt.host, name) == ("web-1", "web-1")
        self.assert_unharmed(database, victim)

    def test_their_key_and_time_say_nothing(self, database, config, make_status, victim):
        """What B has sent is neither answered as a duplicate nor as a conflict."""
        body = json.dumps(make_status("db-1", _timestamp="2026-07-31T12:00:00Z")).encode()

        for said in ({"key": "db-1"}, {}, {"replace": True}):
            payload = Payload(body, NOW, token=token("web-1"), **said)
            ingested = ingest(payload, database, config)
            assert [(r.host, r.duplicate) for r in ingested] == [("web-1", said == {})], said
        self.assert_unharmed(database, victim)

    def assert_unharmed(self, database, victim):
        found = database.run("SELECT host_id, name, stable_id, last_seen FROM hosts ORDER BY host_id")
        assert found[: len(victim)] == victim
        for host_id, *_ in victim:
            rows = database.run(
                "SELECT count(*), count(DISTINCT time), max(time)"
                " FROM tailscale_status WHERE host_id = %(id)s",
                {"id": host_id},
            )
            assert rows == [(1, 1, datetime(2026, 7, 31, 12, tzinfo=UTC))]

    def test_a_refused_document_is_kept_under_the_host_of_its_token(self, database, config):
        payload = Payload(b"{}", NOW, token=token("web-1"))
        with pytest.raises(PayloadError) as refused:
            ingest(payload, database, config)

        reject(payload, refused.value, database, config)
        reject(replace(payload, host="db-1"), Forbidden(), database, config)

        assert database.run("SELECT host, reason FROM rejects ORDER BY reject_id") == [
            ("web-1", "unknown-source"),
            ("db-1", "forbidden"),
        ]


class TestStart:
    @pytest.mark.parametrize(
        "address", [("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1, 0, 0), "/run/x", b"\0x"]
    )
    def test_this_machine_needs_no_word(self, address):
        check_open(None, address, proxy_hops=0)

    @pytest.mark.parametrize("address", [("127.0.0.1", 1), "/run/x"])
    def test_a_proxy_brings_others_to_it(self, address):
        with pytest.raises(ConfigError, match=r"proxy in front .*TSSTATS_AUTH=on"):
            check_open(None, address, proxy_hops=1)

    @pytest.mark.parametrize("address", [("0.0.0.0", 1), ("::", 1, 0, 0), ("10.0.0.1", 1), ("100.64.0.1", 1)])
    def test_others_do(self, address):
        with pytest.raises(ConfigError, match=r"TSSTATS_AUTH=on .*tsstats token create.* TSSTATS_AUTH=off"):
            check_open(None, address, proxy_hops=0)
        check_open(True, address, proxy_hops=1)
        check_open(False, address, proxy_hops=1)

    @pytest.mark.parametrize(
        ("address", "expected"),
        [("::ffff:127.0.0.1", True), ("::ffff:10.0.0.1", False), ("unknown", False), ("localhost", False)],
    )
    def test_tells_loopback(self, address, expected):
        assert is_loopback(address) is expected

    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("local", "local"),
            ("x" * 9000, "x" * 64),
        ],
    )
    def test_tells_whose_network(self, address, expected):
        assert network_of(address) == expected

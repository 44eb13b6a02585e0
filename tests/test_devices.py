"""Listings of devices and devices alone, from the body to the tables."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.errors import ConflictingPayload, EmptyPayload, UnstorablePayload
from ringstats_ts.export import export
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.sources import by_name

NOW = datetime.now(UTC).replace(microsecond=0)
TIME = NOW - timedelta(hours=1)
SAME_MICROSECOND = "n228CNTRL", "n2465CNTRL"
"""Two ids of which `devices.listing` makes the same microsecond."""


def send(database, config, document, **told):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return ingest(Payload(body, NOW, **({"host": "control"} | told)), database, config)


def nodes(*ids, **fields):
    """As the command line of Headscale writes them."""
    return [
        {"id": number, "node_key": f"nodekey:{number}", "machine_key": f"mkey:{number}", "given_name": "n"}
        | fields
        for number in ids
    ]


def devices(*ids, **fields):
    """As the API of Tailscale writes them."""
    return [
        {"nodeId": name, "nodeKey": f"nodekey:{name}", "machineKey": f"mkey:{name}", "isExternal": False}
        | {"connectedToControl": True, "name": f"{name}.tail0example.ts.net"}
        | fields
        for name in ids
    ]


def lines(documents):
    return "\n".join(map(json.dumps, documents)).encode()


def lists(database):
    return database.run(
        "SELECT kind, time, devices, connected, external FROM tailscale_device_lists ORDER BY time, kind"
    )


def rows(database):
    return database.run("SELECT device_id, time FROM tailscale_devices ORDER BY time, device_id")


class TestArrays:
    @pytest.mark.parametrize(
        ("told", "time"),
        [({}, NOW), ({"time": TIME}, TIME), ({"file_time": TIME}, TIME)],
        ids=["arrival", "time", "file_time"],
    )
    def test_of_nodes_are_one_listing(self, database, config, told, time):
        for duplicate in (False, True):
            (receipt,) = send(database, config, nodes(3, 1, 2, online=True) + nodes(4), **told)
            assert (receipt.rows, receipt.duplicate) == (5, duplicate)
        assert lists(database) == [("headscale", time, 4, 3, None)]
        assert rows(database) == [(name, time) for name in "1234"]

    def test_of_devices_are_one_listing(self, database, config):
        sent = devices("nA", "nB") + devices("nC", isExternal=True, name="c.tailother.ts.net")
        (receipt,) = send(database, config, sent, host=None, source="devices", time=TIME)
        assert (receipt.host, receipt.warnings) == ("tail0example.ts.net", ())
        assert lists(database) == [("tailscale", TIME, 3, 3, 1)]

    def test_of_one_are_a_listing_of_one(self, database, config):
        send(database, config, nodes(1), time=TIME)
        assert lists(database) == [("headscale", TIME, 1, 0, None)]

    def test_hold_ids_that_alone_would_be_in_each_others_way(self, database, config):
        send(database, config, devices(*SAME_MICROSECOND), time=TIME)
        assert lists(database) == [("tailscale", TIME, 2, 2, 0)]
        assert len(rows(database)) == 2

    def test_are_stored_whole_or_not_at_all(self, database, config):
        with pytest.raises(UnstorablePayload) as refused:
            send(database, config, nodes(1) + nodes(2, given_name=5), partial=True)
        assert refused.value.pointer == "/1/given_name"
        assert rows(database) == lists(database) == []

    def test_are_refused_whole_with_partial_too(self, database, config):
        bad = [*nodes(1, 2), nodes(3, notes="x" * 70_000)[0]]
        with pytest.raises(UnstorablePayload) as refused:
            send(database, config, bad, time=TIME, partial=True)
        assert refused.value.pointer == "/2/notes"
        assert lists(database) == rows(database) == []

    def test_are_replaced_as_a_whole(self, database, config):
        send(database, config, nodes(1, 2, 3), time=TIME)
        with pytest.raises(ConflictingPayload):
            send(database, config, nodes(1, 2), time=TIME)
        send(database, config, nodes(1, 2), time=TIME, replace=True)
        assert lists(database) == [("headscale", TIME, 2, 0, None)]
        assert rows(database) == [("1", TIME), ("2", TIME)]

    def test_keep_no_key_that_a_node_was_registered_with(self, database, config):
        send(database, config, nodes(1, pre_auth_key={"id": 4, "key": "5ec4e7", "reusable": True}))
        assert database.run(
            "SELECT a.document -> 'pre_auth_key' FROM tailscale_devices JOIN attributes AS a"
            " USING (attribute_id)"
        ) == [({"id": 4, "reusable": True},)]
        assert database.run("SELECT count(*) FROM attributes WHERE document::text LIKE '%5ec4e7%'") == [(0,)]

    def test_with_a_time_in_an_element_are_devices_alone(self, database, config):
        sent = nodes(1, _timestamp=TIME.isoformat()) + nodes(2)
        assert [receipt.rows for receipt in send(database, config, sent)] == [1, 1]
        assert lists(database) == []

    def test_of_both_servers_are_devices_alone(self, database, config):
        assert len(send(database, config, nodes(1) + devices("nA"))) == 2
        assert lists(database) == []

    def test_that_are_empty_are_refused_and_an_empty_listing_is_not(self, database, config):
        with pytest.raises(EmptyPayload):
            send(database, config, [])
        send(database, config, {"nodes": []}, time=TIME)
        assert lists(database) == [("headscale", TIME, 0, 0, 0)]


class TestAlone:
    @pytest.mark.parametrize(
        "document",
        [
            nodes(1)[0],
            devices("nA")[0],
            devices("nA", _timestamp=TIME.isoformat())[0],
            {"node": nodes(1)[0]},
            {"status": 200, "body": {"machine": nodes(1)[0]}},
        ],
        ids=["node", "device", "stamped", "in a member", "with its status"],
    )
    @pytest.mark.parametrize("told", [{}, {"time": TIME}], ids=["arrival", "time"])
    def test_is_no_listing(self, database, config, document, told):
        for duplicate in (False, True):
            (receipt,) = send(database, config, document, **told)
            assert (receipt.rows, receipt.duplicate) == (1, duplicate)
        assert len(rows(database)) == 1
        assert lists(database) == []

    @pytest.mark.parametrize(
        "told", [{}, {"time": TIME}, {"file_time": TIME}], ids=["arrival", "time", "file_time"]
    )
    def test_devices_of_one_time_are_in_nobodys_way(self, database, config, told):
        for duplicate in (False, True):
            receipts = send(database, config, lines(nodes(*range(1, 21))), **told)
            assert [receipt.duplicate for receipt in receipts] == [duplicate] * 20
        assert len({time for _, time in rows(database)}) == 20
        assert lists(database) == []

    def test_of_two_that_come_to_one_microsecond_the_second_is_refused(self, database, config):
        with pytest.raises(ConflictingPayload):
            send(database, config, lines(devices(*SAME_MICROSECOND)), time=TIME)
        assert len(send(database, config, lines(devices(*SAME_MICROSECOND)))) == 2

    def test_what_is_beside_it_is_kept_and_its_time_is_not_kept_twice(self, database, config):
        document = {"node": nodes(1)[0], "note": "x", "_timestamp": TIME.isoformat()}
        send(database, config, document)
        assert database.run(
            "SELECT a.document -> '$around' FROM tailscale_devices JOIN attributes AS a USING (attribute_id)"
        ) == [({"note": "x"},)]

    def test_is_stored_beside_a_listing_of_its_time_and_replaced_by_itself(self, database, config):
        send(database, config, nodes(1, 2), time=TIME)
        alone, own = nodes(1, online=True)[0], TIME + timedelta(microseconds=1)
        send(database, config, alone, time=TIME)
        send(database, config, alone | {"given_name": "new"}, time=TIME, replace=True)
        assert rows(database) == [("1", TIME), ("2", TIME), ("1", own)]
        assert lists(database) == [("headscale", TIME, 2, 0, None)]


class TestLatest:
    @pytest.fixture
    def latest(self, database):
        return lambda: database.run(
            "SELECT device_id, connected, time FROM tailscale_devices_latest ORDER BY device_id"
        )

    def test_a_device_alone_hides_no_other_of_an_earlier_listing(self, database, config, latest):
        later = TIME + timedelta(minutes=1)
        send(database, config, nodes(1, 2, online=True), time=TIME)
        send(database, config, nodes(1)[0], time=later)
        assert latest() == [("1", False, later + timedelta(microseconds=1)), ("2", True, TIME)]
        assert lists(database) == [("headscale", TIME, 2, 2, None)]

    def test_a_later_listing_is_shown_in_its_place(self, database, config, latest):
        later = TIME + timedelta(minutes=1)
        send(database, config, nodes(1)[0], time=TIME)
        send(database, config, nodes(3)[0], time=TIME)
        send(database, config, nodes(1, 2, online=True), time=later)
        assert latest() == [
            ("1", True, later),
            ("2", True, later),
            ("3", False, TIME + timedelta(microseconds=3)),
        ]


@pytest.mark.parametrize("document", [nodes(1)[0], {"nodes": []}], ids=["alone", "empty listing"])
def test_whatever_a_host_has_is_exported(database, config, tmp_path, document):
    send(database, config, document)
    assert export(by_name("headscale"), database, tmp_path, host="control").rows == 1

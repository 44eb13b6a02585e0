"""The sources host, pattoo and json: every number of a document is a sample, all else is in attributes."""

import itertools
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringstats_ts import sources
from ringstats_ts.config import Config
from ringstats_ts.errors import ConflictingPayload, PayloadError, UnknownSource, UnstorablePayload
from ringstats_ts.export import export
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Attributes, Batch, Context, Entity, Payload, Receipt
from ringstats_ts.sources.flatten import ID_KEYS, INDEXED, dotted
from ringstats_ts.sources.host import HOST
from ringstats_ts.sources.json import ANY_JSON, WHOLE
from ringstats_ts.sources.pattoo import PATTOO
from ringstats_ts.sources.samples import MOST_SAMPLES, exact
from ringstats_ts.storage.database import Database
from tests.examples import examples

ROOT = Path(__file__).parents[2]
STATUS = json.loads((ROOT / "samples" / "host" / "status.json").read_text())
(POST_FILE,) = (Path(__file__).parent / "pattoo" / "sample-generation-8").glob("payload.*")
POST = json.loads(POST_FILE.read_text())
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CONTEXT = Context(NOW, host="web-1")
ALL_OF_IT = replace(CONTEXT, keep_secrets=True)

Store = Callable[..., Receipt]


def samples_of(batch: Batch) -> list[dict[str, Any]]:
    (part,) = [part for part in (*batch.rows, *batch.events) if part.table == "samples"]
    return [dict(zip(part.columns, row, strict=True)) for row in part.rows]


def attributes_of(batch: Batch) -> dict[str, Any]:
    (part,) = [part for part in (*batch.rows, *batch.events) if part.table == "documents"]
    ((*_, kept),) = part.rows
    return dict(kept.document) if isinstance(kept, Attributes) else {}


def names_of(batch: Batch) -> list[tuple[str, str]]:
    return [row["series_id"].key[1:] for row in samples_of(batch)]


def leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that holds no other, with the keys on the way to it; `1` and `true` are not equal."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from leaves(member, (*keys, key))
    elif isinstance(value, list):
        for member in value:
            yield from leaves(member, keys)
    elif type(value) in (int, float):
        yield keys, Decimal(repr(value))
    else:
        yield keys, (type(value).__name__, value)


def keys_of(name: str) -> tuple[str, ...]:
    """Read a dotted name back, as docs/sources/json.md has it."""
    parts = re.findall(r'("(?:[^"\\]|\\.)*"|[^.]+)(?:\.|$)', name)
    return tuple(json.loads(part) if part.startswith('"') else part for part in parts)


def kept_leaves(batch: Batch) -> Counter[Any]:
    """Those of the numbers, and of the attributes; of what is in `elements`, as it stood in the array."""
    numbers = Counter((keys_of(row["series_id"].key[1]), row["value"]) for row in samples_of(batch))
    kept = attributes_of(batch)
    return numbers + Counter(leaves(kept["elements"] if kept.keys() == {"elements"} else kept))


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
keys = (
    st.sampled_from(
        ["a", "b", "a.b", ".", "", '"', '"a"', "a[]", "id", "ID", "Id", "name", "index", "index[]", "x_total"]
    )
    | texts
)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(keys, inner, max_size=5)
        | st.lists(st.fixed_dictionaries({"id": st.integers(0, 5) | texts, "v": inner}), max_size=4)
    ),
    max_leaves=25,
)
objects = st.dictionaries(keys, values, min_size=1, max_size=6)
named = st.lists(
    st.fixed_dictionaries({"name": st.integers(0, 50).map(str), "v": values}),
    unique_by=lambda element: element["name"],
    min_size=1,
    max_size=6,
)
arrays = st.lists(objects, min_size=1, max_size=5) | named


class TestJson:
    @examples(150)
    @given(document=objects)
    def test_every_leaf_is_in_a_sample_or_in_the_attributes(self, document: dict[str, Any]) -> None:
        assert kept_leaves(ANY_JSON.parse(document, ALL_OF_IT)) == Counter(leaves(document))

    @examples(150)
    @given(document=objects)
    def test_no_two_numbers_have_one_name(self, document: dict[str, Any]) -> None:
        names = names_of(ANY_JSON.parse(document, CONTEXT))
        assert len(set(names)) == len(names)

    @examples(100)
    @given(path=st.lists(keys, min_size=1, max_size=4))
    def test_a_name_tells_its_keys(self, path: list[str]) -> None:
        assert keys_of(dotted(path)) == tuple(path)

    @examples(100)
    @given(elements=named, seed=st.integers())
    def test_the_order_of_elements_with_ids_changes_nothing(
        self, elements: list[dict[str, Any]], seed: int
    ) -> None:
        shuffled = random.Random(seed).sample(elements, len(elements))
        one, other = (ANY_JSON.parse({"disks": disks}, CONTEXT) for disks in (elements, shuffled))
        assert {tuple(row.values()) for row in samples_of(one)} == {
            tuple(row.values()) for row in samples_of(other)
        }
        assert attributes_of(one) == attributes_of(other)

    @pytest.mark.parametrize("key", [*ID_KEYS, "ID", "Id", "Name", "IfName"])
    def test_an_array_is_labelled_by_what_tells_its_elements_apart(self, key: str) -> None:
        document = {"disks": [{key: "sda", "free": 1}, {key: "sdb", "free": 2}]}
        assert names_of(ANY_JSON.parse(document, CONTEXT)) == [
            ("disks.free", '{"disks":"sda"}'),
            ("disks.free", '{"disks":"sdb"}'),
        ]

    def test_the_key_that_is_likeliest_is_the_label_if_all_have_it(self) -> None:
        elements = [
            {"ID": 1, "Name": "a", "name": "x", "uuid": "u", "v": 1},
            {"ID": 1, "Name": "b", "name": "y", "uuid": "w", "v": 2},
        ]
        assert names_of(ANY_JSON.parse(elements, CONTEXT))[0] == ("ID", '{"name":"x"}')
        del elements[1]["name"]
        assert names_of(ANY_JSON.parse(elements, CONTEXT))[0] == ("ID", '{"Name":"a"}')

    @pytest.mark.parametrize(
        "ids", [("sda", "sda"), (1, "1"), ("", "sdb"), (1.5, 2.5), (True, False), (None, 1)]
    )
    def test_what_is_no_id_of_its_own_makes_no_label(self, ids: tuple[Any, ...]) -> None:
        document = {"disks": [{"id": each, "free": 1} for each in ids]}
        labels = [
            labels for name, labels in names_of(ANY_JSON.parse(document, CONTEXT)) if name == "disks.free"
        ]
        assert labels == ['{"disks":"0"}', '{"disks":"1"}']

    @pytest.mark.parametrize("count", [INDEXED, INDEXED + 1])
    def test_a_long_array_stays_whole(self, count: int) -> None:
        batch = ANY_JSON.parse({"load": [0.5] * count}, CONTEXT)
        is_long = count > INDEXED
        assert len(samples_of(batch)) == (0 if is_long else count)
        assert attributes_of(batch) == ({"load": [0.5] * count} if is_long else {})

    def test_ten_thousand_numbers_are_taken_and_no_more(self) -> None:
        document = {"v": {str(number): number for number in range(MOST_SAMPLES)}}
        assert len(samples_of(ANY_JSON.parse(document, CONTEXT))) == MOST_SAMPLES
        with pytest.raises(UnstorablePayload, match="10,001 numbers; 10,000 are taken") as refused:
            ANY_JSON.parse(document | {"more": 1}, CONTEXT)
        assert refused.value.hint

    def test_the_longest_name_is_stored(self, store: Store, database: Database) -> None:
        # Random, so that PostgreSQL cannot compress what it puts into the index.
        letters = random.Random(1).randbytes(1000).hex()
        a, b, c, d = letters[:499], letters[499:998], letters[998:1497], letters[1497:1995]
        assert store({a: {b: {c: {d: 1}}}}, host="web-1").rows == 2
        stored = database.run("SELECT name, value FROM samples JOIN series USING (series_id)")
        assert stored == [(f"{a}.{b}.{c}.{d}", 1)]
        with pytest.raises(UnstorablePayload, match="2,000 bytes"):
            store({a: {b: {c: {d + "x": 1}}}}, host="web-1")

    def test_is_for_every_object_that_is_not_empty(self) -> None:
        assert ANY_JSON.detect({"a": None})
        assert not any(map(ANY_JSON.detect, ({}, [], [1], "a", 1, None, True)))


class TestArray:
    """An array of objects that is one document."""

    @examples(150)
    @given(elements=arrays)
    def test_every_leaf_is_in_a_sample_or_in_the_attributes(self, elements: list[dict[str, Any]]) -> None:
        assert kept_leaves(ANY_JSON.parse(elements, ALL_OF_IT)) == Counter(leaves(elements))

    @examples(150)
    @given(elements=arrays)
    def test_no_two_numbers_have_one_name(self, elements: list[dict[str, Any]]) -> None:
        names = names_of(ANY_JSON.parse(elements, CONTEXT))
        assert len(set(names)) == len(names)

    @examples(100)
    @given(elements=named, seed=st.integers())
    def test_in_another_order_elements_with_ids_are_the_same_batch(
        self, elements: list[dict[str, Any]], seed: int
    ) -> None:
        shuffled = random.Random(seed).sample(elements, len(elements))
        assert ANY_JSON.parse(elements, CONTEXT) == ANY_JSON.parse(shuffled, CONTEXT)

    def test_in_another_order_elements_without_ids_are_another_document(self) -> None:
        one, other = (
            ANY_JSON.parse(elements, CONTEXT) for elements in ([{"v": 1}, {"v": 2}], [{"v": 2}, {"v": 1}])
        )
        assert one.digest != other.digest

    @pytest.mark.parametrize("count", [INDEXED, INDEXED + 1])
    def test_a_long_one_without_ids_stays_whole_and_says_so(self, count: int) -> None:
        elements = [{"v": number, "s": "x"} for number in range(count)]
        batch = ANY_JSON.parse(elements, CONTEXT)
        if count > INDEXED:
            assert (samples_of(batch), attributes_of(batch)) == ([], {"elements": elements})
            assert batch.warnings == (WHOLE,)
        else:
            assert [row["value"] for row in samples_of(batch)] == list(range(count))
            assert batch.warnings == ()

    def test_a_long_one_with_ids_is_samples(self) -> None:
        batch = ANY_JSON.parse([{"Name": f"{number:04}", "v": number} for number in range(1000)], CONTEXT)
        assert [row["value"] for row in samples_of(batch)] == list(range(1000))
        assert names_of(batch)[7] == ("v", '{"Name":"0007"}')
        assert batch.warnings == ()

    def test_is_of_objects_that_tell_neither_time_nor_host(self) -> None:
        part = {"v": 1}
        assert ANY_JSON.detect([part])
        assert ANY_JSON.detect([part, {"host": 5, "hostname": None, "a": {"_timestamp": 1, "host": "x"}}])
        others: list[Any] = [{}, 1, None, [part], {"_timestamp": 0}, {"host": "a"}, {"hostname": "a"}]
        assert not any(ANY_JSON.detect([part, other]) for other in others)

    def test_an_array_that_is_a_line_or_an_element_is_judged_alike(self) -> None:
        assert sources.detect([{"v": 1}]) is ANY_JSON
        for others in ([{"BackendState": "Running"}], [{"v": 1}, {"BackendState": "Running"}], [[1]], []):
            with pytest.raises(UnknownSource, match="it looks like an array of"):
                sources.detect(others)


class TestExact:
    @given(value=numbers)
    def test_is_the_number_that_was_written(self, value: float) -> None:
        found = exact(value)
        assert type(value)(found) == value
        assert Decimal(repr(value)) == found

    @examples(25)
    @given(written=st.lists(numbers, min_size=1, max_size=20))
    def test_is_what_the_database_gives_back(self, database_uri: str, written: list[float]) -> None:
        cells = [exact(value) for value in written]
        with Database(database_uri) as database:
            rows = database.run(
                "SELECT v::numeric FROM unnest(%(cells)s::text[]) WITH ORDINALITY AS c (v, n) ORDER BY n",
                {"cells": list(map(str, cells))},
            )
        assert [repr(value) for (value,) in rows] == list(map(repr, cells))


class TestHost:
    def test_every_number_of_the_sample_is_a_sample(self) -> None:
        batch = HOST.parse(STATUS, CONTEXT)
        expected = Counter(leaves(STATUS)) - Counter({(("time",), ("str", STATUS["time"])): 1})
        assert kept_leaves(batch) == expected
        written = re.findall(r'": (-?[0-9][0-9.e+-]*)', json.dumps(STATUS))
        assert sorted(str(row["value"]) for row in samples_of(batch)) == sorted(written[1:])

    def test_counters_are_those_of_the_table(self) -> None:
        kinds = {
            row["series_id"].key[1]: (row["series_id"].fields["kind"], row["series_id"].fields["unit"])
            for row in samples_of(HOST.parse(STATUS, CONTEXT))
        }
        documented = dict(documented_numbers())
        assert kinds == {name: documented[name] for name in kinds}
        assert len(kinds) > 40

    def test_the_script_of_the_documentation_writes_one(self, tmp_path: Path) -> None:
        (script,) = re.findall(r"```python\n(.*?)```", host_page(), re.DOTALL)
        (tmp_path / "host-status.py").write_text(script)
        wrote = subprocess.run(
            [sys.executable, tmp_path / "host-status.py"], check=True, capture_output=True, timeout=60
        )
        document = json.loads(wrote.stdout)
        batch = HOST.parse(document, Context(NOW))
        assert batch.time_known
        assert batch.drift == batch.warnings == ()
        assert batch.host.name == document["hostname"]
        documented = dict(documented_numbers())
        assert {row["series_id"].key[1] for row in samples_of(batch)} <= documented.keys()

    @pytest.mark.parametrize("key", ["disk_usage_bytes", "disk_io", "network_io", "temperatures_celsius"])
    def test_what_the_format_has_in_an_array_is_refused_elsewhere(self, key: str) -> None:
        status = {"tsstats_host": 1, "users": 1}
        for nothing in (None, []):
            assert len(samples_of(HOST.parse(status | {key: nothing}, CONTEXT))) == 1
        id_key = {"disk_usage_bytes": "mountpoint", "disk_io": "device", "network_io": "interface"}.get(
            key, "sensor"
        )
        refused: dict[str, list[Any]] = {
            f"/{key}": [{"a": {"v": 1}}, {}, 5, "a", True],
            f"/{key}/1": [
                [{id_key: "a"}, bad] for bad in (5, None, [], {}, {"id": "b"}, {id_key: ""}, {id_key: 1.5})
            ],
        }
        for pointer, value in ((pointer, value) for pointer, values in refused.items() for value in values):
            with pytest.raises(UnstorablePayload, match=f"`{id_key}`") as caught:
                HOST.parse(status | {key: value}, CONTEXT)
            assert (caught.value.pointer, f"with its `{id_key}`" in caught.value.hint) == (pointer, True)

    def test_numbers_that_the_format_does_not_define_are_drift(self) -> None:
        unknown = {
            "fan": 1,
            "load_average": [1, 2],
            "cpu_stats": {"ctx_switches": 1, "steals": 2, "word": "x"},
            "network_io": [{"interface": each, "bytes_recv": 1, "speed": 2} for each in ("eth0", "eth1")],
        }
        batch = HOST.parse(STATUS | unknown, CONTEXT)
        assert batch.drift == ("cpu_stats.steals", "fan", "load_average", "network_io.speed")
        assert HOST.parse(STATUS, CONTEXT).drift == ()

    def test_a_reboot_is_a_reset(self, store: Store, database: Database) -> None:
        start = NOW - timedelta(hours=2)
        for minutes, count in ((0, 2**63), (50, 2**63 + 5), (70, 3), (80, 10)):
            time = (start + timedelta(minutes=minutes)).isoformat()
            counted = [{"interface": "eth0", "bytes_recv": count}]
            store({"tsstats_host": 1, "hostname": "web-1", "time": time, "network_io": counted})
        assert database.run(
            "SELECT host, name, labels, unit, increase, resets"
            " FROM series_increase(%(since)s, %(until)s, '1 day')",
            {"since": start, "until": NOW},
        ) == [("web-1", "network_io.bytes_recv", {"interface": "eth0"}, "bytes", 15, 1)]


def host_page() -> str:
    return (ROOT / "docs" / "sources" / "host.md").read_text()


def documented_numbers() -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Name, kind and unit of every number in the table of the documentation."""
    for member, _, kind, unit, _ in re.findall(
        r"^\| (.+?) \| (.*?) \| (gauge|counter) \| (.*?) \| (.*?) \|$",
        host_page().replace("| |", "|  |"),
        re.M,
    ):
        parent, _, names = member.replace("[]", "").rpartition(": ")
        for name in re.findall(r"`(\w+)`", names):
            yield (f"{parent.strip('`')}.{name}" if parent else name), (kind, unit or None)


class TestPattoo:
    def test_every_datapoint_of_the_sample_is_a_sample(self) -> None:
        pairs = POST["pattoo_datapoints"]["key_value_pairs"]
        told = [
            dict(pairs[str(number)] for number in numbers)
            for numbers in POST["pattoo_datapoints"]["datapoint_pairs"]
        ]
        expected = Counter(
            (
                p["pattoo_key"],
                Decimal(repr(p["pattoo_value"])),
                p["pattoo_timestamp"],
                p["pattoo_data_type"] == 64,
            )
            for p in told
        )
        rows = samples_of(PATTOO.parse(POST, CONTEXT))
        assert expected.total() == 99
        assert expected == Counter(
            (
                row["series_id"].key[1],
                row["value"],
                round(row["time"].timestamp() * 1000),
                row["series_id"].fields["kind"] == "counter",
            )
            for row in rows
        )
        assert len({(row["series_id"], row["time"]) for row in rows}) == 99

    def test_an_update_of_the_system_makes_no_new_series(self) -> None:
        updated = orjson.loads(orjson.dumps(POST).replace(b"6.1.0-13-amd64", b"6.1.0-14-amd64"))
        before, after = PATTOO.parse(POST, CONTEXT), PATTOO.parse(updated, CONTEXT)
        assert names_of(after) == names_of(before)
        assert attributes_of(after) != attributes_of(before)

    def test_posts_that_come_late_and_again_are_stored_once(self, store: Store, database: Database) -> None:
        posts = [self.later(minutes) for minutes in range(6)]
        order = [0, 3, 2, 2, 5, 1, 4, 0, 5]
        receipts = [store(posts[number]) for number in order]
        assert [receipt.duplicate for receipt in receipts] == [
            number in order[:place] for place, number in enumerate(order)
        ]
        database.run("DELETE FROM receipts")
        assert all(store(post).duplicate for post in posts)
        assert database.run("SELECT count(*), count(DISTINCT series_id) FROM samples") == [(6 * 99, 99)]
        assert database.run("SELECT count(*), sum(samples), count(DISTINCT attribute_id) FROM documents") == [
            (6, 6 * 99, 1)
        ]
        ((increase,),) = database.run(
            "SELECT sum(increase) FROM series_increase('2026-11-21Z', '2026-11-22Z', '1 day')"
            " WHERE name = 'cpu_stats_ctx_switches'"
        )
        assert increase == 5000

    @staticmethod
    def later(minutes: int) -> dict[str, Any]:
        """The sample so many minutes later, with 1,000 more of everything that is above 9,520,000 each."""
        post = json.loads(POST_FILE.read_text())
        post["pattoo_agent_timestamp"] += minutes * 60_000
        for pair in post["pattoo_datapoints"]["key_value_pairs"].values():
            if pair[0] == "pattoo_timestamp":
                pair[1] += minutes * 60_000
            elif pair == ["pattoo_value", 9520228]:
                pair[1] += minutes * 1000
        return post

    @pytest.mark.parametrize(
        "document",
        [
            {"pattoo_datapoints": {}},
            {"pattoo_agent_id": "a", "pattoo_datapoints": {"key_value_pairs": {}}},
            {"source": "a", "datapoints": []},
            {"source": "a", "polling_interval": 1, "datapoints": [{"value": 1}]},
            {"source": "a", "polling_interval": 1, "datapoints": [1]},
            {"source": "a", "polling_interval": 1, "datapoints": {}},
            {"encrypted_data": "x", "more": 1},
        ],
    )
    def test_other_objects_are_no_posts(self, document: dict[str, Any]) -> None:
        assert not PATTOO.detect(document)

    def test_whatever_is_in_a_post_it_is_read_or_refused(self) -> None:
        junk: list[Any] = [None, True, 5, -1.5, "", "x", [], {}, [[]], [{}], {"0": 1}, 10**18]
        read = 0
        for path in paths(GENERATION_4):
            for value in junk:
                try:
                    PATTOO.parse(replaced(GENERATION_4, path, value), CONTEXT)
                    read += 1
                except PayloadError:
                    pass
        for path, value in itertools.product(paths(SMALL_8), junk):
            document = replaced(SMALL_8, path, value)
            if PATTOO.detect(document):
                try:
                    PATTOO.parse(document, CONTEXT)
                    read += 1
                except PayloadError:
                    pass
        assert read > 50


GENERATION_4 = {
    "source": "ab",
    "polling_interval": 300,
    "datapoints": [
        {
            "key": "cpu",
            "value": 1.5,
            "data_type": 101,
            "timestamp": 1795298768260,
            "checksum": "cd",
            "metadata": [{"agent_hostname": "h1"}, {"release": "6.1"}, {"polled_device": "h1"}],
        }
    ],
}
SMALL_8 = {
    "pattoo_agent_timestamp": 1795298768263,
    "pattoo_agent_id": "ab",
    "pattoo_agent_polling_interval": 300000,
    "pattoo_datapoints": {
        "key_value_pairs": {
            "0": ["pattoo_key", "cpu"],
            "1": ["pattoo_value", "7"],
            "2": ["pattoo_data_type", 64],
            "3": ["pattoo_timestamp", 1795298768260],
            "4": ["pattoo_agent_hostname", "h1"],
            "5": ["pattoo_agent_polled_target", "h1"],
        },
        "datapoint_pairs": [[0, 1, 2, 3, 4, 5]],
    },
}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for step in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[step], (*path, step))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copy


@pytest.fixture
def store(database: Database, config: Config) -> Store:
    """Ingests a document and gives its only receipt."""

    def store_one(document: Any, **told: Any) -> Receipt:
        (receipt,) = ingest(Payload(orjson.dumps(document), NOW, **told), database, config)
        return receipt

    return store_one


class TestStored:
    def test_values_are_exact_and_series_are_shared_by_hosts(self, store: Store, database: Database) -> None:
        written = [2**64 - 1, -(2**63), 2**53 + 1, 0.1, 1e308, 5e-324, -0.0, 10.0]
        document = {"v": written, "_timestamp": "2026-11-22T11:00:00Z"}
        for host in ("web-1", "web-2"):
            assert store(document, host=host).rows == 1 + len(written)
        rows = database.run(
            "SELECT h.name, s.labels ->> 'v', m.value FROM samples AS m"
            " JOIN hosts AS h USING (host_id) JOIN series AS s USING (series_id) ORDER BY 1, 2"
        )
        assert rows == [
            (host, str(number), Decimal(repr(value)))
            for host in ("web-1", "web-2")
            for number, value in enumerate(written)
        ]
        assert database.run("SELECT count(*) FROM series") == [(len(written),)]
        assert database.run("SELECT count(*), count(attribute_id) FROM documents") == [(2, 0)]

    @pytest.mark.parametrize("forget", [False, True], ids=["by its receipt", "by its rows"])
    def test_the_same_document_is_stored_once(self, store: Store, database: Database, forget: bool) -> None:
        document = {
            "_timestamp": "2026-11-22T11:00:00Z",
            "v": [0.1, 1e308, 5e-324, -0.0, 2**64 - 1, 7],
            "s": "x",
        }
        assert not store(document, host="web-1").duplicate
        if forget:
            database.run("DELETE FROM receipts")
        assert store(document, host="web-1").duplicate
        with pytest.raises(ConflictingPayload):
            store(document | {"s": "y"}, host="web-1")
        assert store(document | {"s": "y", "v": [1]}, host="web-1", replace=True).rows == 2
        assert database.run("SELECT value FROM samples") == [(1,)]

    def test_sources_share_a_host_and_a_time(self, store: Store, database: Database) -> None:
        time = "2026-11-22T11:00:00Z"
        status = {"tsstats_host": 1, "time": time, "users": 1}
        store(status, host="web-1")
        store({"_timestamp": time, "users": 1}, host="web-1")
        store({"tsstats_host": 1, "time": time, "users": 2}, host="web-1", replace=True)
        assert database.run(
            "SELECT source, value, d.samples FROM samples JOIN documents AS d USING (host_id, time, source)"
            " ORDER BY source"
        ) == [("host", 2, 1), ("json", 1, 1)]

    def test_the_first_document_tells_the_kind(self, store: Store, database: Database) -> None:
        entity = Entity("series", ("json", "v", "{}"), {"kind": "counter"})
        assert entity == Entity("series", ("json", "v", "{}"), {"kind": "gauge"})
        database.run(
            "INSERT INTO series (source, name, labels_key, labels, kind, first_seen)"
            " VALUES ('json', 'v', '{}', '{}', 'counter', '2026-01-01Z')"
        )
        store({"v": 1}, host="web-1")
        assert database.run("SELECT kind FROM series") == [("counter",)]

    def test_an_export_gives_back_every_sample(
        self, store: Store, database: Database, tmp_path: Path
    ) -> None:
        store({"_timestamp": "2026-11-22T11:00:00Z", "a": 2**53 + 1, "b_bytes": 0.5, "s": "x"}, host="web-1")
        summary = export(ANY_JSON, database, tmp_path)
        assert summary.rows == 3
        (samples,) = (tmp_path / "samples").rglob("*.parquet")
        columns = ("reporter", "source", "name", "labels", "kind", "unit", "value", "integer")
        rows = [{name: row[name] for name in columns} for row in pq.ParquetFile(samples).read().to_pylist()]
        head = {"reporter": "web-1", "source": "json", "labels": "{}", "kind": "gauge"}
        assert rows == [
            head | {"name": "a", "unit": None, "value": float(2**53 + 1), "integer": 2**53 + 1},
            head | {"name": "b_bytes", "unit": "bytes", "value": 0.5, "integer": None},
        ]
        (documents,) = (tmp_path / "documents").rglob("*.parquet")
        (document,) = pq.ParquetFile(documents).read().to_pylist()
        assert (document["samples"], json.loads(document["attributes"])) == (2, {"s": "x"})


class TestStoredArrays:
    PARTS = ({"ifname": "eth0", "rx": {"bytes": 2**64 - 1}, "up": True}, {"ifname": "lo", "rx": {"bytes": 7}})
    TIME = NOW - timedelta(hours=1)
    VALUES = (
        "SELECT s.name, s.labels, m.value FROM samples AS m JOIN series AS s USING (series_id)"
        " ORDER BY 1, 2, 3"
    )

    def test_an_array_is_one_document(self, store: Store, database: Database) -> None:
        receipt = store(self.PARTS, host="web-1", time=self.TIME)
        assert (receipt.source, receipt.time, receipt.rows, receipt.warnings) == ("json", self.TIME, 3, ())
        assert database.run(self.VALUES) == [
            ("rx.bytes", {"ifname": "eth0"}, 2**64 - 1),
            ("rx.bytes", {"ifname": "lo"}, 7),
        ]
        assert database.run(
            "SELECT samples, document FROM documents JOIN attributes USING (attribute_id)"
        ) == [(2, {"elements": [{"ifname": "eth0", "up": True}, {"ifname": "lo"}]})]

    @pytest.mark.parametrize("forget", [False, True], ids=["by its receipt", "by its rows"])
    def test_the_same_again_in_any_order_is_a_duplicate(
        self, store: Store, database: Database, forget: bool
    ) -> None:
        told = {"host": "web-1", "time": self.TIME}
        first = store(self.PARTS, **told)
        for again in (self.PARTS, self.PARTS[::-1]):
            if forget:
                database.run("DELETE FROM receipts")
            assert store(again, **told).duplicate
        assert len(database.run(self.VALUES)) == first.rows - 1
        with pytest.raises(ConflictingPayload):
            store(self.PARTS[:1], **told)

    @pytest.mark.parametrize("partial", [False, True])
    def test_elements_that_tell_a_time_or_host_are_documents(
        self, database: Database, config: Config, partial: bool
    ) -> None:
        times = [(self.TIME + timedelta(minutes=minutes)).isoformat() for minutes in (0, 1)]
        for elements, told in (
            ([{"id": 1, "v": 1, "_timestamp": times[0]}, {"id": 1, "v": 2, "_timestamp": times[1]}], "a"),
            ([{"hostname": "b", "v": 3}, {"host": "c", "v": 4}], None),
        ):
            payload = Payload(orjson.dumps(elements), NOW, host=told, partial=partial)
            assert [receipt.rows for receipt in ingest(payload, database, config)] in ([3, 3], [2, 2])
        assert database.run(
            "SELECT h.name, s.name, s.labels, m.value FROM samples AS m JOIN hosts AS h USING (host_id)"
            " JOIN series AS s USING (series_id) WHERE s.name = 'v' ORDER BY 4"
        ) == [("a", "v", {}, 1), ("a", "v", {}, 2), ("b", "v", {}, 3), ("c", "v", {}, 4)]

    def test_a_status_among_them_makes_each_a_document(
        self, database: Database, config: Config, make_status: Callable[..., dict[str, Any]]
    ) -> None:
        for elements in ([make_status(), {"v": 1}], [{"v": 2}, make_status()]):
            receipts = ingest(Payload(orjson.dumps(elements), NOW, host="web-1"), database, config)
            assert sorted(receipt.source for receipt in receipts) == ["json", "tailscale"]

    def test_each_line_is_a_document(self, database: Database, config: Config) -> None:
        body = b"\n".join(map(orjson.dumps, self.PARTS))
        receipts = ingest(Payload(body, NOW, host="web-1"), database, config)
        assert [receipt.rows for receipt in receipts] == [2, 2]
        assert database.run(self.VALUES) == [("rx.bytes", {}, 7), ("rx.bytes", {}, 2**64 - 1)]

    @pytest.mark.parametrize(
        ("bad", "error", "pointer"),
        [
            ({}, UnknownSource, "/1"),
            (None, UnknownSource, "/1"),
            ({"ifname": "x", "text": "x" * 70_000}, PayloadError, "/1/text"),
            ({"ifname": "x", "big": 2**64}, UnstorablePayload, None),
        ],
        ids=["empty", "null", "too long", "rounded"],
    )
    @pytest.mark.parametrize("partial", [False, True])
    def test_nothing_of_an_array_is_stored_by_itself(
        self,
        database: Database,
        config: Config,
        partial: bool,
        bad: Any,
        error: type[Exception],
        pointer: str,
    ) -> None:
        body = json.dumps([self.PARTS[0], bad, self.PARTS[1]]).encode()
        with pytest.raises(error) as refused:
            ingest(Payload(body, NOW, host="web-1", partial=partial), database, config)
        assert pointer is None or refused.value.pointer == pointer
        assert database.run("SELECT count(*) FROM documents") == [(0,)]

    @pytest.mark.parametrize("partial", [False, True])
    def test_an_element_that_cannot_be_stored_refuses_the_array(
        self, store: Store, database: Database, partial: bool
    ) -> None:
        with pytest.raises(UnstorablePayload) as refused:
            store([*self.PARTS, {"ifname": "x\0"}], host="web-1", partial=partial)
        assert refused.value.pointer == "/2/ifname"
        assert database.run("SELECT count(*) FROM documents") == [(0,)]

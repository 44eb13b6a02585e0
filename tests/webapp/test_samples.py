"""Every sample by curl and by `tsstats ingest`: counts and sums are those of the file, and twice is once."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ringstats_ts.export import export
from ringstats_ts.sources import by_name

SAMPLES = Path(__file__).parents[2] / "samples"
GOLDEN = Path(__file__).parents[1] / "sources"
pytestmark = pytest.mark.usefixtures("clean")


def text_log(content):
    """Bytes and packets of a text log by direction, counted line by line; and its blocks."""
    sums, waiting, blocks = Counter(), [], 0
    for line in content.decode().splitlines():
        if line.startswith("END CLIENT"):
            direction, total = re.search(r" total (\wX) bytes: (\d+)$", line).groups()
            assert sum(size for size, _ in waiting) == int(total)
            for size, packets in waiting:
                sums[direction.lower()] += size
                sums["packets"] += packets
                sums["rows"] += 1
            waiting, blocks = [], blocks + 1
        elif not line.startswith("START CLIENT"):
            waiting.append(tuple(map(int, line.split()[-2:])))
    return sums, blocks


def json_log(content):
    sums, blocks = Counter(), 0
    for line in content.splitlines():
        transfer = json.loads(line)
        blocks += 1
        for stream in transfer["streams"]:
            sums[transfer["transfer_direction"].lower()] += stream["bytes"]
            sums["packets"] += stream["packets"]
            sums["rows"] += 1
    return sums, blocks


RINGSERVER = [
    (GOLDEN.parents[1] / "samples/ringserver/v2020.075-txlog.txt", text_log),
    (GOLDEN.parents[1] / "samples/ringserver/v4.5.3-txlog.txt", text_log),
    (GOLDEN.parents[1] / "samples/ringserver/v4.5.3-txlog.jsonl", json_log),
]


def curl(server, path, query="?host=edge"):
    command = ["curl", "--silent", "--fail-with-body", "--data-binary", f"@{path}", f"{server.url}{query}"]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def ingest(database_uri, *words):
    done = subprocess.run(
        [sys.executable, "-m", "ringstats_ts.cli", "ingest", *map(str, words), "--json"],
        env=os.environ | {"DATABASE_URI": database_uri},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(params=["curl", "tsstats"])
def send(request, server, database_uri):
    """Sends a file as the host `edge`; how many rows were stored, and whether it was there already."""
    if request.param == "curl":
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")

        def by_curl(path):
            answer = curl(server, path)
            return 0 if answer["duplicate"] else answer["rows"], answer["duplicate"]

        return by_curl

    def by_file(path):
        summary = ingest(database_uri, path, "--host", "edge")
        return summary["rows"], summary["stored"] == 0

    return by_file


@pytest.fixture
def ask(connection):
    def rows(sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    return rows


def transferred(ask):
    found = Counter()
    for direction, size, packets, rows in ask(
        "SELECT direction, sum(bytes)::bigint, sum(packets)::bigint, count(*)"
        " FROM ringserver_transfers GROUP BY 1"
    ):
        found.update({direction: size, "packets": packets, "rows": rows})
    return found


@pytest.mark.parametrize(("path", "count"), RINGSERVER, ids=lambda value: getattr(value, "name", ""))
def test_transfer_logs_of_ringserver(send, ask, path, count):
    expected, blocks = count(path.read_bytes())
    assert send(path) == (expected["rows"] + blocks, False)
    assert send(path)[1]
    assert transferred(ask) == expected
    assert ask(
        "SELECT count(*)::integer, count(*) FILTER (WHERE bytes <> total_bytes)::integer"
        " FROM ringserver_sessions"
    ) == [(blocks, 0)]


@pytest.mark.parametrize(("path", "count"), RINGSERVER[1:], ids=lambda value: getattr(value, "name", ""))
def test_a_log_that_grows_stores_what_is_new(server, ask, tmp_path, path, count):
    content = path.read_bytes()
    growing = tmp_path / path.name
    for end in (len(content) // 3, len(content) // 2, len(content)):
        growing.write_bytes(content[:end])
        curl(server, growing)
    expected, blocks = count(content)
    assert transferred(ask) == expected
    assert ask("SELECT count(*)::integer FROM ringserver_sessions") == [(blocks,)]


def test_access_log_of_ringserver(send, ask):
    path = SAMPLES / "ringserver/v4.5.3-accesslog.jsonl"
    events = Counter(json.loads(line)["event"] for line in path.read_text().splitlines())
    assert send(path) == (events.total(), False)
    assert send(path)[1]
    assert dict(ask("SELECT event, count(*)::integer FROM ringserver_access GROUP BY 1")) == events


def test_access_log_of_a_web_server(send, ask):
    path = SAMPLES / "accesslog/common.log"
    lines = path.read_text().splitlines()
    sizes = Counter(int(line.split()[-2]) for line in lines)
    assert send(path) == (len(lines), False)
    assert send(path)[1]
    assert dict(ask("SELECT status::integer, count(*)::integer FROM http_requests GROUP BY 1")) == sizes
    total = sum(int(line.split()[-1]) for line in lines)
    assert ask("SELECT sum(bytes)::integer, sum(requests)::integer FROM http_requests_1m") == [
        (total, len(lines))
    ]


@pytest.mark.parametrize("folder", ["devices", "headscale"])
def test_listings_of_devices(send, ask, folder):
    for path in sorted((SAMPLES / folder).glob("*.json")):
        document = json.loads(path.read_text())
        devices = document.get("devices") or document["body"]["nodes"]
        assert send(path) == (len(devices) + 1, False)
        assert send(path)[1]
        assert ask("SELECT count(*)::integer FROM tailscale_devices") == [(len(devices),)]


def test_a_post_of_pattoo(send, ask):
    path = SAMPLES / "pattoo/autonomous-post.json"
    points = json.loads(path.read_text())["pattoo_datapoints"]
    pairs = points["key_value_pairs"]
    values = [
        pairs[str(i)][1]
        for ids in points["datapoint_pairs"]
        for i in ids
        if pairs[str(i)][0] == "pattoo_value"
    ]
    rows, duplicate = send(path)
    assert not duplicate
    assert send(path)[1]
    stored = ask("SELECT count(*)::integer, sum(value)::double precision FROM samples")
    assert stored == [(len(values), pytest.approx(sum(map(float, values))))]
    assert rows == len(values) + ask("SELECT count(*)::integer FROM documents")[0][0]


def test_host_status(send, ask):
    path = SAMPLES / "host/status.json"
    numbers = re.findall(r"[-+\d.e]+", re.sub(r'"[^"]*"', "", path.read_text()))
    assert send(path)[0] - 1 == ask("SELECT count(*)::integer FROM samples")[0][0] == len(numbers) - 1
    assert send(path)[1]


def test_any_json(send, ask, tmp_path):
    path = tmp_path / "queue.json"
    path.write_text('{"queue": {"jobs": 3, "late": 1.5}, "big": 9007199254740993, "name": "q", "on": true}')
    assert send(path) == (4, False)
    assert send(path)[1]
    found = ask("SELECT name, value::text FROM samples JOIN series USING (series_id) ORDER BY name")
    assert found == [("big", "9007199254740993"), ("queue.jobs", "3"), ("queue.late", "1.5")]


@pytest.mark.parametrize(
    "source", ["ringserver", "accesslog", "devices", "headscale", "host", "pattoo", "json"]
)
def test_each_source_is_exported_as_it_is_stored(database, database_uri, tmp_path, source):
    (tmp_path / "queue.json").write_text('{"queue": {"jobs": 3}, "name": "q"}')
    ingest(database_uri, SAMPLES, tmp_path / "queue.json")
    summary = export(by_name(source), database, tmp_path / "out")
    stored = {
        table: database.run(f"SELECT count(*)::integer FROM {table} WHERE {own(table)}", {"source": source})[
            0
        ][0]
        for table in by_name(source).tables
        if table != "series"
    }
    read = {
        table: sum(pq.read_metadata(path).num_rows for path in (tmp_path / "out" / table).rglob("*.parquet"))
        for table in stored
    }
    assert read == stored
    assert summary.rows == sum(stored.values()) > 0
    # Another source's export beside it leaves it alone.
    export(by_name("json"), database, tmp_path / "out")
    assert all((path).exists() for path in summary.files)


def own(table):
    return "source = %(source)s" if table in ("samples", "documents") else "true"

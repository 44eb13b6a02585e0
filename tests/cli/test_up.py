"""`tsstats up` on the embedded database: starts, stops, and what happens when parts of it are lost."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from http.client import HTTPException

import psutil
import pytest

from ringstats_ts import embedded
from ringstats_ts.storage import schema
from tests.conftest import status_document

KILLS = [2, pytest.param(20, marks=pytest.mark.faults)]
"""How often the database is killed under load."""

FIRST_START_SECONDS = 20


def test_stops_cleanly_and_starts_again_with_everything(embedded_tsstats, make_status):
    for number in (signal.SIGINT, signal.SIGTERM):
        with embedded_tsstats.up() as service:
            assert service.post(make_status(f"host{number}")).status == 200
            node_pid = service.node_pid
            assert service.stop(number) == 0
            assert "Traceback" not in service.log
            with pytest.raises(ProcessLookupError):
                os.kill(node_pid, 0)
    hosts = embedded_tsstats("query", "SELECT name FROM hosts ORDER BY name", "--csv")
    assert hosts.output.split() == ["name", "host15", "host2"]


def test_a_second_process_uses_the_first_and_says_so(embedded_tsstats, make_status):
    with embedded_tsstats.up() as first, embedded_tsstats.up() as second:
        assert f"run by process {first.process.pid} (TimescaleDB" in _wait_for(second, "Try, in another")
        assert "Applied" not in second.log
        assert first.post(make_status("one")).status == 200
        assert second.post(make_status("two")).status == 200
        assert second.stop() == 0
        assert embedded_tsstats("query", "SELECT count(*) FROM hosts", "--csv").output.split() == [
            "count",
            "2",
        ]
        assert first.post(make_status("three")).status == 200
        # On the same address there is no use for another.
        done = embedded_tsstats("up", "--listen", f"127.0.0.1:{first.port}")
        assert done.code == 1
        assert f"`tsstats up` (process {first.process.pid}) runs the database in" in done.errors
        assert f"for http://127.0.0.1:{first.port}. Use that one" in done.errors


def test_a_second_process_goes_on_when_the_first_ends(embedded_tsstats, make_status):
    with embedded_tsstats.up() as first, embedded_tsstats.up() as second:
        assert first.stop() == 0
        _wait_for(second, "this one runs it now")
        _wait(lambda: second.post(make_status("two")).status == 200)
        assert embedded_tsstats("query", "SELECT name FROM hosts", "--csv").output.split() == ["name", "two"]
        assert second.stop() == 0


def test_goes_on_when_a_verb_ends_that_ran_the_database_before(embedded_tsstats, make_status):
    assert embedded_tsstats("query", "SELECT 1").code == 0
    verb = subprocess.Popen(
        embedded_tsstats.command("query", "SELECT count(*) FROM generate_series(1, 20000000)"),
        env=embedded_tsstats.environment,
        stdout=subprocess.DEVNULL,
    )
    _wait(lambda: embedded.running(embedded_tsstats.data_dir) is not None)
    with embedded_tsstats.up() as service:
        assert verb.wait(60) == 0
        _wait(lambda: service.post(make_status("one")).status == 200)
        _wait(lambda: embedded.owner(embedded_tsstats.data_dir).pid == service.process.pid)
        assert service.stop() == 0


def test_verbs_beside_a_first_start_wait_for_it(new_tsstats, tmp_path):
    document = tmp_path / "status.json"
    document.write_text(json.dumps(status_document()))
    service = new_tsstats.up()
    try:
        _wait((new_tsstats.data_dir / "pgdata").exists)
        verbs = [("ingest", document), ("query", "SELECT 1"), ("migrate",), ("doctor",), ("token", "list")]
        started = [
            subprocess.Popen(
                new_tsstats.command(*words),
                env=new_tsstats.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for words in verbs
        ]
        ended = [(process.communicate(timeout=120)[0], process.returncode) for process in started]
        assert [code for _, code in ended] == [0] * len(verbs), ended
        service.wait_ready()
    finally:
        service.stop()
    assert new_tsstats("doctor").code == 0


VERBS = [
    ["ingest", "-"],
    ["query", "SELECT 1"],
    ["show", "gateway"],
    ["doctor"],
    ["migrate"],
    ["migrate", "--status"],
    ["export", "--out", "exported"],
    ["token", "list"],
    ["rejects", "list"],
    ["canary", "--help"],
]
MOMENTS = 20 * int(os.environ.get("TSSTATS_TEST_EXAMPLES", "1"))


@pytest.mark.faults
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_verb_at_any_moment_of_a_first_start_harms_nothing(new_tsstats, verb, tmp_path):
    """Whatever the verb answers, both end up with a database that is whole."""
    for moment in range(MOMENTS):
        shutil.rmtree(new_tsstats.data_dir, ignore_errors=True)
        service = new_tsstats.up()
        try:
            time.sleep(random.uniform(0, FIRST_START_SECONDS))
            verb = [str(tmp_path / f"{moment}") if word == "exported" else word for word in verb]
            done = new_tsstats(*verb, stdin=json.dumps(status_document()).encode())
            assert done.code in (0, 1), done.errors  # of `show` and `doctor`, before there is anything
            assert "already exists" not in done.errors
            service.wait_ready()
            assert service.post(status_document("after")).status == 200
        finally:
            assert service.stop() == 0
        assert new_tsstats("doctor").code == 0
        assert new_tsstats("migrate").output == "Nothing to do: the schema and the policies are up to date.\n"


@pytest.mark.faults
def test_a_first_start_that_is_killed_at_any_moment_is_taken_up_by_the_next(new_tsstats):
    for _ in range(MOMENTS):
        service = new_tsstats.up()
        time.sleep(random.uniform(0, FIRST_START_SECONDS))
        service.process.kill()
        service.process.wait()
        with new_tsstats.up() as service:
            assert service.post(status_document()).status == 200
        assert new_tsstats("doctor").code == 0
        shutil.rmtree(new_tsstats.data_dir)


def test_documents_are_not_taken_where_the_disk_is_almost_full(embedded_tsstats, tmp_path):
    document = tmp_path / "status.json"
    document.write_text(json.dumps(status_document()))
    full = {"TSSTATS_EMBEDDED_FREE_BYTES": str(10**15)}
    done = embedded_tsstats("ingest", document, **full)
    assert done.code == 75
    assert "The disk of the database is almost full" in done.errors
    assert "free some space" in done.errors
    rejects = embedded_tsstats("rejects", "list", **full)
    assert rejects.code == 0
    doctor = embedded_tsstats("doctor", **full)
    assert "The disk of the database is almost full" in doctor.output
    assert embedded_tsstats("ingest", document).code == 0


def test_a_web_service_that_is_lost_is_started_again(embedded_tsstats, make_status):
    with embedded_tsstats.up() as service:
        (master,) = (
            child for child in psutil.Process(service.process.pid).children() if "gunicorn" in child.cmdline()
        )
        master.kill()
        _wait_for(service, "The web service was lost; starting it again")
        _wait(lambda: _posts(service, make_status("one")))
        assert service.stop() == 0


def test_who_runs_the_database_is_said_again(embedded_tsstats):
    record = embedded_tsstats.data_dir / "instance.json"
    with embedded_tsstats.up():
        for found in (None, "garbage", "{}"):
            if found is None:
                record.unlink()
            else:
                record.write_text(found)
            assert embedded_tsstats("query", "SELECT 1", "--csv").code == 0
            assert record.stat().st_mode & 0o777 == 0o600


def test_verbs_leave_policies_and_migrations_to_the_service(embedded_tsstats):
    sql = (
        "SELECT config ->> 'drop_after' AS kept FROM timescaledb_information.jobs"
        " WHERE hypertable_name = 'tailscale_peers' AND proc_name = 'policy_retention'"
    )
    with embedded_tsstats.up(TSSTATS_RETENTION_TAILSCALE_PEERS="90 days"):
        assert embedded_tsstats("query", sql, "--json").json == [{"kept": "90 days"}]
        done = embedded_tsstats("doctor")
        assert done.code == 0
        assert "differs from this environment's settings: retention of tailscale_peers" in done.output
        with embedded_tsstats.up():
            assert embedded_tsstats("query", sql, "--json").json == [{"kept": "90 days"}]
    assert embedded_tsstats("query", sql, "--json").json == [{"kept": "90 days"}]
    newest = schema.shipped()[-1]
    assert embedded_tsstats("migrate", "--rollback", "--yes").output == f"rolled back {newest}\n"
    assert f"pending  {newest}" in embedded_tsstats("migrate", "--status").output
    assert f"pending  {newest}" in embedded_tsstats("migrate", "--status").output
    assert f"1 pending, from {newest}" in embedded_tsstats("doctor").output
    assert embedded_tsstats("query", sql, "--json").json == [{"kept": "90 days"}]


def test_a_port_that_is_taken_is_found_before_the_database_is_made(new_tsstats):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = new_tsstats("up", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.code == 1
    assert "address already in use. Name another address with --listen." in done.errors
    assert not new_tsstats.data_dir.exists()


def test_stops_between_migrations_at_the_first_start(new_tsstats):
    service = new_tsstats.up()
    _wait_for(service, "Creating the database")
    assert service.stop(signal.SIGINT) == 0
    assert "Stopping ..." in service.log
    assert "Applied" not in service.log
    assert "Try, in another" not in service.log
    with new_tsstats.up() as service:
        assert "set all policies as configured" in service.log.lower()
    assert new_tsstats("doctor").code == 0


def test_answers_503_while_the_database_is_lost_and_goes_on_by_itself(embedded_tsstats, make_status):
    with embedded_tsstats.up() as service:
        os.kill(service.node_pid, signal.SIGKILL)
        statuses = []
        deadline = time.monotonic() + 60
        while (not statuses or statuses[-1] != 200) and time.monotonic() < deadline:
            statuses.append(service.post(make_status(peers={"db": len(statuses)})).status)
            time.sleep(0.1)
        assert set(statuses[:-1]) <= {503}
        assert statuses[-1] == 200


def test_nothing_is_left_running_when_it_is_killed(embedded_tsstats):
    with embedded_tsstats.up() as service:
        node_pid = service.node_pid
        service.stop(signal.SIGKILL)
        _wait(lambda: not _runs(node_pid) and not _answers(service))
    assert embedded_tsstats("doctor").code == 0


def test_one_that_was_killed_is_taken_up_at_once_on_the_same_address(embedded_tsstats, make_status):
    with embedded_tsstats.up() as service:
        assert service.post(make_status("before")).status == 200
        # So that what it has started is there still when the next one looks.
        node_pid = service.node_pid
        os.kill(node_pid, signal.SIGSTOP)
        service.process.kill()
        service.process.wait()
        again = subprocess.Popen(
            embedded_tsstats.command("up", "--listen", f"127.0.0.1:{service.port}"),
            env=embedded_tsstats.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            assert b"waiting for it" in again.stderr.readline()
            os.kill(node_pid, signal.SIGCONT)
            _wait(lambda: again.poll() is not None or _runs_here(embedded_tsstats, again))
            assert again.poll() is None
        finally:
            if _runs(node_pid):
                os.kill(node_pid, signal.SIGCONT)
            again.terminate()
            again.communicate(timeout=60)


def _runs_here(tsstats, process):
    found = embedded.owner(tsstats.data_dir)
    return bool(found and found.pid == process.pid and found.uri)


@pytest.mark.parametrize("kills", KILLS)
def test_no_acknowledged_document_is_missing_after_kills_under_load(kills, embedded_tsstats, make_status):
    with embedded_tsstats.up() as service:
        load = Load(service, make_status)
        for _ in range(kills):
            before = load.count
            _wait(lambda before=before: load.count >= before + 5)
            os.kill(service.node_pid, signal.SIGKILL)
        before = load.count
        _wait(lambda: load.count > before)
        load.stop()
        assert load.refusals <= {503}
        sql = (
            "SELECT h.name, s.time, (SELECT count(*) FROM tailscale_peers AS p WHERE p.host_id = s.host_id"
            " AND p.time = s.time) AS peers FROM tailscale_status AS s JOIN hosts AS h USING (host_id)"
        )
        stored = embedded_tsstats("query", sql, "--json").json
    found = {(row["name"], _instant(row["time"])) for row in stored}
    acknowledged = {(name, _instant(at)) for name, at in load.acknowledged}
    assert len(load.acknowledged) == len(acknowledged) >= 5 * kills
    assert acknowledged - found == set()
    assert {row["peers"] for row in stored} == {3}
    assert len(stored) == len(found)


def _wait_for(service, text):
    _wait(lambda: text in service.log)
    return service.log


def _posts(service, document):
    try:
        return service.post(document).status == 200
    except OSError:
        return False


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _answers(service):
    try:
        return service.request("GET", "/healthz").status == 200
    except OSError:
        return False


def _instant(text):
    return text.replace("Z", "").ljust(26, "0")[:19], text.partition(".")[2].rstrip("Z").ljust(6, "0")


def _wait(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Load:
    """Hosts that post one document after the other, and remember what was acknowledged."""

    def __init__(self, service, make_status, hosts=4):
        self.service = service
        self.make_status = make_status
        self.acknowledged = []
        self.refusals = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(f"host{n}",)) for n in range(hosts)]
        for thread in self._threads:
            thread.start()

    @property
    def count(self):
        return len(self.acknowledged)

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _post(self, name):
        number = 0
        while not self._stop.is_set():
            number += 1
            document = self.make_status(name, peers={"a": number, "b": number, "c": number})
            try:
                answer = self.service.post(document)
            except (OSError, HTTPException):
                continue
            if answer.status == 200:
                self.acknowledged.append((answer.json["host"], answer.json["time"]))
            else:
                self.refusals.add(answer.status)
                time.sleep(0.05)

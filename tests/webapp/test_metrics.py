"""What /metrics says, against what the client was told and what the database holds."""

import http.client
import json
import os
import re
import signal
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import prometheus_client  # noqa: F401  # before a test sets the variable that it looks at when it is imported
import pytest

from ringstats_ts.config import Config
from ringstats_ts.errors import StorageUnavailable
from ringstats_ts.storage.database import Database
from webapp import create_app, metrics, multiprocess

pytestmark = pytest.mark.usefixtures("clean")

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def read(server):
    """All samples: name and labels to value."""
    answer = server.get("/metrics")
    assert (answer.status, answer.headers["content-type"][:10]) == (200, "text/plain")
    return {
        (name, *sorted(re.findall(r'(\w+)="([^"]*)"', labels))): float(value)
        for name, labels, value in SAMPLE.findall(answer.text)
    }


def total(samples, name, **labels):
    wanted = set(labels.items())
    return sum(value for (found, *has), value in samples.items() if found == name and wanted <= set(has))


def by(samples, name, label):
    counted = Counter()
    for (found, *has), value in samples.items():
        if found == name and value:
            counted[dict(has)[label]] += value
    return counted


def cut_off(server, body):
    """Send half of a body, and close."""
    with server.raw() as connection:
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body[: len(body) // 2])
        connection.shutdown(1)
        connection.makefile("rb").read()


def test_received_is_stored_and_duplicate_and_rejected(start_server, status, connection, count, rejects):
    """G4: a mix of everything, from /metrics, from the database and from what the client was told."""
    server = start_server()
    sent, told, octets = 0, Counter(), 0
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)

    def post(body, path="/", headers=None):
        nonlocal sent, octets
        sent, octets = sent + 1, octets + len(body)
        answer = server.post(body, path, headers)
        if answer.status == 200:
            told["duplicate" if answer.json["duplicate"] else "stored"] += 1
        else:
            told["rejected"] += 1
        return answer

    for number in range(40):
        body = json.dumps(status(f"web-{number % 3}", rx_bytes=number)).encode()
        path = f"/?time={(start + timedelta(seconds=number)).timestamp():.0f}"
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        assert post(body, path, headers).status == 200
        if number % 4 == 0:
            assert post(body, path, headers).json["duplicate"]
        if number % 5 == 0:
            assert post(b"{" * (number + 1)).status == 400
        if number % 8 == 0:
            assert post(json.dumps({"number": number}).encode(), "/v1/ingest/tailscale").status == 422
        if number % 10 == 0:
            cut_off(server, body)
            sent, octets = sent + 1, octets + len(body) // 2
            told["rejected"] += 1
    assert server.post(b"x" * (5 * 1024 * 1024)).status == 413
    sent += 1
    told["rejected"] += 1
    several = [status(f"many-{number}", rx_bytes=number) for number in range(3)]
    assert server.post("\n".join(map(json.dumps, several)).encode()).status == 200
    sent += 3
    told["stored"] += 3

    found = read(server)
    outcomes = by(found, "tsstats_documents_total", "outcome")
    assert outcomes == told
    assert sum(outcomes.values()) == sent
    assert (
        total(found, "tsstats_documents_total", outcome="stored")
        == count("receipts")
        == count("tailscale_status")
    )
    assert total(found, "tsstats_documents_total", outcome="rejected") == count("rejects")
    reasons = Counter(reason for reason, *_ in rejects())
    assert Counter({r: n for r, n in by(found, "tsstats_documents_total", "reason").items() if r}) == reasons
    assert total(found, "tsstats_rows_total", source="tailscale") == count("tailscale_status") + count(
        "tailscale_peers"
    )
    assert total(found, "tsstats_request_seconds_count", route="/", status="200") > 0
    assert found[("tsstats_received_bytes_total",)] >= octets
    assert time.time() - 60 < found[("tsstats_last_stored_timestamp_seconds",)] <= time.time()
    assert found[("tsstats_requests_in_flight",)] == 1
    assert found[("tsstats_writers_busy",)] == found[("tsstats_writers_waiting",)] == 0


def test_a_client_cannot_make_series(server):
    before = set(read(server))
    for number in range(20):
        server.get(f"/no/such/{number}")
        server.get(f"/problems/no-{number}")
        server.post(b"{}", f"/v1/ingest/no-{number}")
        server.request(f"FOO{number}", "/")
    made = set(read(server)) - before
    values = {value for _, *labels in made for _, value in labels}
    assert not [value for value in values if re.search(r"no-|such|FOO", value)]
    assert len({label for _, *labels in made for label in labels if label[0] == "route"}) <= 4


def test_counts_outlive_their_worker_and_its_files_do_not(start_server, body):
    server = start_server(TSSTATS_WORKERS="2")
    directory = Path(environment(server.process.pid)[multiprocess.VARIABLE])
    for _ in range(5):
        server.post(body, headers={"Idempotency-Key": str(uuid.uuid4())})
    last = read(server)[("tsstats_last_stored_timestamp_seconds",)]
    for _ in range(3):
        for worker in server.workers():
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: answers(server) and total(read(server), "tsstats_workers") == 2)
    found = read(server)
    assert total(found, "tsstats_documents_total", outcome="stored") == 5
    assert total(found, "tsstats_request_seconds_count", route="/") == 5
    assert found[("tsstats_last_stored_timestamp_seconds",)] == last
    assert found[("tsstats_requests_in_flight",)] == 1
    # Those of two workers, and of all the dead together.
    assert {file.name.split("_")[-1] for file in directory.glob("counter_*.db")} == {
        "0.db",
        *(f"{pid}.db" for pid in server.workers()),
    }
    assert len(list(directory.glob("*.db"))) <= 3 * 5
    assert server.stop() == 0
    assert not directory.exists()


def test_without_merging_files_of_the_dead_stay(tmp_path, monkeypatch):
    """What the library leaves: the reason why counts of the dead are added up."""
    monkeypatch.setattr(multiprocess, "_bury", lambda *_: None)
    monkeypatch.setattr(multiprocess, "parent_directory", lambda: tmp_path)
    files = [die_once(number, tmp_path) for number in range(3)]
    assert [len(found) for found in files] == [1, 2, 3]


def test_counts_of_the_dead_are_added_up(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocess, "parent_directory", lambda: tmp_path)
    files = [die_once(number, tmp_path) for number in range(3)]
    assert files == [["counter_0.db"]] * 3
    from prometheus_client.mmap_dict import MmapedDict

    file = next(tmp_path.glob("*/counter_0.db"))
    assert [value for _, value, _, _ in MmapedDict.read_all_values_from_file(str(file))] == [30.0]
    multiprocess.end()


def die_once(number, tmp_path):
    """A process counts ten and dies; the files that are left."""
    from prometheus_client.mmap_dict import MmapedDict

    if number == 0:
        multiprocess.end()
        multiprocess.begin()
    directory = Path(os.environ[multiprocess.VARIABLE])
    counts = MmapedDict(str(directory / f"counter_{number + 100}.db"))
    counts.write_value('["tsstats_rows", "tsstats_rows_total", {}, "Rows."]', 10.0, 0.0)
    counts.close()
    multiprocess.forget(number + 100)
    return sorted(file.name for file in directory.glob("*.db"))


@pytest.fixture(autouse=True)
def no_directory_left():
    yield
    multiprocess.end()


def test_a_dead_master_leaves_its_directory_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocess, "parent_directory", lambda: tmp_path)
    left, fresh = tmp_path / f"{multiprocess.PREFIX}left", tmp_path / f"{multiprocess.PREFIX}fresh"
    for directory in (left, fresh):
        directory.mkdir()
    os.utime(left, (0, 0))
    multiprocess.begin()
    used = Path(os.environ[multiprocess.VARIABLE])
    os.utime(used, (0, 0))
    pid = os.fork()
    if pid == 0:
        multiprocess._owned.clear()
        multiprocess.begin()
        multiprocess.end()
        os._exit(0)
    os.waitpid(pid, 0)
    assert (left.exists(), fresh.exists(), used.exists()) == (False, True, True)


def test_somebody_elses_link_is_not_followed(tmp_path, monkeypatch):
    """/dev/shm is everybody's: a link there must not make the service write where it leads."""
    monkeypatch.setattr(multiprocess, "parent_directory", lambda: tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    os.utime(mine, (0, 0))
    link = tmp_path / f"{multiprocess.PREFIX}link"
    link.symlink_to(mine)
    if os.geteuid() == 0:
        os.chown(link, 65534, 65534, follow_symlinks=False)
    multiprocess.begin()
    assert list(mine.iterdir()) == []


def test_a_database_that_is_away_is_counted(start_server, closed_uri, body):
    server = start_server(closed_uri)
    assert server.post(body).status == 503
    found = read(server)
    assert total(found, "tsstats_database_errors_total", code="storage-unavailable") == 1
    assert by(found, "tsstats_documents_total", "outcome") == {"failed": 1}
    assert total(found, "tsstats_database_errors_total", code="no-access") == 0


def test_upkeep_is_counted(monkeypatch):
    before = metrics.metrics().text()
    metrics.count_upkeep()
    metrics.count_upkeep(StorageUnavailable())
    after = metrics.metrics().text()
    changed = set(after.splitlines()) - set(before.splitlines())
    assert {line.rpartition(b" ")[0] for line in changed if b"_created" not in line} == {
        b'tsstats_upkeep_rounds_total{outcome="done"}',
        b'tsstats_upkeep_rounds_total{outcome="failed"}',
        b'tsstats_database_errors_total{code="storage-unavailable"}',
    }


def test_metrics_need_a_token_where_tokens_are_needed(database_uri):
    client = create_app(Config.from_env({"DATABASE_URI": database_uri, "TSSTATS_AUTH": "on"})).test_client()
    assert client.get("/metrics").status_code == 401


def test_who_stores_and_who_waits(start_server, body, database_uri):
    slow = {"TSSTATS_WORKERS": "1", "TSSTATS_QUEUE_TIMEOUT": "20 seconds"}
    server = start_server(TSSTATS_THREADS="8", TSSTATS_WRITERS="1", **slow)
    server.post(body)
    posts = [threading.Thread(target=server.post, args=(body,)) for _ in range(3)]
    with Database(database_uri) as database, database.transaction() as holding:
        holding.query("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
        for post in posts:
            post.start()
        wait_for(lambda: queue(server) == (1, 2))
    for post in posts:
        post.join()
    assert queue(server) == (0, 0)


def queue(server):
    found = read(server)
    return found[("tsstats_writers_busy",)], found[("tsstats_writers_waiting",)]


def test_the_page_lists_what_there_is(server, body):
    server.post(body)
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = page.partition("| metric |")[2].partition("### ")[0]
    found = re.sub(
        r"_(bucket|count|sum)$", "", "\n".join(name for name, *_ in read(server)), flags=re.MULTILINE
    )
    assert set(re.findall(r"`(tsstats_\w+)`", table)) == set(found.split())
    alerts = set(re.findall(r"tsstats_\w+", page.partition("groups:")[2].partition("```")[0]))
    ours = {name for name in alerts if "canary" not in name}
    assert {name.removesuffix("_bucket") for name in ours} <= set(found.split())


def environment(pid):
    """The environment of a worker is that of its master as it was when it forked."""
    for file in Path("/dev/shm").glob(f"{multiprocess.PREFIX}*"):
        if any(f.name.endswith(f"_{child}.db") for child in children(pid) for f in file.iterdir()):
            return {multiprocess.VARIABLE: str(file)}
    raise AssertionError("no directory")


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def answers(server):
    try:
        return server.get("/healthz").status == 200
    except (OSError, http.client.HTTPException):
        return False


def wait_for(met):
    for _ in range(100):
        try:
            if met():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise AssertionError("it did not happen within 10 s")

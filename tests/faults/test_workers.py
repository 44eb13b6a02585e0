"""A worker that is killed in the middle of a request: the retry leaves exactly one document."""

import http.client
import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

ONCE = (1, 1, 3)
WORKERS = 2
RESPAWN_SECONDS = 2


OTHER_POINTS = [
    pytest.param(point, marks=pytest.mark.faults)
    for point in ("before-insert", "after-insert", "after-response")
]


@pytest.mark.parametrize("point", ["after-commit", *OTHER_POINTS])
def test_a_retry_after_a_kill_leaves_one_document(point, target, start_server, make_document, stored):
    body, key = make_document()
    server = start_server(target.uri, point)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(server.post, body, headers=key)
        _kill_where_it_pauses(server)
        if point == "after-response":
            assert lost.result().json["duplicate"] is False
        else:
            # What curl calls 52: an empty reply from the server.
            with pytest.raises(http.client.RemoteDisconnected):
                lost.result()
    duplicate = server.deliver(body, headers=key).json["duplicate"]
    assert duplicate == (point in ("after-commit", "after-response"))
    assert stored(target) == ONCE


@pytest.mark.faults
def test_without_receipts_a_retry_after_a_kill_is_stored_twice(target, start_server, make_document, stored):
    body, key = make_document()
    target.forget_receipts()
    server = start_server(target.uri, "after-commit")
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(server.post, body, headers=key)
        _kill_where_it_pauses(server)
        assert isinstance(lost.exception(), http.client.RemoteDisconnected)
    assert server.deliver(body, headers=key).json["duplicate"] is False
    assert stored(target) == (2, 2, 6)


CURL = "curl -sS --fail-with-body --retry 5 --retry-all-errors --retry-delay 1"
COMMANDS = {
    "curl": CURL + " -H {key} --data-binary @{file} {url}",
    "curl without key": CURL + " --data-binary @{file} {url}",
    "wget": "wget -q -O - --header {key} --post-file {file} {url}",
    "wget without key": "wget -q -O - --post-file {file} {url}",
}


@pytest.mark.faults
@pytest.mark.parametrize("command", COMMANDS)
def test_retries_by_curl_and_wget_leave_one_document(
    command, target, start_server, make_document, stored, tmp_path
):
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"needs {command.split()[0]}")
    body, key = make_document()
    file = tmp_path / "document.json"
    file.write_bytes(body)
    server = start_server(target.uri, "after-commit")
    ((header, value),) = key.items()
    words = [
        word.format(key=f"{header}: {value}", file=file, url=f"http://127.0.0.1:{server.port}/")
        for word in COMMANDS[command].split()
    ]
    killer = threading.Thread(target=_kill_where_it_pauses, args=(server,))
    killer.start()
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    killer.join()
    assert done.returncode == 0, done.stderr
    assert b'"duplicate":true' in done.stdout
    assert stored(target) == ONCE


def _kill_where_it_pauses(server):
    """kill -9 of the worker that has come to the point; the master starts another in time."""
    paused = server.directory / "paused"
    server.wait_until(paused.exists)
    pid = int(paused.read_text())
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    again = server.wait_until(lambda: len(workers := server.workers()) == WORKERS and pid not in workers)
    assert again < RESPAWN_SECONDS

"""curl and wget as people type them."""

import json
import shutil
import subprocess
from datetime import datetime, timedelta, timezone

import pytest

pytestmark = pytest.mark.usefixtures("clean")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
needs_wget = pytest.mark.skipif(shutil.which("wget") is None, reason="needs wget")


@pytest.fixture
def shell(server, body, tmp_path, now):
    """Runs a line in a directory with status.json; HOST stands for the service, TIME for a time."""
    (tmp_path / "status.json").write_bytes(body)
    local = datetime.fromtimestamp(now, timezone(timedelta(hours=1)))

    def run(line):
        line = line.replace("HOST", f"127.0.0.1:{server.port}").replace("TIME", local.isoformat())
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    return run


@needs_curl
@pytest.mark.parametrize(
    "line",
    [
        "cat status.json | curl -s --data-binary @- HOST",
        "curl -s -d @status.json HOST",
        "curl -s --json @status.json HOST",
        "curl -s -T - -X POST HOST < status.json",
        "gzip -c status.json | curl -s --data-binary @- HOST",
        "gzip -c status.json | curl -s --data-binary @- -H 'Content-Encoding: gzip' HOST/v1/ingest/tailscale",
        "curl -s --data-binary @status.json 'HOST?host=edge&time=TIME'",
        "curl -s --data-binary @status.json -H 'Expect: 100-continue' HOST",
    ],
)
def test_curl(shell, line, count):
    code, out = shell(line)
    assert code == 0
    assert out.endswith("}\n")
    assert json.loads(out)["rows"] == 3
    assert count("tailscale_status") == 1


@needs_wget
def test_wget(shell, count):
    code, out = shell("wget -qO- --post-file status.json HOST")
    assert (code, json.loads(out)["rows"]) == (0, 3)
    assert count("tailscale_status") == 1


@needs_curl
def test_curl_shows_one_line_and_fails_when_asked_to(shell):
    code, out = shell("printf '' | curl -sS --fail-with-body --data-binary @- HOST")
    assert (code, out.count("\n")) == (22, 1)
    assert "Is the daemon running?" in out


@needs_curl
def test_curl_form_gets_the_hint(shell):
    _, out = shell("curl -s -F file=@status.json HOST")
    assert "--data-binary" in json.loads(out)["detail"]


@needs_curl
def test_a_warning_in_front_gets_the_hint(shell, count):
    _, out = shell(
        "(echo 'Warning: client version differs' >&2; cat status.json) 2>&1 | curl -s --data-binary @- HOST"
    )
    assert "2>&1" in json.loads(out)["detail"]
    assert count("receipts") == 0


@needs_wget
@pytest.mark.parametrize(
    "line",
    [
        "head -c 6000000 /dev/zero > large; wget -qO- --tries=1 --post-file large HOST",
        "wget -qO- --tries=1 --post-file status.json HOST/nowhere",
        "head -c 3000000 /dev/zero > large; wget -qO- --tries=1 --post-file large 'HOST/v1/ingest/nosuch'",
        "wget -qO- --tries=1 --method=PUT --body-file=status.json HOST",
    ],
)
def test_wget_reads_the_refusal_of_a_body(shell, line):
    # 8 is a server's error answer; 4, a network failure, would make wget try again.
    assert shell(line)[0] == 8


@needs_wget
def test_wget_reads_that_the_service_is_busy(start_server, body, tmp_path):
    # One seat, which a body that does not come holds; what wget sends is not waited for.
    server = start_server(TSSTATS_WORKERS="1", TSSTATS_THREADS="3")
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    with server.raw() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n")
        # The one that looks is in flight, too.
        server.wait_until(lambda: "\ntsstats_requests_in_flight 2" in server.get("/metrics").text)
        command = ["wget", "-qSO-", "--tries=1", "--post-file", "large", server.url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "Retry-After:" in done.stderr) == (8, True)


@needs_curl
def test_curl_stops_sending_what_is_refused(shell):
    _, out = shell("head -c 60000000 /dev/zero | curl -s -T - -X POST -w '%{http_code} %{size_upload}' HOST")
    problem, _, told = out.rpartition("\n")
    code, sent = told.split()
    assert (json.loads(problem)["status"], code) == (413, "413")
    assert int(sent) < 20_000_000


@needs_curl
def test_curl_gets_text_in_front(shell):
    code, out = shell("curl -s HOST")
    assert code == 0
    assert out.startswith("ringstats-ts ")
    assert "curl --data-binary @- http://127.0.0.1:" in out
    assert out.endswith("\n")

"""What a newcomer types, in the order of the README, against one running service."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from psycopg2.extensions import make_dsn

from ringstats_ts.cli import main
from tests.cli.conftest import Tsstats
from tests.conftest import SERVER

SAMPLES = Path(__file__).parents[2] / "samples"
NOW = datetime.now(UTC).replace(microsecond=0)


def ago(**units):
    """From when the test asks: an hour may pass between it and the start of all tests."""
    return (datetime.now(UTC) - timedelta(**units)).isoformat()


@pytest.mark.parametrize(
    "command",
    ["curl --silent --data-binary @{file} localhost:{port}", "wget -qO- --post-file {file} localhost:{port}"],
    ids=["curl", "wget"],
)
def test_posts_a_sample_with_what_the_host_has(service, command):
    words = command.format(file=SAMPLES / "status.json", port=service.port).split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    answer = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=30).stdout)
    assert answer["source"] == "tailscale"
    assert answer["rows"] == 1 + len(json.loads((SAMPLES / "status.json").read_text())["Peer"])


def test_greets_with_everything_a_newcomer_needs(service, tsstats):
    assert f"listens on http://127.0.0.1:{service.port}" in service.log
    assert "curl --data-binary @- 127.0.0.1" in service.log
    if tsstats.uri is None:
        assert str(tsstats.data_dir) in service.log
        assert "one statement at a time, no background workers" in service.log


def test_ingests_a_folder_and_stores_the_same_files_once(service, tsstats, tmp_path):
    for number, sample in enumerate(sorted(SAMPLES.glob("*.json"))):
        (tmp_path / sample.name).write_bytes(sample.read_bytes())
        when = (NOW - timedelta(hours=2 + number)).timestamp()
        os.utime(tmp_path / sample.name, (when, when))
    (tmp_path / "README.md").write_text("not a document")
    first = tsstats("ingest", tmp_path, "--json")
    files = len(list(SAMPLES.glob("*.json")))
    peers = sum(len(json.loads(s.read_text())["Peer"] or {}) for s in SAMPLES.glob("*.json"))
    assert (first.code, first.json["stored"], first.json["rows"]) == (0, files, files + peers), first
    again = tsstats("ingest", tmp_path, "--json")
    assert (again.code, again.json["stored"], again.json["duplicates"], again.json["rows"]) == (
        0,
        0,
        files,
        0,
    )


def test_ingests_gzip_patterns_lines_and_standard_input(service, tsstats, tmp_path, make_status):
    lines = "\n".join(json.dumps(make_status(f"line{n}", _timestamp=ago(hours=n + 1))) for n in range(3))
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.json").write_text(json.dumps(make_status("single")))
    done = tsstats("ingest", f"{tmp_path}/*.gz", f"{tmp_path}/b.json", "--json")
    assert (done.code, done.json["files"], done.json["stored"]) == (0, 2, 4)
    assert (
        "2 files: 0 documents stored (0 rows), 4 there already"
        in tsstats("ingest", f"{tmp_path}/*.gz", f"{tmp_path}/b.json").output
    )
    piped = tsstats(
        "ingest", "-", "--host", "piped", "--time", ago(hours=1), stdin=lines.splitlines()[0].encode()
    )
    assert piped.code == 0, piped.errors
    assert piped.output == "1 file: 1 document stored (2 rows), 0 there already, 0 files refused.\n"
    listed = tsstats("query", "SELECT name FROM hosts ORDER BY name", "--csv").output.split()
    assert {"line0", "line1", "line2", "single", "piped"} < set(listed)


def test_says_what_it_refuses_and_goes_on(service, tsstats, tmp_path, make_status):
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "foreign.json").write_text("{}")
    (tmp_path / "good.json").write_text(json.dumps(make_status("beside-bad")))
    done = tsstats("ingest", tmp_path)
    assert done.code == 65
    assert "empty.json: The body is empty." in done.errors
    assert "foreign.json: " in done.errors
    assert "1 document stored" in done.output
    assert tsstats("ingest", tmp_path / "none.json").code == 2


def test_shows_a_document_as_it_was_sent(service, tsstats, make_status):
    document = make_status("shown", peers={"db": 5, "web": 6}, Health=["one", "two"])
    assert service.post(document, f"/?time={ago(minutes=50)}").status == 200
    assert service.post(make_status("shown", peers={}), f"/?time={ago(minutes=40)}").status == 200
    assert tsstats("show", "shown").json == make_status("shown", peers={})
    assert tsstats("show", "shown", "--time", ago(minutes=45)).json == document
    missing = tsstats("show", "nobody")
    assert missing.code == 1
    assert "No host 'nobody' has reported." in missing.errors


def test_queries_read_only_as_the_reader(service, tsstats, make_status):
    assert service.post(make_status("queried", peers={"db": 7}), f"/?time={ago(minutes=50)}").status == 200
    sql = (
        "SELECT h.name, p.rx_last FROM tailscale_peers_hourly AS p JOIN hosts AS h USING (host_id)"
        " WHERE h.name = 'queried'"
    )
    assert tsstats("query", sql, "--json").json == [{"name": "queried", "rx_last": 7}]
    assert tsstats("query", sql, "--csv").output == "name,rx_last\nqueried,7\n"
    assert "queried" in tsstats("query", "-", stdin=sql.encode()).output
    for statement, message in [
        ("DELETE FROM hosts", "read-only transaction|permission denied"),
        ("SELECT * FROM rejects", "permission denied"),
        ("SELECT nonsense", 'column "nonsense" does not exist'),
        ("SELECT 'x'::integer", "invalid input syntax"),
    ]:
        refused = tsstats("query", statement)
        assert refused.code == 1
        assert any(part in refused.errors for part in message.split("|")), refused.errors
        assert "Traceback" not in refused.errors


def test_the_doctor_finds_all_well_and_shows_drift(service, tsstats, make_status):
    assert service.post(make_status("drifting", Novelty=1)).status == 200
    done = tsstats("doctor", "--json")
    assert done.code == 0, done.output
    findings = {finding["subject"]: finding for finding in done.json}
    assert "Novelty" in findings["drift"]["detail"]
    assert {"database", "timescaledb", "migrations", "jobs", "clock"} < set(findings)


def test_the_doctor_counts_what_was_refused(service, tsstats):
    assert service.post({}).status == 422
    findings = {finding["subject"]: finding for finding in tsstats("doctor", "--json").json}
    assert findings["rejects"]["ok"]
    assert "refused within the last day, the latest as unknown-source" in findings["rejects"]["detail"]


def test_the_doctor_makes_no_database(tmp_path):
    done = Tsstats(tmp_path / "typo")("doctor")
    assert done.code == 1
    assert f"no database yet in {tmp_path / 'typo'}. `tsstats up` makes it." in done.output
    assert "ok  disk" in done.output
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("folder", ["/proc/tsstats", "{file}/data"])
def test_the_doctor_names_a_directory_that_cannot_be(tmp_path, folder):
    (tmp_path / "file").write_text("")
    done = Tsstats(Path(folder.format(file=tmp_path / "file")))("doctor")
    assert done.code == 1
    assert "BAD disk" in done.output
    assert "Name another directory with --data." in done.output


def test_says_how_to_tell_files_of_one_time_apart(service, tsstats, tmp_path, make_status):
    for name, received in (("a.json", 1), ("b.json", 2)):
        (tmp_path / name).write_text(json.dumps(make_status("same-mtime", peers={"db": received})))
        os.utime(tmp_path / name, (NOW.timestamp(), NOW.timestamp()))
    done = tsstats("ingest", tmp_path)
    assert done.code == 65
    assert "modification times are the same, tell them apart with --time" in done.errors
    assert "replace=1" not in done.errors
    given = tsstats("ingest", tmp_path / "b.json", "--time", NOW.isoformat())
    assert "take it with --replace." in given.errors
    assert "modification" not in given.errors
    assert tsstats("ingest", tmp_path / "b.json", "--replace").code == 0


def test_the_doctor_says_what_is_bad_and_fails(tsstats):
    done = tsstats("doctor", DATABASE_URI="postgresql://127.0.0.1:1/none")
    assert done.code == 1
    assert "BAD database" in done.output


@pytest.mark.parametrize(
    ("words", "environment", "code", "message"),
    [
        (["query", "SELECT 1"], {"DATABASE_URI": "postgresql://127.0.0.1:1/none"}, 75, "cannot be reached"),
        (["query", "SELECT 1"], {"DATABASE_URI": "nonsense"}, 1, "write it like postgresql://"),
        (["query", "SELECT 1", "--csv", "--json"], {}, 2, "exclude each other"),
        (["sources"], {}, 0, ""),
        (["doctor"], {"TSSTATS_MAX_DEPTH": "deep"}, 1, "TSSTATS_MAX_DEPTH 'deep' cannot be used"),
        (["serve"], {"DATABASE_URI": "", "TSSTATS_DATA": "/nonexistent/none"}, 75, "tsstats up"),
        (["migrate", "--all"], {}, 2, "--all goes with --rollback"),
        (["migrate", "--rollback", "--status"], {}, 2, "exclude each other"),
        (["up", "--listen", "8001"], {}, 2, "write HOST:PORT"),
        (["up", "--listen", "127.0.0.1:99999"], {}, 2, "write HOST:PORT"),
        (["up", "--listen", "::1:8001"], {}, 2, "write HOST:PORT"),
        (["serve", "--listen", "127.0.0.1:0"], {}, 2, "write HOST:PORT"),
        (["up", "--listen", "192.0.2.1:8000"], {}, 1, "Name another address with --listen."),
    ],
)
def test_what_a_user_can_cause_ends_in_one_line(tsstats, words, environment, code, message):
    done = tsstats(*words, **environment)
    assert done.code == code, done
    assert message in done.errors
    assert "Traceback" not in done.errors


@pytest.mark.skipif(SERVER is None, reason="the embedded database takes every name and password")
def test_a_database_that_is_not_there_is_not_waited_for(tsstats):
    absent = make_dsn(tsstats.uri, dbname="tsstats_absent")
    done = tsstats("query", "SELECT 1", DATABASE_URI=absent)
    assert done.code == 1
    assert 'database "tsstats_absent" does not exist. Check DATABASE_URI.' in done.errors


def test_every_command_has_an_example_and_variables_in_its_help():
    def told(*words):
        return CliRunner().invoke(main, [*words, "--help"], prog_name="tsstats").output

    verbs = [line.split()[0] for line in told().split("Commands:")[1].splitlines() if line.strip()]
    expected = "canary doctor export ingest migrate query rejects serve show sources token up"
    assert " ".join(verbs) == expected
    for verb in verbs:
        text = told(verb)
        assert f"tsstats {verb}" in text.split("Usage:")[1].split("Options:")[0].split("\n", 1)[1], verb


def test_shell_completion_knows_the_verbs(tsstats):
    script = shutil.which("tsstats", path=Path(sys.executable).parent)
    environment = {"_TSSTATS_COMPLETE": "bash_complete", "COMP_WORDS": "tsstats mig", "COMP_CWORD": "1"}
    done = subprocess.run(
        [script], capture_output=True, env=os.environ | environment, timeout=30, check=False
    )
    assert b"migrate" in done.stdout


def test_migrate_tells_what_is_applied(tsstats):
    done = tsstats("migrate", "--status")
    assert done.code == 0
    assert all(line.startswith("applied") for line in done.output.splitlines())
    assert "up to date" in tsstats("migrate").output


def test_migrate_tells_which_policies_it_changed(tsstats):
    kept = {"TSSTATS_RETENTION_TAILSCALE_PEERS": "never"}
    assert tsstats("migrate", **kept).output == "set retention of tailscale_peers as configured\n"
    assert "up to date" in tsstats("migrate", **kept).output
    assert tsstats("migrate").output == "set retention of tailscale_peers as configured\n"


def test_the_list_of_commands_fits_a_terminal(tsstats):
    text = tsstats("--help").output
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.split("Commands:")[1]

"""Database and workers killed at random under load: benchmarks/kill_storm.py, for a shorter time.

TSSTATS_TEST_STORM_SECONDS is how long it goes on.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import why_not

pytestmark = pytest.mark.faults

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "kill_storm.py"
SECONDS = float(os.environ.get("TSSTATS_TEST_STORM_SECONDS", "25"))
CONTROL_SECONDS = 15
QUICK = ("--shortest-pause", 0.1, "--longest-pause", 0.4)
NOTHING_WRONG = {"missing": 0, "partial": 0, "duplicates": 0, "strangers": 0, "wrong": 0, "unresolved": 0}


@pytest.fixture(params=["postgres", "embedded"])
def options(request):
    if request.param == "postgres" and (reason := why_not()):
        pytest.skip(reason)
    return ("--embedded",) if request.param == "embedded" else ()


def test_nothing_is_missing_partial_or_twice(options):
    code, report = _storm("--seconds", SECONDS, *QUICK, *options)
    assert {name: report[name] for name in NOTHING_WRONG} == NOTHING_WRONG
    assert code == 0
    assert report["stored"] == report["acknowledged"] > SECONDS
    assert set(report["answers"]) <= {"200", "429", "503", "none"}
    assert sum(report["kills"].values()) >= SECONDS / 5
    assert report["kills"]["worker"] >= 1
    assert report["slowest_recovery_seconds"] < 5
    assert report["slowest_answer_seconds"] < 10


def test_without_receipts_documents_are_stored_twice():
    if reason := why_not():
        pytest.skip(reason)
    code, report = _storm("--seconds", CONTROL_SECONDS, *QUICK, "--without-receipts")
    assert code == 1
    assert report["duplicates"] > 0
    assert {name: report[name] for name in ("missing", "partial", "strangers")} == {
        "missing": 0,
        "partial": 0,
        "strangers": 0,
    }


def _storm(*words):
    command = [sys.executable, str(SCRIPT), "--json", *map(str, words)]
    done = subprocess.run(command, capture_output=True, timeout=60 + 10 * SECONDS, check=False)
    assert done.stdout, done.stderr.decode()
    print(done.stdout.decode(), done.stderr.decode())
    return done.returncode, json.loads(done.stdout)

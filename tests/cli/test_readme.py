"""The README's first steps, as they stand there."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRST_STEPS = (ROOT / "README.md").read_text("utf-8").split("## First steps")[1].split("\n## ")[0]
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", FIRST_STEPS, re.DOTALL)
    for line in block.splitlines()
    if line
]


def test_first_steps_are_there():
    assert [line.split()[0] for line in LINES] == [
        ".",
        "tailscale",
        "wget",
        "tsstats",
        "wget",
        *["tsstats"] * 5,
    ]


def test_no_line_has_a_comment_behind_it():
    assert [line for line in LINES if "#" in line] == []


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone as git makes it: every file has the same modification time."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "samples", folder / "samples")
    now = time.time()
    for path in (folder / "samples").rglob("*"):
        os.utime(path, (now, now))
    return folder


@pytest.mark.parametrize("line", LINES[1:])
def test_first_steps_run(service, tsstats, clone, line):
    line = line.replace("tailscale status --json", "cat samples/status.json")
    for program in re.findall(r"curl|wget", line):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        ["sh", "-c", line.replace("localhost:8000", f"127.0.0.1:{service.port}")],
        cwd=clone,
        env=tsstats.environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    assert done.stdout

"""A disk that is soon full: a tmpfs, which only root can make."""

import contextlib
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.targets import CONF, Native
from tests.postgres import directories, own

SIZE = "96m"


@contextmanager
def small_disk():
    """A directory on a file system of its own. Skips where none can be had."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a small file system")
    with directories() as directory:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tsstats", str(directory)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"needs a small file system: {done.stderr.decode().strip()}")
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], check=False)


@contextmanager
def cluster_on(disk, what, new_postgres):
    """A database with its data, or its write-ahead log, on the small disk."""
    place = disk / what
    place.mkdir()
    own(place)
    if what == "wal":
        # Small segments, so that a new one is soon needed.
        cluster = new_postgres(CONF, initdb=["--wal-segsize=1", f"--waldir={place}"])
    else:
        cluster = new_postgres(CONF)
    with cluster:
        options = ""
        if what == "data":
            cluster.run(f"CREATE TABLESPACE small LOCATION '{place}'")
            options = "TABLESPACE small"
        yield Native(cluster, options)


def fill(path: Path):
    """Write until there is no room for another block."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))

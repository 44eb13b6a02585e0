"""`tsstats` as a process, on a data directory of its own."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import SERVER
from tests.service import Up, own_environment


@dataclass
class Finished:
    code: int
    output: str
    errors: str

    @property
    def json(self):
        assert self.code == 0, self.errors
        return json.loads(self.output)


@dataclass
class Tsstats:
    """Runs `tsstats` with an environment of its own; `uri` None means the embedded database."""

    data_dir: Path
    uri: str | None = None

    @property
    def environment(self):
        uri = {} if self.uri is None else {"DATABASE_URI": self.uri}
        return own_environment(TSSTATS_DATA=str(self.data_dir), **uri)

    def command(self, *words):
        return [sys.executable, "-m", "ringstats_ts.cli", *map(str, words)]

    def __call__(self, *words, stdin=b"", **environment):
        done = subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
            env=self.environment | environment,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def up(self, *words, **environment):
        return Up(self.data_dir.parent, self.environment | environment, *words)


@pytest.fixture(scope="module")
def tsstats(tmp_path_factory, request):
    """`tsstats` on the database of the tests: an own embedded one, or the server's."""
    data_dir = tmp_path_factory.mktemp("cli") / "data"
    if SERVER:
        return Tsstats(data_dir, request.getfixturevalue("database_uri"))
    return Tsstats(shutil.copytree(request.getfixturevalue("migrated_data_dir"), data_dir))


@pytest.fixture(scope="module")
def service(tsstats):
    with tsstats.up() as running:
        yield running


@pytest.fixture
def new_tsstats(tmp_path):
    """`tsstats` before its first start: without a database, without a data directory."""
    return Tsstats(tmp_path / "data")


@pytest.fixture
def embedded_tsstats(new_tsstats, migrated_data_dir):
    """`tsstats` on an embedded database of the test's own."""
    shutil.copytree(migrated_data_dir, new_tsstats.data_dir)
    return new_tsstats

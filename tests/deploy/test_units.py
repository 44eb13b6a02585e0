"""The units of systemd and nginx.conf, as far as they can be checked without installing them."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ringstats_ts.config import Config
from webapp.server import CONFIG_FILE

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = ("tsstats.service", "tsstats.socket")
NGINX = (DEPLOY / "nginx.conf").read_text()
DEFAULTS = Config.from_env({})

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def unit(name):
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read(DEPLOY / name)
    return parser


@pytest.fixture
def installed(tmp_path):
    """The units with a program that is there."""
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace("/opt/tsstats/bin/tsstats", shutil.which("true"))
        (tmp_path / name).write_text(text)
    return tmp_path


@needs_systemd
def test_units_are_valid(installed):
    command = ["systemd-analyze", "verify", *(str(installed / name) for name in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # It also reads what is installed on this machine; only ours counts.
    assert [line for line in done.stderr.splitlines() if "tsstats" in line] == []
    assert done.returncode == 0


@needs_systemd
def test_the_service_is_confined(installed):
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(installed / UNITS[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("needs systemd 250")
    assert done.returncode == 0, done.stdout[-500:]


def test_a_stop_leaves_time_for_what_was_begun():
    settings = {}
    exec(compile(CONFIG_FILE.read_text(), CONFIG_FILE, "exec"), settings)
    assert settings["graceful_timeout"] > DEFAULTS.database_timeout.total_seconds()
    assert int(unit("tsstats.service")["Service"]["TimeoutStopSec"]) > settings["graceful_timeout"] + 5


def test_all_parts_name_the_same_address_and_limit():
    assert unit("tsstats.socket")["Socket"]["ListenStream"] == DEFAULTS.listen
    assert f"server {DEFAULTS.listen} " in NGINX
    assert re.search(r"client_max_body_size (\d+)m;", NGINX)[1] == str(DEFAULTS.max_body_bytes // 2**20)
    assert DEFAULTS.max_body_bytes % 2**20 == 0


def test_nginx_waits_longer_than_the_service_takes():
    longest = DEFAULTS.database_timeout + DEFAULTS.queue_timeout
    assert int(re.search(r"proxy_read_timeout (\d+)s;", NGINX)[1]) > longest.total_seconds()


def test_nginx_lets_go_of_a_connection_before_gunicorn_does():
    from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER

    upstream = NGINX.partition("upstream tsstats")[2].partition("}")[0]
    assert int(re.search(r"keepalive_timeout (\d+)s;", upstream)[1]) < STOP_KEEPALIVE_LINGER


def test_every_substitution_is_documented():
    readme = (DEPLOY / "README.md").read_text()
    for name in ("user", "pid", "error_log", "access_log", "listen", "server 127.0.0.1:8000"):
        assert f"`{name}`" in readme


def test_the_deployed_files_are_listed():
    readme = (DEPLOY / "README.md").read_text()
    names = {path.name for path in DEPLOY.iterdir()} - {"README.md"}
    assert {name for name in names if f"`{name}`" not in readme} == set()

"""gunicorn and nginx as they are deployed, on loopback ports of the test's own."""

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import status_document
from tests.service import Server, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@pytest.fixture(scope="module")
def service(tmp_path_factory, database_uri):
    """gunicorn with the settings that deploy/nginx.conf names."""
    directory = tmp_path_factory.mktemp("service")
    with Server(database_uri, directory, TSSTATS_PROXY_HOPS="1", TSSTATS_AUTH="off") as running:
        yield running


class Nginx:
    """nginx with deploy/nginx.conf, but for what deploy/README.md lists: user, ports and places."""

    def __init__(self, directory, upstream, changes=None):
        assert NGINX is not None
        self.port = free_port()
        self.directory = directory
        self.conf = directory / "nginx.conf"
        self.conf.write_text(self._substituted((DEPLOY / "nginx.conf").read_text(), upstream, changes or {}))
        self.process = None

    def _substituted(self, text, upstream, more):
        temporary = "".join(
            f"    {name}_temp_path {self.directory}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        changes = {
            "user www-data;": "user root;" if os.geteuid() == 0 else "",
            "pid /run/nginx.pid;": f"pid {self.directory}/pid;",
            "error_log /var/log/nginx/error.log": f"error_log {self.directory}/error.log",
            "access_log /var/log/nginx/access.log": f"access_log {self.directory}/access.log",
            "listen 80 ": f"listen 127.0.0.1:{self.port} ",
            "server 127.0.0.1:8000 ": f"server 127.0.0.1:{upstream} ",
            "\nhttp {\n": f"\nhttp {{\n{temporary}",
        }
        for shipped, here in (changes | more).items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, here)
        return text

    @property
    def command(self):
        return [NGINX, "-p", str(self.directory), "-e", f"{self.directory}/error.log", "-c", str(self.conf)]

    def __enter__(self):
        self.process = subprocess.Popen([*self.command, "-g", "daemon off;"])
        deadline = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close() or self
            except OSError:
                assert self.process.poll() is None, self.errors
                assert time.monotonic() < deadline, self.errors
                time.sleep(0.05)

    def __exit__(self, *exc):
        self.process.terminate()
        self.process.wait(30)

    @property
    def errors(self):
        return (self.directory / "error.log").read_text()


@pytest.fixture(scope="module")
def start_nginx(tmp_path_factory):
    """Starts nginx in front of a port; a test may change more than the places."""
    if NGINX is None:
        pytest.skip("needs nginx")

    @contextmanager
    def start(upstream, changes=None):
        with Nginx(tmp_path_factory.mktemp("nginx"), upstream, changes) as running:
            yield running

    return start


@pytest.fixture(scope="module")
def nginx(start_nginx, service):
    with start_nginx(service.port) as running:
        yield running


def document(host="web-1", serial=1000):
    """The bytes of a status document with one peer."""
    return json.dumps(status_document(host, {"db": serial})).encode()

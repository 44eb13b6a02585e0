"""The contract in webapp/openapi.yaml: what it says is what the service does."""

import re
import subprocess
import sys

import pytest
import schemathesis
import yaml

from ringstats_ts.config import Config
from webapp import create_app
from webapp.server import CONFIG_FILE

pytestmark = pytest.mark.usefixtures("clean")

DOCUMENT = CONFIG_FILE.with_name("openapi.yaml").read_bytes()
CONTRACT = yaml.safe_load(DOCUMENT)

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)


def test_is_served(server):
    answer = server.get("/openapi.yaml")
    assert (answer.headers["content-type"], answer.content) == ("application/yaml", DOCUMENT)


def test_has_every_route_and_no_other():
    app = create_app(Config.from_env({"DATABASE_URI": "postgresql://nowhere"}))
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes == {(path, method) for path, methods in CONTRACT["paths"].items() for method in methods}


def test_holds_whatever_is_sent(start_server, tmp_path):
    server = start_server(TSSTATS_THREADS="16")
    (tmp_path / "openapi.yaml").write_bytes(DOCUMENT)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.yaml", "--url", server.url),
        *("--checks", ",".join(CHECKS), "--max-examples", "20", "--seed", "1", "--no-color"),
        *("--phases", "examples,coverage,fuzzing", "--warnings", "off", "--continue-on-failure"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("partial", [False, True])
def test_a_document_that_is_stored_is_answered_as_said(server, status, partial):
    contract = schemathesis.openapi.from_dict(CONTRACT)
    case = contract["/v1/ingest/{source}"]["POST"].Case(
        body=[status("a"), {}] if partial else [status("a"), status("b")],
        query={"partial": "1"} if partial else {},
        path_parameters={"source": "tailscale"},
        media_type="application/json",
    )
    response = case.call(base_url=server.url)
    assert (response.status_code, len(response.json()["documents"])) == ((422, 1) if partial else (200, 2))
    case.validate_response(response)

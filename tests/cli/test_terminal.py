"""What `tsstats query` shows on a terminal."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios

WIDE = "SELECT " + ", ".join(f"{n} AS column_number_{n}" for n in range(22))
KINDS = """
    SELECT
        '{"a": [1, null, true]}'::jsonb AS document,
        INTERVAL '90 days' AS kept,
        ARRAY['x', 'y'] AS list,
        INTERVAL '-1 hours -5 seconds' AS back,
        INTERVAL '1 day 02:03:04.5' AS both,
        false AS flag,
        E'a\\nb\\x1b[31m' AS text
"""


def on_terminal(tsstats, *words, columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in tsstats.environment.items() if k not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        tsstats.command(*words), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_shows_row_by_row_what_is_wider_than_the_terminal(service, tsstats):
    shown = on_terminal(tsstats, "query", WIDE, columns=80)
    names = (f"column_number_{n}" for n in range(22))
    assert shown.splitlines() == [
        "row 1",
        *(f"  {name:16}  {n}" for n, name in enumerate(names)),
        "(1 row)",
    ]


def test_shows_a_table_where_it_fits(service, tsstats):
    assert on_terminal(tsstats, "query", "SELECT 1 AS a, 'x' AS b", columns=80) == "a  b\n1  x\n(1 row)\n"
    wide = on_terminal(tsstats, "query", WIDE, columns=500)
    assert wide == tsstats("query", WIDE).output
    assert wide.count("\n") == 3


def test_shows_values_plainly(service, tsstats):
    shown = on_terminal(tsstats, "query", KINDS, columns=40)
    assert shown.splitlines() == [
        "row 1",
        '  document  {"a":[1,null,true]}',
        "  kept      90 days",
        '  list      ["x","y"]',
        "  back      -01:00:05",
        "  both      1 day 02:03:04.500000",
        "  flag      false",
        "  text      a\\nb\\x1b[31m",
        "(1 row)",
    ]
    assert tsstats("query", KINDS, "--json").json[0]["kept"] == "90 days"
    assert (
        tsstats("query", KINDS, "--csv").output.splitlines()[1].startswith('"{""a"":[1,null,true]}",90 days,')
    )

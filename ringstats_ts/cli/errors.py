"""What goes wrong, in one line and an exit code. Never a traceback for what a user can cause."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ringstats_ts.errors import PayloadError, RingstatsError

FAILED = 1
REFUSED = 65
TRY_LATER = 75
INTERRUPTED = 130


def exit_code(error: RingstatsError) -> int:
    """The exit code for an error, by sysexits.h: 65 input refused, 75 try later, 1 else."""
    if isinstance(error, PayloadError):
        return REFUSED
    return TRY_LATER if error.retryable else FAILED


_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
CONTROL: dict[int, str] = (
    {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
    | {code: f"\\u{code:04x}" for code in _TURNING}
    | {9: "\\t", 10: "\\n"}
)
"""What stands for the characters that would spoil a table or a terminal, or turn the text around them."""

LINES = {code: shown for code, shown in CONTROL.items() if code not in (9, 10)}
"""The same where lines stay lines."""


class Group(click.Group):
    """A group whose commands end in a message where they raise one of our errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RingstatsError as error:
            complain(str(error))
            ctx.exit(exit_code(error))
        except BrokenPipeError:
            # The reader went away (`tsstats query ... | head`): nothing to complain about,
            # and nothing to flush at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(FAILED)


def complain(message: str) -> None:
    """Say what went wrong on standard error."""
    click.echo(click.style("Error: ", fg="red", bold=True) + printable(message), err=True)


def printable(text: str) -> str:
    """Lines of text without what a terminal would obey: names of files and hosts may hold anything."""
    return text.translate(LINES)

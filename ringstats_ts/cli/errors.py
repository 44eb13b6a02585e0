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
    click.echo(click.style("Error: ", fg="red", bold=True) + message, err=True)

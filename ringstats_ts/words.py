"""Words for people, where a number decides on them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Give the number with its noun: `1 file`, `1,200 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

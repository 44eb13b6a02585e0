"""Every pattern of the program takes linear time on whatever it is given; they are found by themselves."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import fields, is_dataclass
from itertools import product
from re import _constants, _parser
from statistics import median
from time import thread_time

import pytest

import ringstats_ts
import webapp

SIZE = 2_500
MOST = 2.6
"""Times as long as for half the text; what is quadratic takes four times as long."""
FAST = 0.003
"""What takes less for all of it [s] is not measured further: the noise is larger."""
RUNS = 5
MOST_MEASURED = 20
MOST_HEADS = 4
PAIRED_HEADS = 1
"""So many of the shortest heads and of the longest are tried; behind the longest pairs as well."""

CLASSES = tuple("aA0 \n\0\"'\\/.:=-&%<[")
PAIRS = tuple(one + other for one, other in product('a0 \0"\\./:=-&', repeat=2) if one != other)


def patterns():
    """Every compiled pattern that a module holds, in tuples and tables too, with what is asked of it."""
    modules = [
        importlib.import_module(module.name)
        for package in (ringstats_ts, webapp)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith(("__main__", ".dagster", "conf"))
    ]
    text = "".join(map(inspect.getsource, modules))
    found = {}
    for module in modules:
        for name, value in vars(module).items():
            source = inspect.getsource(module) if name.startswith("_") else text
            asked = set(re.findall(rf"\b{name}\.(\w+)", source)) if isinstance(value, re.Pattern) else set()
            whole = bool(asked) and asked <= {"match", "fullmatch", "pattern"}
            for pattern in compiled(value):
                key = pattern.pattern, pattern.flags
                found.setdefault(key, (f"{module.__name__}.{name}", set()))[1].add(whole)
    return {key: (where, all(whole)) for key, (where, whole) in found.items()}


def compiled(value):
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, (tuple, list, set, frozenset)):
        for element in value:
            yield from compiled(element)
    elif isinstance(value, dict):
        yield from compiled(tuple(value.values()))
    elif type(value).__module__.startswith(("ringstats_ts", "webapp")) and is_dataclass(value):
        yield from compiled(tuple(getattr(value, field.name, None) for field in fields(value)))


def heads(pattern):
    """Literal texts that the pattern, or a branch of it, goes through: behind each a repeat is tried."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    runs = {""}
    for run in walked(_parser.parse(text, pattern.flags & ~re.DEBUG)):
        runs.add(run)
        runs.add(run + ":")
    ordered = sorted(runs - {""}, key=len)
    return ["", *dict.fromkeys((*ordered[:MOST_HEADS], *ordered[-MOST_HEADS:]))]


def walked(parsed):
    """The runs of literals in a parsed pattern, with one character of each class between them."""
    run = ""
    for kind, argument in parsed:
        if kind is _constants.LITERAL:
            run += chr(argument)
            continue
        if run:
            yield run
        for part in parts(kind, argument):
            yield from walked(part)
        run += sample(kind, argument)
    if run:
        yield run


def parts(kind, argument):
    if kind is _constants.BRANCH:
        return argument[1]
    if kind is _constants.SUBPATTERN:
        return [argument[3]]
    if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
        return [argument[2]]
    if kind in (_constants.ASSERT, _constants.ASSERT_NOT):
        return [argument[1]]
    return [argument] if kind is _constants.ATOMIC_GROUP else []


def sample(kind, argument):
    """A text that a part of a pattern matches, if it is a simple one."""
    if kind is _constants.IN:
        return next(
            (
                chr(value if what is _constants.LITERAL else value[0])
                for what, value in argument
                if what in (_constants.LITERAL, _constants.RANGE)
            ),
            "a",
        )
    if kind in (_constants.MAX_REPEAT, _constants.POSSESSIVE_REPEAT, _constants.MIN_REPEAT):
        return "".join(sample(*part) for part in argument[2]) * max(1, min(argument[0], 20))
    if kind is _constants.SUBPATTERN:
        return "".join(sample(*part) for part in argument[3])
    if kind is _constants.BRANCH:
        return "".join(sample(*part) for part in argument[1][0])
    return chr(argument) if kind is _constants.LITERAL else ""


def texts(pattern, size):
    """Texts of the size: repeats of a class or a pair, alone and behind heads, and repeated heads."""
    found = heads(pattern)
    for head in found:
        paired = head == "" or head in found[-PAIRED_HEADS:]
        for unit in (*CLASSES, *PAIRS) if paired else CLASSES:
            yield f"{head!r} {unit!r}", head + (unit * size)[:size]
        for unit in ("", *CLASSES):
            yield f"({head!r} {unit!r})", repeated(head + unit, size)
        yield f"({head!r} spaces)", repeated(head + " " * 50, size)


def repeated(unit, size):
    return (unit or "a") * (size // (len(unit) or 1))


def seconds(pattern, text, *, whole):
    """How long the pattern takes; `whole`: it is tried at the beginning of a text only."""
    encoded = text if isinstance(pattern.pattern, str) else text.encode("latin-1", "replace")
    before = thread_time()
    pattern.fullmatch(encoded)
    pattern.match(encoded)
    if not whole:
        for _ in pattern.finditer(encoded):
            pass
    return thread_time() - before


PATTERNS = patterns()


def growths(pattern, whole):
    """How many times as long it takes for twice the text, where it takes long enough to be measured."""
    slow = [each for each in texts(pattern, SIZE) if seconds(pattern, each[1], whole=whole) > FAST]
    return {name: grown(pattern, text, whole) for name, text in slow[:MOST_MEASURED]}


def grown(pattern, text, whole):
    """The least of some tries, since other work takes its time too."""
    half = text[: len(text) // 2]
    tries = (timed(pattern, text, whole) / max(timed(pattern, half, whole), 1e-6) for _ in range(3))
    return next((growth for growth in tries if growth <= MOST), 99)


def timed(pattern, text, whole):
    return median(seconds(pattern, text, whole=whole) for _ in range(RUNS))


def test_the_patterns_are_found():
    assert len(PATTERNS) > 80
    assert any(where.startswith("webapp.") for where, _ in PATTERNS.values())


NAMES = [f"{where}-{number}" for number, (where, _) in enumerate(PATTERNS.values())]


@pytest.mark.parametrize("key", PATTERNS, ids=NAMES)
def test_a_pattern_takes_linear_time(key):
    found = growths(re.compile(*key), PATTERNS[key][1])
    assert {name: growth for name, growth in found.items() if growth > MOST} == {}


def test_what_is_quadratic_is_seen():
    pattern = re.compile(rb"AuthURL[\"\0]*[\0\s]*[:=]")
    assert max(growths(pattern, whole=False).values()) > MOST

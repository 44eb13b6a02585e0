"""Whatever options come together: each pair of settings occurs, and each three of those inside the door."""

import itertools
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.errors import PartlyRefused, RingstatsError
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload, Token

NOW = datetime.now(UTC).replace(microsecond=0)
FIRST = NOW - timedelta(hours=1)
TIMES = {"first": FIRST, "another": NOW - timedelta(hours=2), "old": NOW - timedelta(days=100), "none": None}

OPTIONS = {
    "document": ("same", "changed"),
    "time": tuple(TIMES),
    "key": (None, "used", "new"),
    "replace": (False, True),
    "partial": (False, True),
    "backfill": (False, True),
    "token": (None, "its host's", "another's"),
    "retry": (False, True),
    "budget": ("enough", "spent"),
    "beside": (None, "rounded"),
}
"""`first` is the time at which the host has a document already, with the key `used`."""


def covering(options, strength):
    """Settings, so few that each combination of so many options occurs; always the same."""
    chance = random.Random(1)
    names = list(options)
    groups = list(itertools.combinations(names, strength))
    missing = {
        tuple(zip(group, values, strict=True))
        for group in groups
        for values in itertools.product(*(options[name] for name in group))
    }

    def covered(case):
        return {tuple((name, case[name]) for name in group) for group in groups} & missing

    while missing:
        wanted = dict(min(missing, key=repr))
        tried = [{name: wanted.get(name, chance.choice(options[name])) for name in names} for _ in range(30)]
        best = max(tried, key=lambda case: len(covered(case)))
        missing -= covered(best)
        yield best


def fate(case):
    """What becomes of the document: `stored`, `duplicate`, or the code of its error."""
    new = case["document"] == "changed"
    if case["token"] == "another's":
        return "forbidden"
    if case["beside"] == "rounded" and not case["partial"]:
        return "unstorable-payload"
    if case["time"] == "old" and not case["backfill"]:
        return "timestamp-out-of-range"
    if case["key"] == "used":
        return "conflicting-payload" if new else "duplicate"
    if case["time"] == "none" and case["key"] is None and not new:
        return "duplicate"
    if case["time"] == "first" and not case["replace"]:
        return "conflicting-payload" if new else "duplicate"
    return "stored"


def expected(case):
    """The fates of the documents of the body, and then the host's documents by their times."""
    own = fate(case)
    standing = {FIRST: "same"}
    if own == "stored":
        bounded = case["budget"] == "spent" and not case["backfill"] and not case["retry"]
        short = bounded and case["document"] == "changed"
        standing |= {TIMES[case["time"]] or NOW: "without what is new" if short else case["document"]}
    together = case["beside"] and case["partial"]
    return [own, "unstorable-payload"] if together else [own], standing


# What is refused at the door hides what the others do.
INSIDE = OPTIONS | {"time": ("first", "another", "none"), "token": (None, "its host's"), "beside": (None,)}
CASES = [*covering(OPTIONS, 2), *covering(INSIDE, 3)]


@pytest.fixture
def take(database, config, make_status):
    """Sends the document of a case, to a host that has one; what becomes of it, and what the host has.

    Each host has a name of its own, so that the tables need not be emptied between cases.
    """

    def run(number, case):
        host = f"host{number}"
        documents = {"same": make_status(host, {"db": 1}), "changed": make_status(host, {"db": 2, host: 3})}
        # With a token the host is known by its name, without by the id of its node.
        token = _token(case, number)
        own_token = None if case["token"] == "another's" else token
        body = json.dumps(documents["same"]).encode()
        before = Payload(body, NOW, time=FIRST, key=f"used {number}", token=own_token)
        ingest(before, database, config)
        lines = [json.dumps(documents[case["document"]])]
        if case["beside"]:
            lines.append(json.dumps(make_status(host, Extra=2**70)))
        payload = replace(
            before,
            body="\n".join(lines).encode(),
            time=TIMES[case["time"]],
            key=case["key"] and f"{case['key']} {number}",
            replace=case["replace"],
            partial=case["partial"],
            backfill=case["backfill"],
            token=token,
        )
        now = NOW + timedelta(days=1) if case["retry"] else None
        own = replace(config, new_series=0 if case["budget"] == "spent" else config.new_series)
        return _fates(payload, database, own, now), _standing(database, host)

    return run


def _token(case, number):
    hosts = {None: None, "its host's": f"host{number}", "another's": "other-*"}[case["token"]]
    return hosts and Token(number, "key", hosts, frozenset({"ingest"}))


def _fates(payload, database, config, now):
    """What became of each document of the body."""
    try:
        receipts, refusals = ingest(payload, database, config, now=now), {}
    except PartlyRefused as error:
        receipts = error.receipts
        refusals = {refusal.number: refusal.error.code for refusal in error.refusals}
    except RingstatsError as error:
        return [error.code]
    told = iter("duplicate" if receipt.duplicate else "stored" for receipt in receipts)
    return [refusals.get(number) or next(told) for number in range(len(receipts) + len(refusals))]


def _standing(database, host):
    rows = database.run(
        "SELECT time, count(*), min(rx_bytes) FROM tailscale_peers JOIN hosts USING (host_id)"
        " WHERE name = %(host)s GROUP BY 1",
        {"host": host},
    )
    told = {(1, 1): "same", (2, 2): "changed", (1, 2): "without what is new"}
    return {time: told.get((peers, least), peers) for time, peers, least in rows}


def test_all_options_together(take):
    wrong = []
    for number, case in enumerate(CASES):
        told = take(number, case)
        if told != (own := expected(case)):
            wrong.append(f"{case}: {told}, not {own}")
    assert not wrong, "\n".join(wrong)

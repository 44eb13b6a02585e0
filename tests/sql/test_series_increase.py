"""Increase of counters: what the samples say, computed here with Decimal, equals every level and range."""

import random
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.examples import examples

START = datetime(2026, 1, 28, 5, 0, tzinfo=UTC)
WIDTHS = {
    "1 minute": timedelta(minutes=1),
    "7 minutes": timedelta(minutes=7),
    "1 hour": timedelta(hours=1),
    "90 minutes": timedelta(minutes=90),
    "1 day": timedelta(days=1),
    "25 hours": timedelta(hours=25),
    "1 week": timedelta(weeks=1),
    "1 month": None,
}
RANGES = {
    "everything": ("2026-01-01T00:00Z", "2026-03-01T00:00Z"),
    "whole hours": ("2026-01-28T11:00Z", "2026-01-30T02:00Z"),
    "nothing is aligned": ("2026-01-28T09:13:07.5Z", "2026-01-30T17:47:29.25Z"),
    "within an hour": ("2026-01-29T10:11:12Z", "2026-01-29T10:43:21Z"),
    "over the start of an hour": ("2026-01-29T10:41:12Z", "2026-01-29T11:13:21Z"),
    "a microsecond into an hour": ("2026-01-29T10:00:00.000001Z", "2026-01-29T13:00:00.000001Z"),
    "begins in the silent week": ("2026-02-01T12:00Z", "2026-02-08T23:00Z"),
    "before the first sample": ("2026-01-01T00:00Z", "2026-01-28T00:00Z"),
    "ends before it begins": ("2026-01-30T00:00Z", "2026-01-29T00:00Z"),
}


@dataclass(frozen=True)
class Sample:
    host_id: int
    series_id: int
    time: datetime
    value: Decimal


@dataclass
class Tables:
    connection: Any

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def add_host(self, name: str, number: int = 0) -> int:
        ((host_id,),) = self.query(
            "INSERT INTO hosts (identity, name, first_seen, last_seen)"
            " VALUES (%s, %s, '2026-01-01Z', '2026-01-01Z') RETURNING host_id",
            f"name:{name}#{number}",
            name,
        )
        return host_id

    def add_series(self, name: str, kind: str = "counter", labels: str = "{}", source: str = "json") -> int:
        ((series_id,),) = self.query(
            "INSERT INTO series (source, name, labels_key, labels, kind, unit, first_seen)"
            " VALUES (%s, %s, %s, %s, %s, 'bytes', '2026-01-01Z') RETURNING series_id",
            source,
            name,
            labels,
            labels,
            kind,
        )
        return series_id

    def add_samples(self, samples: list[Sample]) -> None:
        columns = list(zip(*[vars(sample).values() for sample in samples], strict=True))
        self.query(
            "INSERT INTO samples (host_id, series_id, time, received_at, source, value)"
            " SELECT h, s, t, t, 'json', v"
            " FROM unnest(%s::integer[], %s::integer[], %s::timestamptz[], %s::numeric[]) AS r (h, s, t, v)"
            " ON CONFLICT (host_id, time, series_id) DO UPDATE SET value = excluded.value",
            *[list(column) for column in columns],
        )

    def refresh(self, until: datetime | None = None) -> None:
        self.query("CALL refresh_continuous_aggregate('samples_hourly', NULL, %s::timestamptz)", until)

    def increase(
        self,
        since: Any,
        until: Any,
        width: str,
        hosts: list[str | None] | None = None,
        names: list[str | None] | None = None,
    ) -> dict[Any, Any]:
        rows = self.query(
            "SELECT bucket, host_id, series_id, increase, resets, samples FROM series_increase("
            "%s::timestamptz, %s::timestamptz, %s::interval, hosts => %s::text[], names => %s::text[])",
            since,
            until,
            width,
            hosts,
            names,
        )
        answer = {row[:3]: row[3:] for row in rows}
        assert len(answer) == len(rows)
        return answer


@pytest.fixture
def tables(connection: Any, clean: None) -> Tables:
    return Tables(connection)


def bucket_of(time: datetime, width: timedelta | None) -> datetime:
    if width is None:
        return time.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    origin = datetime(2000, 1, 3, tzinfo=UTC)
    return origin + (time - origin) // width * width


def step(before: Decimal, value: Decimal) -> tuple[Decimal, bool]:
    with localcontext(prec=60):
        return (max(value, Decimal(0)), True) if value < before else (value - before, False)


def truth(samples: list[Sample], since: str, until: str, width: timedelta | None) -> dict[Any, Any]:
    """What series_increase must return: increase, resets, samples by bucket, host and series."""
    totals: dict[Any, Any] = defaultdict(lambda: (Decimal(0), 0, 0))
    in_order = sorted(samples, key=lambda sample: (sample.host_id, sample.series_id, sample.time))
    for series, rows in groupby(in_order, key=lambda sample: (sample.host_id, sample.series_id)):
        own = list(rows)
        for before, sample in pairwise([own[0], *own]):
            if datetime.fromisoformat(since) <= sample.time < datetime.fromisoformat(until):
                grown, reset = step(before.value, sample.value)
                key = bucket_of(sample.time, width), *series
                increase, resets, count = totals[key]
                with localcontext(prec=60):
                    totals[key] = increase + grown, resets + reset, count + 1
    return dict(totals)


def make_samples(rng: random.Random, host_id: int, series_id: int, days: float = 3) -> list[Sample]:
    """Draw samples at irregular times: fractions, more than a float holds, resets, a silent week."""
    time, value = START, Decimal(rng.randrange(2**62)) + Decimal(rng.randrange(10**9)) / 10**9
    silence = START + timedelta(days=days / 2)
    samples = []
    while time < START + timedelta(days=days + 7):
        time += timedelta(seconds=rng.choice([37, 301, 3600, rng.uniform(1, 9000)]))
        if silence and time > silence:
            time, silence = time + timedelta(days=7), None
        value += rng.choice([Decimal(0), Decimal(1), Decimal("0.001"), Decimal(rng.randrange(2**40)) / 1000])
        if rng.random() < 0.1:
            value = Decimal(rng.choice([0, -3, rng.randrange(50)]))
        samples.append(Sample(host_id, series_id, time, value))
    return samples


@pytest.fixture
def series(tables: Tables) -> list[Sample]:
    rng = random.Random(20260128)
    hosts = [tables.add_host(name) for name in ("alpha", "beta")]
    counters = [tables.add_series("requests_total", labels=f'{{"code":"{code}"}}') for code in (200, 500)]
    return [sample for h in hosts for s in counters for sample in make_samples(rng, h, s)]


def store_in_disorder(tables: Tables, samples: list[Sample]) -> None:
    """Store in random order, a third before each refresh, a fifth first with wrong values.

    The last day is left to real-time aggregation.
    """
    rng = random.Random(1)
    today = bucket_of(max(sample.time for sample in samples), timedelta(days=1))
    newest = [sample for sample in samples if sample.time >= today]
    older = [sample for sample in samples if sample.time < today]
    assert newest
    rng.shuffle(older)
    wrong = [replace(sample, value=Decimal(rng.randrange(10**9))) for sample in older[::5]]
    third = len(older) // 3
    for batch in (wrong, older[:third], older[third : 2 * third], older[2 * third :]):
        tables.add_samples(batch)
        tables.refresh(today)
    tables.add_samples(newest)


def test_every_range_and_every_width_equals_the_samples(tables: Tables, series: list[Sample]) -> None:
    store_in_disorder(tables, series)
    everything = truth(series, *RANGES["everything"], timedelta(days=36500))
    assert min(resets for _, resets, _ in everything.values()) > 3
    for since, until in RANGES.values():
        for name, width in WIDTHS.items():
            expected = truth(series, since, until, width)
            assert tables.increase(since, until, name) == expected, (since, until, name)


def test_unbounded_ranges_hold_everything(tables: Tables, series: list[Sample]) -> None:
    store_in_disorder(tables, series)
    for width in ("1 day", "7 minutes"):
        expected = truth(series, *RANGES["everything"], WIDTHS[width])
        assert tables.increase("-infinity", "infinity", width) == expected


def test_the_hourly_states_are_those_of_the_samples(tables: Tables, series: list[Sample]) -> None:
    store_in_disorder(tables, series)
    hours: dict[Any, list[Sample]] = defaultdict(list)
    for sample in sorted(series, key=lambda sample: sample.time):
        hours[bucket_of(sample.time, timedelta(hours=1)), sample.host_id, sample.series_id].append(sample)
    expected = {}
    for key, own in hours.items():
        values = [sample.value for sample in own]
        steps = [step(*pair) for pair in pairwise(values)]
        with localcontext(prec=60):
            total = sum(values), sum((grown for grown, _ in steps), Decimal(0))
        resets = sum(reset for _, reset in steps)
        first_last = values[0], values[-1]
        expected[key] = (len(own), min(values), max(values), total[0], *first_last, total[1], resets)
    rows = tables.query(
        "SELECT bucket, host_id, series_id, samples, min, max, sum, first, last, increase, resets"
        " FROM samples_hourly"
    )
    assert {row[:3]: row[3:] for row in rows} == expected


def test_the_step_over_hours_without_samples_is_found_when_those_before_are_gone(tables: Tables) -> None:
    host_id, series_id = tables.add_host("alpha"), tables.add_series("requests_total")
    before, after = datetime(2024, 12, 20, 12, 3, tzinfo=UTC), datetime(2026, 1, 28, 12, 3, tzinfo=UTC)
    tables.add_samples(
        [Sample(host_id, series_id, time, Decimal(value)) for time, value in ((before, 100), (after, 900))]
    )
    tables.refresh()
    tables.query("SELECT drop_chunks('samples', TIMESTAMPTZ '2025-12-01Z')")
    assert tables.query("SELECT count(*) FROM samples") == [(1,)]
    for width in WIDTHS:
        answer = tables.increase(after, after + timedelta(minutes=1), width)
        assert list(answer.values()) == [(Decimal(800), 0, 1)], width


def test_a_day_of_23_hours_in_the_session_time_zone_moves_no_bucket(tables: Tables) -> None:
    host_id, series_id = tables.add_host("alpha"), tables.add_series("requests_total")
    clocks_change = datetime(2026, 3, 29, 1, tzinfo=UTC)
    samples = [
        Sample(host_id, series_id, clocks_change + timedelta(hours=hour), Decimal(1000 + hour))
        for hour in range(-48, 48)
    ]
    tables.add_samples(samples)
    since, until = "2026-03-29T00:30Z", "2026-03-30T12:00Z"
    tables.query("SET timezone = 'Europe/Paris'")
    try:
        for width in ("1 hour", "1 day", "1 month"):
            assert tables.increase(since, until, width) == truth(samples, since, until, WIDTHS[width])
    finally:
        tables.query("SET timezone = 'UTC'")


def test_what_is_asked_by_name_equals_what_is_picked_from_everything(tables: Tables) -> None:
    rng = random.Random(16)
    # Hosts may share a name, and series do: of other sources, with other labels, with another kind.
    hosts = {
        tables.add_host(name, number): name for number, name in enumerate(["alpha", "beta", "beta", "gamma"])
    }
    series = {
        tables.add_series(name, kind, labels, source): name
        for source, name, kind, labels in (
            ("json", "requests_total", "counter", '{"code":"200"}'),
            ("json", "requests_total", "counter", '{"code":"500"}'),
            ("host", "requests_total", "counter", "{}"),
            ("json", "errors_total", "counter", "{}"),
            ("pattoo", "errors_total", "gauge", "{}"),
            ("json", "temperature", "gauge", "{}"),
        )
    }
    samples = [sample for h in hosts for s in series for sample in make_samples(rng, h, s, days=2)]
    store_in_disorder(tables, samples)
    gauges = dict(tables.query("SELECT series_id, name FROM series WHERE kind = 'gauge'"))
    counted = [sample for sample in samples if sample.series_id not in gauges]

    def choice(known: dict[int, str]) -> list[str | None] | None:
        names = [*sorted(set(known.values())), "unknown", "al", None]
        return rng.choice([None, [], ["unknown"], *[rng.sample(names, k) for k in (1, 2, len(names))]])

    seen = set()
    for _ in range(200):
        since, until = rng.choice(list(RANGES.values()))
        width, asked = rng.choice(list(WIDTHS)), {"hosts": choice(hosts), "names": choice(series)}
        wanted = [
            sample
            for sample in counted
            if (asked["hosts"] is None or hosts[sample.host_id] in asked["hosts"])
            and (asked["names"] is None or series[sample.series_id] in asked["names"])
        ]
        answer = tables.increase(since, until, width, **asked)
        assert answer == truth(wanted, since, until, WIDTHS[width]), (since, until, width, asked)
        seen.add(
            (
                asked["hosts"] is None,
                asked["names"] is None,
                asked["hosts"] == [],
                asked["names"] == [],
                bool(answer),
            )
        )
    assert len(seen) > 10


def test_only_what_is_asked_by_name_is_read(tables: Tables) -> None:
    hosts = [tables.add_host(name) for name in ("alpha", "beta", "gamma")]
    counters = [tables.add_series(f"counter_{number}") for number in range(5)]
    times = [START + timedelta(minutes=20 * number) for number in range(7)]
    tables.add_samples([Sample(h, s, time, Decimal(1)) for h in hosts for s in counters for time in times])
    for asked, pairs in {
        "": 15,
        ", hosts => ARRAY['alpha']": 5,
        ", names => ARRAY['counter_1', 'counter_3']": 6,
        ", hosts => ARRAY['alpha', 'beta'], names => ARRAY['counter_4']": 2,
        ", hosts => ARRAY[]::text[]": 0,
    }.items():
        (((plan,),),) = tables.query(
            "EXPLAIN (ANALYZE, FORMAT JSON) SELECT *"
            f" FROM series_increase('2026-01-28T06:00Z', '2026-01-28T07:00Z', '7 minutes'{asked})"
        )
        assert rows_of("series_states", plan["Plan"]) == 3 * pairs, asked


def rows_of(function: str, node: dict[str, Any]) -> int:
    """How many rows a function of a plan returned."""
    own = node["Actual Rows"] if node.get("Function Name") == function else 0
    return own + sum(rows_of(function, child) for child in node.get("Plans", []))


def test_a_row_names_its_counter_and_gauges_have_none(tables: Tables) -> None:
    host_id = tables.add_host("alpha")
    counter = tables.add_series("requests_total", labels='{"code": "200"}')
    gauge = tables.add_series("temperature", "gauge")
    tables.add_samples(
        [
            Sample(host_id, series_id, START + timedelta(minutes=minute), Decimal(10 * minute))
            for series_id in (counter, gauge)
            for minute in (0, 1)
        ]
    )
    for _ in ("real time", "refreshed"):
        for width in ("1 minute", "1 hour"):
            rows = tables.query(
                "SELECT host, source, name, labels, unit, sum(increase), host_id, series_id FROM"
                " series_increase('2026-01-28Z', '2026-01-29Z', %s::interval) GROUP BY 1, 2, 3, 4, 5, 7, 8",
                width,
            )
            assert rows == [
                ("alpha", "json", "requests_total", {"code": "200"}, "bytes", Decimal(10), host_id, counter)
            ]
        tables.refresh()


STATES_OF_CUTS = """
    WITH samples AS (
        SELECT value, position, width_bucket(position, %(fine)s::bigint[]) AS fine
        FROM unnest(%(values)s::numeric[]) WITH ORDINALITY AS s (value, position)
    ),
    fine AS (
        SELECT fine, width_bucket(fine, %(coarse)s::integer[]) AS coarse,
            value_counter(value ORDER BY position) AS s
        FROM samples GROUP BY 1
    ),
    coarse AS (
        SELECT coarse, value_counter_roll(s[1], s[2], s[3], s[4] ORDER BY fine) AS s FROM fine GROUP BY 1
    )
    SELECT
        (SELECT value_counter(value ORDER BY position) FROM samples),
        (SELECT value_counter_roll(s[1], s[2], s[3], s[4] ORDER BY fine) FROM fine),
        (SELECT value_counter_roll(s[1], s[2], s[3], s[4] ORDER BY coarse) FROM coarse)
"""


def counter_state(values: list[Decimal | None]) -> list[Decimal] | None:
    """The definition, in Python: first, last, increase, resets."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    steps = [step(*pair) for pair in pairwise(known)]
    with localcontext(prec=60):
        increase = sum((grown for grown, _ in steps), Decimal(0))
    return [known[0], known[-1], increase, Decimal(sum(reset for _, reset in steps))]


values = (
    st.none()
    | st.integers(-5, 50).map(Decimal)
    | st.integers(0, 2**64).map(Decimal)
    | st.decimals(0, 10**6, places=6)
)
cuts = st.lists(st.integers(1, 40), max_size=8, unique=True).map(sorted)


@examples(100)
@given(samples=st.lists(values, max_size=40), fine=cuts, coarse=cuts)
@example(samples=[Decimal(7), Decimal(-3), Decimal(4)], fine=[1], coarse=[1])
@example(samples=[Decimal(7), Decimal(-3), Decimal(4)], fine=[1, 2], coarse=[2])
def test_states_of_any_cut_roll_up_to_the_state_of_the_whole(
    connection: Any, samples: list[Decimal | None], fine: list[int], coarse: list[int]
) -> None:
    parameters = {"values": samples, "fine": fine or [0], "coarse": coarse or [0]}
    with connection.cursor() as cursor:
        cursor.execute(STATES_OF_CUTS, parameters)
        whole, rolled, rolled_twice = cursor.fetchone()
    assert whole == counter_state(samples)
    assert rolled == whole
    assert rolled_twice == whole

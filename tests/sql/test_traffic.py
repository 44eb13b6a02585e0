"""Traffic: what the samples say, computed here, equals every aggregate and every reading function."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Any

import pytest

START = datetime(2026, 1, 28, 5, 0, tzinfo=UTC)
WIDTHS = {
    "1 minute": timedelta(minutes=1),
    "5 minutes": timedelta(minutes=5),
    "7 minutes": timedelta(minutes=7),
    "1 hour": timedelta(hours=1),
    "90 minutes": timedelta(minutes=90),
    "1 day": timedelta(days=1),
    "25 hours": timedelta(hours=25),
    "36 hours": timedelta(hours=36),
    "1 week": timedelta(weeks=1),
    "1 month": None,
}
RANGES = {
    "everything": ("2026-01-01T00:00Z", "2026-03-01T00:00Z"),
    "whole hours": ("2026-01-28T11:00Z", "2026-01-30T02:00Z"),
    "nothing is aligned": ("2026-01-28T09:13:07.5Z", "2026-01-30T17:47:29.25Z"),
    "within an hour": ("2026-01-29T10:11:12Z", "2026-01-29T10:43:21Z"),
    "within five minutes": ("2026-01-29T10:11:12Z", "2026-01-29T10:13:21Z"),
    "begins in the silent week": ("2026-02-03T12:00Z", "2026-02-08T23:00Z"),
    "before the first sample": ("2026-01-01T00:00Z", "2026-01-28T00:00Z"),
    "after the last sample": ("2026-02-27T00:00Z", "2026-02-28T00:00Z"),
    "ends before it begins": ("2026-01-30T00:00Z", "2026-01-29T00:00Z"),
}


def bucket_of(time: datetime, width: timedelta | None) -> datetime:
    if width is None:
        return time.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    origin = datetime(2000, 1, 3, tzinfo=UTC)
    return origin + (time - origin) // width * width


def steps(samples: list[Any]) -> Iterator[tuple[datetime, int, int, bool]]:
    """Yield time, increase of rx and of tx, and whether both began anew, of each sample that has both."""
    known = [sample for sample in samples if sample.rx_bytes is not None and sample.tx_bytes is not None]
    if known:
        yield known[0].time, 0, 0, False
    for before, sample in pairwise(known):
        reset = (
            sample.rx_bytes < before.rx_bytes
            or sample.tx_bytes < before.tx_bytes
            or sample.key_epoch != before.key_epoch
        )
        rx, tx = (0, 0) if reset else (before.rx_bytes, before.tx_bytes)
        yield sample.time, sample.rx_bytes - rx, sample.tx_bytes - tx, reset


def traffic(
    samples: list[Any], since: datetime, until: datetime, width: timedelta | None
) -> dict[tuple[datetime, int, int], tuple[int | None, int | None, int, int]]:
    """What tailscale_traffic must return: rx_bytes, tx_bytes, resets, samples by bucket, host and node."""
    totals: dict[Any, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    in_order = sorted(samples, key=lambda sample: (sample.host_id, sample.node_id, sample.time))
    for series, rows in groupby(in_order, key=lambda sample: (sample.host_id, sample.node_id)):
        series_samples = list(rows)
        for sample in series_samples:
            if since <= sample.time < until:
                totals[bucket_of(sample.time, width), *series]["samples"] += 1
        for time, rx, tx, reset in steps(series_samples):
            if since <= time < until:
                total = totals[bucket_of(time, width), *series]
                total["rx"] += rx
                total["tx"] += tx
                total["resets"] += reset
    return {
        key: (total.get("rx"), total.get("tx"), total["resets"], total["samples"])
        for key, total in totals.items()
    }


def read_traffic(tailnet: Any, since: Any, until: Any, width: str) -> dict[Any, Any]:
    rows = tailnet.query(
        "SELECT bucket, host_id, node_id, rx_bytes, tx_bytes, resets, samples"
        " FROM tailscale_traffic(%s::timestamptz, %s::timestamptz, %s::interval)",
        since,
        until,
        width,
    )
    answer = {row[:3]: row[3:] for row in rows}
    assert len(answer) == len(rows)
    return answer


def make_series(rng: random.Random, sample: type, host_id: int, node_id: int, days: float) -> list[Any]:
    """Draw samples at irregular times with resets, new keys, missing counters and a silent week."""
    time, rx, tx, epoch = START, rng.randrange(10**6), rng.randrange(10**6), 1
    silence = START + timedelta(days=days / 2)
    samples = []
    while time < START + timedelta(days=days + 7):
        time += timedelta(seconds=rng.choice([37, 61, 300, 301, rng.uniform(1, 5000)]))
        if silence and time > silence:
            time, silence = time + timedelta(days=7), None
        rx, tx = rx + rng.choice([0, 1, rng.randrange(5000)]), tx + rng.randrange(300)
        if rng.random() < 0.03:
            rx, tx = rng.choice([0, rng.randrange(50)]), rng.choice([0, rng.randrange(50)])
        if rng.random() < 0.01:
            epoch, rx, tx = epoch + 1, rng.randrange(10**7), rng.randrange(10**7)
        missing = rng.choices(["", "rx", "tx", "rx tx"], [92, 2, 2, 4])[0]
        path = rng.choice([None, "direct", "derp", "peer_relay", "idle"])
        samples.append(
            sample(
                host_id,
                node_id,
                time,
                None if "rx" in missing else rx,
                None if "tx" in missing else tx,
                epoch,
                online=rng.choice([None, True, False]),
                path=path,
            )
        )
    return samples


@pytest.fixture
def series(tailnet: Any, make_sample: type) -> list[Any]:
    rng = random.Random(20260128)
    hosts = [tailnet.add_host(name) for name in ("alpha", "beta")]
    nodes = [tailnet.add_node(name) for name in ("one", "two")]
    return [
        sample
        for host_id in hosts
        for node_id in nodes
        for sample in make_series(rng, make_sample, host_id, node_id, days=4)
    ]


def store_in_disorder(tailnet: Any, samples: list[Any]) -> None:
    """Store in random order, a third before each refresh, a fifth first with wrong values.

    The last day is left to real-time aggregation.
    """
    rng = random.Random(1)
    today = bucket_of(max(sample.time for sample in samples), timedelta(days=1))
    newest = [sample for sample in samples if sample.time >= today]
    older = [sample for sample in samples if sample.time < today]
    rng.shuffle(older)
    wrong = [replace(sample, rx_bytes=rng.randrange(10**9), tx_bytes=None) for sample in older[::5]]
    third = len(older) // 3
    for batch in (wrong, older[:third], older[third : 2 * third], older[2 * third :]):
        tailnet.add_samples(batch)
        tailnet.refresh(None, today)
    tailnet.add_samples(newest)


def test_every_aggregate_and_every_bucket_of_traffic_equals_the_samples(
    tailnet: Any, series: list[Any]
) -> None:
    store_in_disorder(tailnet, series)

    everything = traffic(series, *map(datetime.fromisoformat, RANGES["everything"]), timedelta(days=36500))
    truth = {key[1:]: total for key, total in everything.items()}
    assert min(resets for _, _, resets, _ in truth.values()) > 5
    for aggregate in ("tailscale_peers_5m", "tailscale_peers_hourly", "tailscale_peers_daily"):
        rows = tailnet.query(
            f"""
            SELECT host_id, node_id, s[3], s[6], s[7], samples::bigint
            FROM (
                SELECT host_id, node_id, sum(samples) AS samples,
                    traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase,
                        resets, key_first, key_last ORDER BY bucket) AS s
                FROM {aggregate} GROUP BY 1, 2
            ) AS rolled
            """
        )
        assert {row[:2]: row[2:] for row in rows} == truth, aggregate

    for since, until in RANGES.values():
        for name, width in WIDTHS.items():
            expected = traffic(series, datetime.fromisoformat(since), datetime.fromisoformat(until), width)
            assert read_traffic(tailnet, since, until, name) == expected, (since, until, name)


def test_unbounded_ranges_hold_everything(tailnet: Any, series: list[Any]) -> None:
    store_in_disorder(tailnet, series)
    expected = traffic(series, START - timedelta(days=1), START + timedelta(days=99), timedelta(days=1))
    assert read_traffic(tailnet, "-infinity", "infinity", "1 day") == expected


def test_a_day_of_23_hours_in_the_session_time_zone_moves_no_bucket(tailnet: Any, make_sample: type) -> None:
    host_id, node_id = tailnet.add_host("alpha"), tailnet.add_node("one")
    clocks_change = datetime(2026, 3, 29, 1, tzinfo=UTC)
    samples = [
        make_sample(host_id, node_id, clocks_change + timedelta(hours=hour), 1000 + hour, 0)
        for hour in range(-48, 48)
    ]
    tailnet.add_samples(samples)
    since, until = datetime(2026, 3, 29, 0, 30, tzinfo=UTC), datetime(2026, 3, 30, 12, tzinfo=UTC)
    tailnet.query("SET timezone = 'Europe/Paris'")
    try:
        for width in ("1 hour", "1 day", "1 month"):
            expected = traffic(samples, since, until, WIDTHS[width])
            assert read_traffic(tailnet, since, until, width) == expected
    finally:
        tailnet.query("SET timezone = 'UTC'")


def test_a_bucket_without_counters_does_not_lose_the_step_across_it(tailnet: Any, make_sample: type) -> None:
    host_id, node_id = tailnet.add_host("alpha"), tailnet.add_node("one")
    times = [datetime(2026, 2, 1, 0, minute, tzinfo=UTC) for minute in (1, 6, 11)]
    tailnet.add_samples(
        [
            make_sample(host_id, node_id, time, value, value)
            for time, value in zip(times, (100, None, 350), strict=True)
        ]
    )
    tailnet.refresh()
    answer = read_traffic(tailnet, "2026-02-01Z", "2026-02-02Z", "5 minutes")
    assert [(key[0].minute, row) for key, row in answer.items()] == [
        (0, (0, 0, 0, 1)),
        (5, (None, None, 0, 1)),
        (10, (250, 250, 0, 1)),
    ]


@pytest.mark.parametrize("silence", [timedelta(minutes=90), timedelta(days=7), timedelta(days=400)])
def test_growth_during_a_silent_gap_lands_in_the_first_sample_after_it(
    tailnet: Any, make_sample: type, silence: timedelta
) -> None:
    host_id, node_id = tailnet.add_host("alpha"), tailnet.add_node("one")
    before = datetime(2025, 1, 10, 12, 3, tzinfo=UTC)
    after = before + silence
    tailnet.add_samples(
        [make_sample(host_id, node_id, before, 100, 10), make_sample(host_id, node_id, after, 900, 15)]
    )
    tailnet.refresh()
    for width in ("1 minute", "5 minutes", "1 hour", "1 day"):
        answer = read_traffic(tailnet, after - timedelta(minutes=1), after + timedelta(minutes=1), width)
        assert answer == {(bucket_of(after, WIDTHS[width]), host_id, node_id): (800, 5, 0, 1)}, width


@pytest.mark.parametrize("minutes", [1, 6, 61, 1441])
def test_a_counter_that_outgrew_its_reset_counts_from_zero_with_the_other(
    tailnet: Any, make_sample: type, minutes: int
) -> None:
    host_id, node_id = tailnet.add_host("alpha"), tailnet.add_node("one")
    after = START + timedelta(minutes=minutes)
    tailnet.add_samples(
        [make_sample(host_id, node_id, START, 1000, 100), make_sample(host_id, node_id, after, 50, 200)]
    )
    tailnet.refresh()
    for width in ("1 minute", "5 minutes", "1 hour", "1 day"):
        answer = read_traffic(tailnet, after, after + timedelta(minutes=1), width)
        assert list(answer.values()) == [(50, 200, 1, 1)], width


def test_a_reset_is_counted_once_though_it_hits_both_counters(tailnet: Any, make_sample: type) -> None:
    host_id, node_id = tailnet.add_host("alpha"), tailnet.add_node("one")
    values = [(50, 60), (70, 80), (5, 6), (9, 9)]
    tailnet.add_samples(
        [
            make_sample(host_id, node_id, START + timedelta(hours=hour), rx, tx)
            for hour, (rx, tx) in enumerate(values)
        ]
    )
    answer = read_traffic(tailnet, "2026-01-28Z", "2026-01-29Z", "1 day")
    assert list(answer.values()) == [(20 + 5 + 4, 20 + 6 + 3, 1, 4)]


def test_sums_by_reporter_user_tag_and_tailnet_are_the_sums_of_the_peers(
    tailnet: Any, make_sample: type
) -> None:
    hosts = [tailnet.add_host("alpha"), tailnet.add_host("beta")]
    nodes = [
        tailnet.add_node("one", user_id=7, user_name="ann@example.com"),
        tailnet.add_node("two", user_id=8, user_name="tagged-devices", tags=["tag:db", "tag:web"]),
        tailnet.add_node("three", user_id=8, user_name="tagged-devices", tags=["tag:web"]),
    ]
    growth = {
        (h, n): 10**h_index * (n_index + 1)
        for h_index, h in enumerate(hosts)
        for n_index, n in enumerate(nodes)
    }
    tailnet.add_samples(
        [
            make_sample(h, n, START + timedelta(minutes=minute), minute * bytes_, 0)
            for (h, n), bytes_ in growth.items()
            for minute in (0, 1)
        ]
    )
    hour = START
    arguments = "(%s::timestamptz, %s::timestamptz)"
    window = (START, START + timedelta(hours=1))

    def read(function: str, columns: str) -> list[tuple[Any, ...]]:
        return tailnet.query(
            f"SELECT {columns}, tx_bytes, resets, samples FROM {function}{arguments}", *window
        )

    assert read("tailscale_traffic", "bucket, reporter, peer, rx_bytes") == [
        (hour, reporter, peer, 10**h * (n + 1), 0, 0, 2)
        for h, reporter in enumerate(("alpha", "beta"))
        for n, peer in enumerate(("one", "two", "three"))
    ]
    assert read("tailscale_traffic_by_reporter", "bucket, reporter, rx_bytes") == [
        (hour, "alpha", 6, 0, 0, 6),
        (hour, "beta", 60, 0, 0, 6),
    ]
    assert read("tailscale_traffic_by_user", "bucket, tailnet, user_name, user_id, rx_bytes") == [
        (hour, "example.ts.net", "ann@example.com", 7, 11, 0, 0, 4),
        (hour, "example.ts.net", "tagged-devices", 8, 55, 0, 0, 8),
    ]
    assert read("tailscale_traffic_by_tag", "bucket, tailnet, tag, rx_bytes") == [
        (hour, "example.ts.net", "tag:db", 22, 0, 0, 4),
        (hour, "example.ts.net", "tag:web", 55, 0, 0, 8),
        (hour, "example.ts.net", None, 11, 0, 0, 4),
    ]
    assert read("tailscale_traffic_by_tailnet", "bucket, tailnet, rx_bytes") == [
        (hour, "example.ts.net", 66, 0, 0, 12)
    ]


def test_counters_beyond_all_measure_spoil_no_refresh_and_no_other_peer(
    tailnet: Any, make_sample: type
) -> None:
    host_id = tailnet.add_host("alpha")
    columns = {"user_id": 7, "user_name": "ann@example.com", "tags": ["tag:a"]}
    wild, tame = (tailnet.add_node(name, **columns) for name in ("wild", "tame"))
    most = 2**63 - 1
    times = [START + timedelta(minutes=minute) for minute in (0, 3, 6, 9, 70, 2000, 2003)]
    for node_id, values in ((wild, [0, most] * 4), (tame, range(100, 170, 10))):
        tailnet.add_samples(
            [
                make_sample(host_id, node_id, time, value, value)
                for time, value in zip(times, values, strict=False)
            ]
        )
    for _ in ("from the samples", "from the aggregates"):
        answers = {
            width: tailnet.query(
                "SELECT peer, max(rx_bytes), sum(tx_bytes) FROM"
                " tailscale_traffic('2026-01-01Z', '2026-03-01Z', %s::interval) GROUP BY peer ORDER BY peer",
                width,
            )
            for width in ("1 minute", "1 hour", "1 day", "1 month")
        }
        assert [tuple(answer[0][::2]) for answer in answers.values()] == [("tame", 60)] * 4
        assert [answer[1][1] for answer in answers.values()] == [most] * 4
        for group in ("reporter", "user", "tag", "tailnet"):
            assert tailnet.query(
                "SELECT rx_bytes, tx_bytes, samples"
                f" FROM tailscale_traffic_by_{group}('2026-01-01Z', '2026-03-01Z', '1 month')"
            ) == [(most, most, 14)]
        for width in ("1 minute", "1 hour", "1 day"):
            assert tailnet.query(
                "SELECT sum(samples) FROM tailscale_presence('2026-01-01Z', '2026-03-01Z', %s::interval)",
                width,
            ) == [(14,)]
        tailnet.refresh()


COUNTED: dict[str, Callable[[Any], bool]] = {
    "samples": lambda sample: True,
    "online_samples": lambda sample: sample.online is True,
    "active_samples": lambda sample: sample.path not in (None, "idle"),
    "direct_samples": lambda sample: sample.path == "direct",
    "derp_samples": lambda sample: sample.path == "derp",
    "peer_relay_samples": lambda sample: sample.path == "peer_relay",
}


def presence(
    samples: list[Any], since: datetime, until: datetime, width: timedelta | None, within: timedelta
) -> dict[Any, tuple[int, ...]]:
    """What tailscale_presence must return, where buckets of `within` stay whole at the ends."""
    counts: dict[Any, list[int]] = defaultdict(lambda: [0] * len(COUNTED))
    for sample in samples:
        whole = bucket_of(sample.time, within) if within else sample.time
        if max(whole, since) < min(whole + within, until) or since <= whole < until:
            key = bucket_of(sample.time, width), sample.host_id, sample.node_id
            counts[key] = [
                count + matches(sample) for count, matches in zip(counts[key], COUNTED.values(), strict=True)
            ]
    return {key: tuple(row) for key, row in counts.items()}


WITHIN = {
    "1 minute": timedelta(0),
    "7 minutes": timedelta(0),
    "5 minutes": timedelta(minutes=5),
    "90 minutes": timedelta(minutes=5),
    "1 hour": timedelta(hours=1),
    "25 hours": timedelta(hours=1),
    "36 hours": timedelta(hours=1),
    "1 day": timedelta(days=1),
    "1 week": timedelta(days=1),
    "1 month": timedelta(days=1),
}


def test_presence_counts_each_sample_in_its_bucket(tailnet: Any, series: list[Any]) -> None:
    store_in_disorder(tailnet, series)
    for since, until in RANGES.values():
        for name, within in WITHIN.items():
            rows = tailnet.query(
                f"SELECT bucket, host_id, node_id, {', '.join(COUNTED)}"
                " FROM tailscale_presence(%s::timestamptz, %s::timestamptz, %s::interval)",
                since,
                until,
                name,
            )
            expected = presence(
                series, datetime.fromisoformat(since), datetime.fromisoformat(until), WIDTHS[name], within
            )
            assert {row[:3]: row[3:] for row in rows} == expected, (since, until, name)

"""Late documents reach the aggregates, and nothing that was rolled up is lost."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from ringstats_ts.errors import OutdatedSchema
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload, Receipt
from ringstats_ts.storage import upkeep
from ringstats_ts.storage.refresh import catch_up, merged, refresh, refresh_late, refresh_since

NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0) - timedelta(hours=1)
ROLLUPS = 4
"""Sources that have aggregates."""

LEVELS = ("tailscale_peers_5m", "tailscale_peers_hourly", "tailscale_peers_daily")


@pytest.fixture
def take(database, config, make_status):
    def take_one(age, rx_bytes):
        body = json.dumps(make_status(peers={"db": rx_bytes})).encode()
        ingest(Payload(body, datetime.now(UTC), time=NOW - age, backfill=True), database, config)

    return take_one


def samples(database):
    return [database.run(f"SELECT coalesce(sum(samples), 0) FROM {level}")[0][0] for level in LEVELS]


def make_due(database):
    database.run(
        "SELECT alter_job(job_id, next_start => now() - INTERVAL '1 minute')"
        " FROM timescaledb_information.jobs WHERE job_id >= 1000"
    )


def test_a_late_document_is_invisible_until_its_window_is_refreshed(database, take):
    take(timedelta(days=5), 1000)
    take(timedelta(days=1), 2000)
    refresh(database, "tailscale", NOW - timedelta(days=6), NOW)
    take(timedelta(days=4), 1500)
    assert samples(database) == [2, 2, 2]
    assert refresh_late(database) > 0
    assert samples(database) == [3, 3, 3]
    assert refresh_late(database) == 0


DIRECT = ("direct", {"Active": True, "CurAddr": "192.0.2.1:41641"})
PEER_RELAY = ("peer_relay", {"Active": True, "PeerRelay": "192.0.2.2:7777:vni:1"})
DERP = ("derp", {"Active": True, "Relay": "fra"})
IDLE = ("idle", {})
OFFLINE = ("offline", {"Online": False})
SEEN = (DIRECT, PEER_RELAY, PEER_RELAY, DERP, DERP, DERP, IDLE, OFFLINE)
"""No two kinds as often as each other, so that none is counted for another."""


@pytest.mark.parametrize("refreshed", [True, False], ids=["materialized", "on the fly"])
def test_every_level_counts_what_the_documents_say(database, config, make_status, refreshed):
    day = (NOW - timedelta(days=3)).replace(hour=12, minute=0)
    times = [day + timedelta(seconds=30 * number) for number in range(len(SEEN))]
    for number, (time, (_, fields)) in enumerate(zip(times, SEEN, strict=True)):
        counters = {"RxBytes": 1000 + 10 * number, "TxBytes": 5000 + 100 * number}
        handshake = {"LastHandshake": (time - timedelta(seconds=1)).isoformat()}
        document = make_status(peers={"db": counters | handshake | fields})
        ingest(Payload(json.dumps(document).encode(), datetime.now(UTC), time=time), database, config)
    assert database.run("SELECT path FROM tailscale_peers ORDER BY time") == [(path,) for path, _ in SEEN]
    if refreshed:
        refresh(database, "tailscale", day - timedelta(days=1), NOW)
    counted = {
        "rx_first": 1000,
        "rx_last": 1070,
        "rx_increase": 70,
        "tx_first": 5000,
        "tx_last": 5700,
        "tx_increase": 700,
        "resets": 0,
        "samples": 8,
        "online_samples": 7,
        "active_samples": 6,
        "direct_samples": 1,
        "derp_samples": 3,
        "peer_relay_samples": 2,
        "last_handshake": times[-1] - timedelta(seconds=1),
        "first_time": times[0],
        "last_time": times[-1],
    }
    for level, bucket in zip(LEVELS, (day, day, day.replace(hour=0)), strict=True):
        answer = database.read(f"SELECT * FROM {level}")
        [row] = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        ids = {name: row.pop(name) for name in ("host_id", "node_id", "key_first", "key_last")}
        assert row == {"bucket": bucket} | counted
        assert ids["key_first"] == ids["key_last"]


def test_a_loader_sees_at_once_what_it_loaded(database, take):
    take(timedelta(days=40), 1000)
    refresh(database, "tailscale", NOW - timedelta(days=41), NOW)
    ages = [timedelta(days=30), timedelta(days=3), timedelta(hours=5), timedelta(0)]
    for number, age in enumerate(ages):
        take(age, 2000 + number)
    refresh_since(database, [receipt(NOW - age) for age in ages])
    assert samples(database) == [5, 5, 5]


def receipt(time):
    return Receipt("an id", "tailscale", "gateway", time, rows=2, span=(time, time), rollup="tailscale")


def test_a_refresh_leaves_the_open_buckets_to_what_still_comes(database, take):
    now = datetime.now(UTC)
    take(NOW - now + timedelta(minutes=1), 1000)
    refresh(database, "tailscale", now - timedelta(days=1), now)
    take(NOW - now, 1100)
    assert samples(database) == [2, 2, 2]


@pytest.mark.parametrize("protected", [True, False], ids=["caught up", "not caught up"])
def test_rows_from_before_a_long_stop_stay_in_the_aggregates(database, take, protected):
    take(timedelta(days=9), 1000)
    take(timedelta(days=6), 2000)
    refresh(database, "tailscale", NOW - timedelta(days=10), NOW - timedelta(days=5))
    database.run("DELETE FROM late_windows")
    database.run(
        "INSERT INTO job_runs (job, started_at, finished_at) SELECT"
        " 'policy_refresh_continuous_aggregate tailscale_peers_5m', t, t FROM (VALUES (%(time)s)) AS r (t)",
        {"time": NOW - timedelta(days=5)},
    )
    # Not late when they came, half a day and an hour before the stop five days ago; one is
    # below what was refreshed, one above. Then a new start.
    take(timedelta(days=5, hours=12), 2000)
    take(timedelta(days=5, hours=1), 2000)
    database.run("DELETE FROM late_windows")
    take(timedelta(hours=5), 3000)
    if protected:
        # Of the others, which never ran, nothing is there to be refreshed.
        assert catch_up(database) == refresh_late(database) == ROLLUPS
        assert catch_up(database) == ROLLUPS
    make_due(database)
    upkeep.run_due_jobs(database)
    assert samples(database)[0] == (5 if protected else 3)
    assert catch_up(database) == 0


def test_a_refresh_does_not_reach_to_where_raw_rows_are_dropped(database, take):
    for days in (400, 399, 3):
        take(timedelta(days=days), days)
    refresh_late(database)
    assert samples(database) == [3, 3, 3]
    database.run("SELECT drop_chunks('tailscale_peers', older_than => INTERVAL '300 days')")
    refresh(database, "tailscale", NOW - timedelta(days=500), NOW)
    assert samples(database) == [3, 3, 3]


def jobs(database):
    ((count,),) = database.run(
        "SELECT count(*)::integer FROM timescaledb_information.jobs WHERE job_id >= 1000 AND scheduled"
    )
    return count


def test_due_jobs_run_once_bottom_up_and_are_recorded(database, take):
    take(timedelta(hours=3), 1000)
    make_due(database)
    assert upkeep.run_due_jobs(database) == jobs(database)
    assert upkeep.run_due_jobs(database) == 0
    runs = database.run(
        "SELECT job FROM job_runs WHERE job LIKE '%%refresh%%tailscale%%' ORDER BY started_at"
    )
    assert [job.split()[-1] for (job,) in runs] == list(LEVELS)
    well = database.run("SELECT count(*)::integer FROM job_runs WHERE error IS NULL AND runs = 1")
    assert well == [(jobs(database),)]


def test_a_failing_job_is_recorded_and_stops_no_other(database):
    database.run(
        "CREATE OR REPLACE PROCEDURE broken(job_id integer, config jsonb) LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'on purpose'; END $$"
    )
    ((job_id,),) = database.run("SELECT add_job('broken', INTERVAL '1 hour')")
    try:
        make_due(database)
        assert upkeep.run_due_jobs(database) == jobs(database) - 1
        assert database.run(
            "SELECT failures, error LIKE '%%on purpose%%' FROM job_runs WHERE job = 'broken'"
        ) == [(1, True)]
    finally:
        database.run("SELECT delete_job(%(job_id)s)", {"job_id": job_id})
        database.run("DROP PROCEDURE broken")


def test_vacuum_and_pruning_run(database, config, take):
    take(timedelta(0), 1)
    database.run("UPDATE receipts SET received_at = now() - INTERVAL '15 days'")
    upkeep.run_upkeep(database, config)
    upkeep.vacuum(database)
    assert database.run("SELECT count(*) FROM receipts") == [(0,)]
    assert database.run("SELECT count(*) FROM job_runs WHERE error IS NOT NULL") == [(0,)]


def test_a_window_whose_refresh_fails_stays(database, take):
    take(timedelta(days=4), 1000)
    windows = database.rows("late_windows")
    database.run(
        "INSERT INTO policies (relation, kind, source, level, after, until, every)"
        " VALUES ('of_nobody', 'refresh', 'tailscale', 9, '1 day', '1 hour', '1 hour')"
    )
    try:
        with pytest.raises(OutdatedSchema, match="of_nobody"):
            refresh_late(database)
        assert database.rows("late_windows") == windows != []
    finally:
        database.run("DELETE FROM policies WHERE relation = 'of_nobody'")
        database.close()
    assert (refresh_late(database), database.rows("late_windows")) == (len(windows), [])


def test_windows_are_joined_by_days():
    day = datetime(2026, 1, 1, tzinfo=UTC)
    hours = [timedelta(hours=h) for h in (1, 5, 30, 100)]
    assert merged([(day + h, day + h) for h in hours]) == [
        (day + hours[0], day + hours[2]),
        (day + hours[3], day + hours[3]),
    ]


def test_a_window_within_another_does_not_shorten_it():
    day, step = datetime(2026, 3, 1, tzinfo=UTC), timedelta(days=1)
    windows = [(day + 2 * step, day + 3 * step), (day, day + 9 * step), (day + 8 * step, day + 10 * step)]
    assert merged(windows) == [(day, day + 10 * step)]
    assert merged(windows[:2]) == [(day, day + 9 * step)]


def test_a_flood_of_late_documents_leaves_one_window(database, take):
    for minute in range(20):
        take(timedelta(days=4, minutes=minute), 1000 + minute)
    take(timedelta(days=9), 1)
    assert [
        until - since for _, _, since, until in sorted(database.rows("late_windows"), key=lambda w: w[2])
    ] == [
        timedelta(0),
        timedelta(minutes=19),
    ]


def test_a_window_that_comes_while_one_around_it_is_refreshed_stays(database):
    window = {"source": "tailscale", "since": NOW - timedelta(days=4), "until": NOW - timedelta(days=3)}
    database.rows("add_late_window", window)
    ((seen, *_),) = database.rows("late_windows")
    database.rows("add_late_window", window)
    database.rows("drop_late_windows", {"late_window_ids": [seen]})
    assert len(database.rows("late_windows")) == 1

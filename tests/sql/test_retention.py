"""What is dropped by age stays in the aggregates, and policies never look where nothing is left."""

from datetime import UTC, datetime, timedelta
from typing import Any

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def totals(tailnet: Any) -> dict[str, list[tuple[Any, ...]]]:
    return {
        relation: tailnet.query(f"SELECT * FROM {relation} ORDER BY bucket, host_id, node_id")
        for relation in ("tailscale_peers_5m", "tailscale_peers_hourly", "tailscale_peers_daily")
    }


def traffic(tailnet: Any, since: datetime, until: datetime) -> list[tuple[Any, ...]]:
    return tailnet.query(
        "SELECT bucket, rx_bytes, tx_bytes, resets, samples"
        " FROM tailscale_traffic(%s::timestamptz, %s::timestamptz, '1 day')",
        since,
        until,
    )


def test_dropping_samples_leaves_aggregates_and_traffic_as_they_were(tailnet: Any, make_sample: type) -> None:
    host_id, node_id = tailnet.add_host("alpha"), tailnet.add_node("one")
    tailnet.add_samples(
        [
            make_sample(host_id, node_id, DAY + timedelta(minutes=20 * i), 100 * (i % 500), 10 * (i % 500))
            for i in range(10 * 72)
        ]
    )
    tailnet.refresh()
    before = totals(tailnet)
    whole = traffic(tailnet, DAY, DAY + timedelta(days=10))
    first_kept_hour = traffic(tailnet, DAY + timedelta(days=5), DAY + timedelta(days=5, hours=1))
    assert [row[0] for row in whole] == [DAY + timedelta(days=day) for day in range(10)]
    assert sum(row[3] for row in whole) == 1

    tailnet.query(
        "SELECT drop_chunks('tailscale_peers', older_than => %s::timestamptz)", DAY + timedelta(days=5)
    )
    ((kept,),) = tailnet.query("SELECT min(time) FROM tailscale_peers")
    assert kept == DAY + timedelta(days=5)
    # As the policies do: a refresh begins inside what is kept.
    tailnet.refresh(DAY + timedelta(days=6), DAY + timedelta(days=10))

    assert totals(tailnet) == before
    assert traffic(tailnet, DAY, DAY + timedelta(days=10)) == whole
    assert traffic(tailnet, DAY + timedelta(days=5), DAY + timedelta(days=5, hours=1)) == first_kept_hour
    assert first_kept_hour[0][1] == 4 * 100 - 300 + 200, "the step from the dropped sample counts"


def test_policies_refresh_only_what_retention_has_kept(tailnet: Any) -> None:
    rows = tailnet.query(
        """
        SELECT refresh.relation, refresh.after, refresh.until,
            (SELECT after FROM policies WHERE kind = 'retention' AND relation = 'tailscale_peers'),
            (SELECT after FROM policies AS r WHERE r.kind = 'retention' AND r.relation = refresh.relation)
        FROM policies AS refresh
        WHERE refresh.kind = 'refresh' AND refresh.source = 'tailscale'
        ORDER BY refresh.level
        """
    )
    widths = {
        "tailscale_peers_5m": timedelta(minutes=5),
        "tailscale_peers_hourly": timedelta(hours=1),
        "tailscale_peers_daily": timedelta(days=1),
    }
    assert [row[0] for row in rows] == list(widths)
    one_chunk = timedelta(days=1)
    for relation, after, until, samples_kept, aggregate_kept in rows:
        assert after - until >= 2 * widths[relation], "a smaller window is refused"
        assert until >= widths[relation], "an unfinished bucket is left to real-time aggregation"
        assert samples_kept is None or after <= samples_kept - one_chunk
        assert aggregate_kept is None or samples_kept is None or aggregate_kept >= samples_kept

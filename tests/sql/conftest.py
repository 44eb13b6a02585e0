"""A tailnet written straight into the tables, so that SQL is tested apart from the ingest path."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

AGGREGATES = ("tailscale_peers_5m", "tailscale_peers_hourly", "tailscale_peers_daily")


@dataclass(frozen=True)
class Sample:
    host_id: int
    node_id: int
    time: datetime
    rx_bytes: int | None
    tx_bytes: int | None
    key_epoch: int | None = 1
    online: bool | None = True
    path: str | None = "direct"


@dataclass
class Tailnet:
    connection: Any

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def add_host(self, name: str, tailnet: str = "example.ts.net") -> int:
        ((host_id,),) = self.query(
            "INSERT INTO hosts (identity, name, tailnet, first_seen, last_seen)"
            " VALUES (%s, %s, %s, '2026-01-01Z', '2026-01-01Z') RETURNING host_id",
            f"name:{name}",
            name,
            tailnet,
        )
        return int(host_id)

    def add_node(self, name: str, **columns: Any) -> int:
        row = {
            "scope": "",
            "stable_id": f"n{name}CNTRL",
            "tailnet": "example.ts.net",
            "name": name,
            "first_seen": datetime(2026, 1, 1, tzinfo=UTC),
            "changed_at": datetime(2026, 1, 1, tzinfo=UTC),
        } | columns
        ((node_id,),) = self.query(
            f"INSERT INTO tailscale_nodes ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})"
            " RETURNING node_id",
            *row.values(),
        )
        return int(node_id)

    def add_samples(self, samples: list[Sample]) -> None:
        columns = list(zip(*[vars(sample).values() for sample in samples], strict=True))
        self.query(
            "INSERT INTO tailscale_peers (host_id, node_id, time, received_at, rx_bytes, tx_bytes,"
            " key_epoch, online, active, path, attribute_id)"
            " SELECT h, n, t, t, rx, tx, epoch, online, path <> 'idle', path, 1"
            " FROM unnest(%s::integer[], %s::integer[], %s::timestamptz[], %s::bigint[], %s::bigint[],"
            " %s::bigint[], %s::boolean[], %s::text[]) AS s (h, n, t, rx, tx, epoch, online, path)"
            " ON CONFLICT (host_id, node_id, time) DO UPDATE SET rx_bytes = excluded.rx_bytes,"
            " tx_bytes = excluded.tx_bytes, key_epoch = excluded.key_epoch",
            *[list(column) for column in columns],
        )

    def add_status(self, host_id: int, time: datetime, **columns: Any) -> None:
        row = {"host_id": host_id, "time": time, "received_at": time, "attribute_id": 1} | columns
        self.query(
            f"INSERT INTO tailscale_status ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})",
            *row.values(),
        )

    def add_change(self, table: str, **columns: Any) -> None:
        row = {"digest": b"\0"} | columns
        self.query(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})", *row.values()
        )

    def refresh(self, since: datetime | None = None, until: datetime | None = None) -> None:
        for aggregate in AGGREGATES:
            self.query(
                "CALL refresh_continuous_aggregate(%s, %s::timestamptz, %s::timestamptz)",
                aggregate,
                since,
                until,
            )


@pytest.fixture
def tailnet(connection: Any, clean: None) -> Tailnet:
    return Tailnet(connection)


@pytest.fixture
def make_sample() -> type[Sample]:
    return Sample

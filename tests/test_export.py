"""Export: what is stored comes out whole, once, by UTC day, in one schema."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ringstats_ts import export as export_module
from ringstats_ts.cli import main
from ringstats_ts.config import Config
from ringstats_ts.errors import ExportError, NotFound
from ringstats_ts.export import export
from ringstats_ts.export.parquet import TEMPORARY, locked
from ringstats_ts.export.wide import Spill, flatten
from ringstats_ts.ingest import ingest
from ringstats_ts.model import Payload
from ringstats_ts.sources import by_name
from ringstats_ts.storage.database import Database
from tests.steps import check_durable, recorded

TAILSCALE = by_name("tailscale")
DOCS = Path(__file__).parent.parent / "docs" / "export.md"
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

MakeStatus = Callable[..., dict[str, Any]]
Send = Callable[..., None]


@pytest.fixture
def send(database: Database, config: Config) -> Send:
    def send_status(status: dict[str, Any], time: datetime) -> None:
        ingest(
            Payload(orjson.dumps(status), received_at=time, time=time, source="tailscale"), database, config
        )

    return send_status


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE_ROWS", "PAGE_DOCUMENTS", "GROUP_ROWS"):
        monkeypatch.setattr(export_module, name, 2)


def parquet_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))


class TestRows:
    def test_writes_a_file_for_each_table_and_utc_day(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        midnight = datetime(2026, 1, 16, tzinfo=UTC)
        send(make_status(peers={"db": 1}), midnight - timedelta(microseconds=1))
        send(make_status(peers={"db": 2}), midnight)

        summary = export(TAILSCALE, database, tmp_path)

        assert parquet_under(tmp_path) == [
            "tailscale_node_changes/date=2026-01-15/tailscale_node_changes-20260115.parquet",
            "tailscale_peers/date=2026-01-15/tailscale_peers-20260115.parquet",
            "tailscale_peers/date=2026-01-16/tailscale_peers-20260116.parquet",
            "tailscale_status/date=2026-01-15/tailscale_status-20260115.parquet",
            "tailscale_status/date=2026-01-16/tailscale_status-20260116.parquet",
            "tailscale_status_changes/date=2026-01-15/tailscale_status_changes-20260115.parquet",
        ]
        assert sorted(str(path.relative_to(tmp_path)) for path in summary.files) == parquet_under(tmp_path)
        assert summary.bytes == sum(path.stat().st_size for path in summary.files)
        assert summary.rows == 2 + 2 + 2 + 1

    def test_a_file_stands_by_itself(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        peer = {
            "RxBytes": 2**63 - 1,
            "TxBytes": 7,
            "Tags": ["tag:a"],
            "CurAddr": "203.0.113.9:41641",
            "Active": True,
            "LastHandshake": "2026-01-15T18:59:58.123456+07:00",
        }
        send(make_status(peers={"db": peer}), NOON)
        export(TAILSCALE, database, tmp_path)

        (row,) = pq.read_table(tmp_path / "tailscale_peers").to_pylist()

        attributes = orjson.loads(row.pop("attributes"))
        assert attributes["Created"] == "2025-07-08T22:30:58.706639886Z"
        assert row.pop("node_id") is not None
        assert row.pop("key_epoch") is not None
        assert row == {
            "host_id": 1,
            "reporter": "gateway",
            "stable_id": "ndbCNTRL",
            "peer": "db",
            "tailnet": "tail0example.ts.net",
            "os": "linux",
            "user_name": "ana@example.com",
            "tags": ["tag:a"],
            "time": NOON,
            "received_at": NOON,
            "rx_bytes": 2**63 - 1,
            "tx_bytes": 7,
            "online": True,
            "active": True,
            "path": "direct",
            "relay": "fra",
            "peer_relay": None,
            "cur_addr": "203.0.113.9:41641",
            "last_handshake": datetime(2026, 1, 15, 11, 59, 58, 123456, tzinfo=UTC),
            "last_write": None,
            "last_seen": None,
            "in_engine": True,
            "exit_node": False,
            "date": "2026-01-15",
        }

    def test_every_file_of_a_table_has_one_schema(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        send(make_status(peers={"db": {"Tags": ["tag:a"], "Version": "1"}}), NOON)
        send(
            make_status(BackendState="", Health=None, peers={"db": {"Online": True}}),
            NOON + timedelta(days=1),
        )
        export(TAILSCALE, database, tmp_path)

        for table in TAILSCALE.tables:
            files = sorted((tmp_path / table).rglob("*.parquet"))
            schemas = [pq.read_schema(path) for path in files]
            assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
            dataset = ds.dataset(tmp_path / table, partitioning="hive")
            assert dataset.count_rows() == sum(pq.read_metadata(path).num_rows for path in files)
            assert dataset.to_table().num_rows == dataset.count_rows()

    def test_fields_carry_meaning_and_unit(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        send(make_status(), NOON)
        (path,) = (path for path in export(TAILSCALE, database, tmp_path).files if "peers" in path.name)

        schema = pq.read_schema(path)

        assert schema.field("rx_bytes").type == pa.int64()
        assert schema.field("time").type == pa.timestamp("us", tz="UTC")
        assert schema.field("path").type == pa.dictionary(pa.int32(), pa.string())
        assert schema.field("rx_bytes").metadata[b"unit"] == b"bytes"
        assert b"received from the peer" in schema.field("rx_bytes").metadata[b"meaning"]
        assert all(b"meaning" in field.metadata for field in schema)

    @pytest.mark.usefixtures("small_pages")
    def test_pages_lose_and_repeat_nothing(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        told: list[tuple[str, int]] = []
        for number in range(5):
            for host in ("one", "two", "three"):
                send(make_status(host, {"a": number, "b": number}), NOON + number * MINUTE)
        database.run("SELECT compress_chunk(chunk) FROM show_chunks('tailscale_peers') AS chunk")
        send(make_status("one", {"a": 9, "b": 9}), NOON + 9 * MINUTE)

        export(TAILSCALE, database, tmp_path, progress=lambda *page: told.append(page))

        stored = database.run("SELECT host_id, node_id, time, rx_bytes FROM tailscale_peers ORDER BY 1, 2, 3")
        table = pq.read_table(
            tmp_path / "tailscale_peers", columns=["host_id", "node_id", "time", "rx_bytes"]
        )
        assert [tuple(row.values()) for row in table.to_pylist()] == stored
        assert len(stored) == 32
        assert sum(rows for label, rows in told if label == "tailscale_peers 2026-01-15") == 32
        assert max(rows for _, rows in told) == 2

    def test_nothing_and_the_empty_text_stay_apart(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        health = ["", 'a "quoted", {braced} \\ line\r\nand another', "NULL", "grüße"]
        send(make_status(Health=health), NOON)
        send(make_status(Health=None), NOON + MINUTE)
        send(make_status(Health=[]), NOON + 2 * MINUTE)
        database.run("UPDATE hosts SET name = ''")
        database.run("UPDATE tailscale_nodes SET os = NULL")

        export(TAILSCALE, database, tmp_path)

        rows = pq.read_table(tmp_path / "tailscale_status").to_pylist()
        assert [row["health"] for row in rows] == [health, None, []]
        assert {(row["reporter"], row["os"]) for row in rows} == {("", None)}

    def test_takes_since_and_leaves_until(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        for number in range(4):
            send(make_status(), NOON + number * MINUTE)

        export(TAILSCALE, database, tmp_path, since=NOON + MINUTE, until=NOON + 3 * MINUTE)

        times = pq.read_table(tmp_path / "tailscale_status").column("time").to_pylist()
        assert times == [NOON + MINUTE, NOON + 2 * MINUTE]

    def test_exports_one_host_alone(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        send(make_status("one"), NOON)
        send(make_status("two"), NOON)

        export(TAILSCALE, database, tmp_path, host="two")

        for table in TAILSCALE.tables:
            assert set(pq.read_table(tmp_path / table).column("reporter").to_pylist()) == {"two"}

    def test_refuses_an_unknown_host(self, database: Database, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="No host 'nobody'"):
            export(TAILSCALE, database, tmp_path, host="nobody")

    def test_pandas_keeps_counters_exact_beside_missing_ones(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        send(make_status(peers={"a": 2**53 + 1, "b": 1}), NOON)
        database.run("UPDATE tailscale_peers SET rx_bytes = NULL WHERE rx_bytes = 1")
        export(TAILSCALE, database, tmp_path)

        frame = pd.read_parquet(tmp_path / "tailscale_peers")

        assert frame["rx_bytes"].dtype == "Int64"
        assert frame["rx_bytes"].sum() == 2**53 + 1
        assert frame["rx_bytes"].isna().sum() == 1


class TestWide:
    def test_the_example_lines_of_tailscale_stats_work(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        for number in range(3):
            status = make_status(peers={"db": number * 1000}, Health=["low"] * number)
            status["Self"] |= {"Online": number != 1, "RxBytes": 0}
            send(status, NOON + number * timedelta(days=1))
        export(TAILSCALE, database, tmp_path, layout="wide")
        stats = tmp_path / "2026" / "01"

        df = pd.read_parquet(stats / "tailscale-status-20260116.parquet")
        assert len(df.head()) == 1
        assert df[["_timestamp", "Self_RxBytes", "Self_TxBytes"]].to_numpy().tolist() == [
            ["2026-01-16T12:00:00.000000+00:00", 0, 0]
        ]
        assert df[["_timestamp", "Self_Online"]].to_numpy().tolist() == [
            ["2026-01-16T12:00:00.000000+00:00", False]
        ]
        offline = df[~df["Self_Online"]]
        assert len(offline) == 1
        assert df["Self_RxBytes"].max() == df["Self_TxBytes"].sum() == 0

        files = sorted(stats.glob("*.parquet"))
        assert [path.name for path in files] == [
            f"tailscale-status-202601{day}.parquet" for day in (15, 16, 17)
        ]
        dfs = [pd.read_parquet(f) for f in files]
        combined_df = pd.concat(dfs, ignore_index=True)
        db = f"Peer_nodekey:{b'db'.hex():0>64}_RxBytes"
        assert combined_df[db].tolist() == [0, 1000, 2000]
        assert combined_df.describe()[db]["mean"] == 1000
        assert combined_df["User_1_LoginName"].tolist() == ["ana@example.com"] * 3
        assert combined_df["Health_1"].dropna().tolist() == ["low"]
        assert combined_df["Self_AllowedIPs_0"].tolist() == ["100.64.0.9/32"] * 3

    @pytest.mark.usefixtures("small_pages")
    def test_a_row_is_the_document_flattened(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        for number in range(5):
            send(make_status(peers={f"p{number}": number}), NOON + number * MINUTE)
        (path,) = export(TAILSCALE, database, tmp_path, layout="wide").files

        rows = pq.read_table(path).to_pylist()

        documents = database.run(
            "SELECT time, tailscale_document(host_id, time) FROM tailscale_status ORDER BY 1"
        )
        assert [{name: value for name, value in row.items() if value is not None} for row in rows] == [
            {name: value for name, value in flatten(document) if value is not None}
            | {"_timestamp": time.isoformat(timespec="microseconds")}
            for time, document in documents
        ]

    def test_each_of_several_hosts_has_a_folder(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        for host in ("one", "two", "three"):
            send(make_status(host), NOON)
        database.run("UPDATE hosts SET name = '../../x' WHERE host_id = 2")
        database.run("UPDATE hosts SET name = 'one' WHERE host_id = 3")

        export(TAILSCALE, database, tmp_path / "all", layout="wide")
        export(TAILSCALE, database, tmp_path / "single", layout="wide", host="../../x")

        file = "2026/01/tailscale-status-20260115.parquet"
        assert parquet_under(tmp_path) == [
            f"all/_.._x/{file}",
            f"all/one~1/{file}",
            f"all/one~3/{file}",
            f"single/{file}",
        ]

    def test_a_source_without_the_layout_says_so(self, database: Database, tmp_path: Path) -> None:
        class Other:
            name = "other"

        with pytest.raises(ExportError, match="has no wide layout"):
            export(Other(), database, tmp_path, layout="wide")  # type: ignore[arg-type]


class TestDocs:
    def test_the_examples_in_the_docs_run(
        self,
        database: Database,
        send: Send,
        make_status: MakeStatus,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        send(make_status(), NOON)
        send(make_status(), NOON + timedelta(days=330))
        monkeypatch.chdir(tmp_path)
        export(TAILSCALE, database, Path("parquet"))
        export(TAILSCALE, database, Path("stats"), layout="wide", host="gateway")
        text = DOCS.read_text(encoding="utf-8")
        names: dict[str, Any] = {}

        for example in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            exec(example, names)

        assert len(names["peers"]) == 2
        assert len(names["december"]) == 1
        assert len(names["combined_df"]) == 1


class TestColumns:
    def test_flattens_by_the_rules_of_tailscale_stats(self) -> None:
        document = {"a": {"b": [1, {"c": None}], "e": [], "f": {}}, "g": "x"}
        assert dict(flatten(document)) == {"a_b_0": 1, "a_b_1_c": None, "g": "x"}

    @pytest.mark.parametrize(
        ("values", "kind", "read"),
        [
            ([1, None, 2**63 - 1], pa.int64(), [1, None, 2**63 - 1]),
            ([True, None], pa.bool_(), [True, None]),
            ([51, 51.5], pa.float64(), [51.0, 51.5]),
            ([2**53 + 1, 0.5], pa.string(), ["9007199254740993", "0.5"]),
            ([1, 2**63], pa.string(), ["1", "9223372036854775808"]),
            ([1, "x", True, None], pa.string(), ["1", "x", "true", None]),
            ([True, 1], pa.string(), ["true", "1"]),
            ([None, None], pa.string(), [None, None]),
        ],
    )
    def test_a_column_takes_the_type_that_holds_all_its_values(
        self, values: list[Any], kind: pa.DataType, read: list[Any], tmp_path: Path
    ) -> None:
        with (tmp_path / "spill").open("w+b") as file:
            spill = Spill(file)
            for value in values:
                spill.add({"column": value})
            assert spill.schema == pa.schema([("column", kind)])
            assert pa.concat_tables(spill.tables()).column(0).to_pylist() == read

    def test_columns_may_come_late_and_go(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ringstats_ts.export.wide.CELLS", 4)
        with (tmp_path / "spill").open("w+b") as file:
            spill = Spill(file)
            for record in ({"b": 1}, {"a": 2, "b": 3}, {"a": 4}):
                spill.add(record)
            tables = list(spill.tables())
        assert [table.num_rows for table in tables] == [2, 1]
        assert pa.concat_tables(tables).to_pydict() == {"a": [None, 2, 4], "b": [1, 3, None]}


KILLED_AT_PAGE = """
import os, signal, sys
from pathlib import Path
from ringstats_ts import export as module
from ringstats_ts.sources import by_name
from ringstats_ts.storage.database import Database

module.PAGE_ROWS = module.PAGE_DOCUMENTS = module.GROUP_ROWS = 1
pages = int(sys.argv[4])

def count(label, rows):
    global pages
    pages -= 1
    if pages == 0:
        os.kill(os.getpid(), signal.SIGKILL)

with Database(sys.argv[1]) as database:
    module.export(by_name("tailscale"), database, Path(sys.argv[2]), layout=sys.argv[3], progress=count)
"""


class TestFiles:
    @pytest.mark.parametrize(("layout", "page"), [("rows", 4), ("rows", 9), ("wide", 4)])
    def test_a_killed_export_leaves_whole_files_only(
        self,
        database: Database,
        database_uri: str,
        send: Send,
        make_status: MakeStatus,
        tmp_path: Path,
        layout: Any,
        page: int,
    ) -> None:
        for number in range(6):
            send(make_status(peers={"db": number}), NOON + number * MINUTE)

        script = [sys.executable, "-c", KILLED_AT_PAGE, database_uri, str(tmp_path), layout, str(page)]
        ended = subprocess.run(script, check=False, timeout=60)

        assert ended.returncode == -signal.SIGKILL
        assert list(tmp_path.rglob(f"{TEMPORARY}*"))
        whole = list(tmp_path.rglob("*.parquet"))
        assert len(whole) == (page - 1) // 6
        assert all(pq.read_table(path).num_rows == 6 for path in whole)

        files = export(TAILSCALE, database, tmp_path, layout=layout).files
        assert not list(tmp_path.rglob(f"{TEMPORARY}*"))
        assert sorted(files) == sorted(tmp_path.rglob("*.parquet"))

    @pytest.mark.parametrize("layout", ["rows", "wide"])
    def test_a_file_is_on_the_disk_before_it_has_its_name(
        self,
        database: Database,
        send: Send,
        make_status: MakeStatus,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        layout: Any,
    ) -> None:
        send(make_status(), NOON)
        with recorded(monkeypatch) as steps:
            files = export(TAILSCALE, database, tmp_path / "new" / "folder", layout=layout).files
        assert files
        for path in files:
            check_durable(steps, path)
        for folder in {path.parent for path in files} | {tmp_path / "new" / "folder", tmp_path / "new"}:
            assert ("fsync", folder.parent, None) in steps

    def test_exporting_again_replaces_the_day(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        send(make_status(), NOON)
        first = export(TAILSCALE, database, tmp_path)
        send(make_status(), NOON + MINUTE)
        second = export(TAILSCALE, database, tmp_path)

        assert second.files == first.files
        assert pq.read_table(tmp_path / "tailscale_status").num_rows == 2

    @pytest.mark.parametrize("layout", ["rows", "wide"])
    def test_a_full_disk_leaves_the_file_that_was_there(
        self, database: Database, send: Send, make_status: MakeStatus, tmp_path: Path, layout: Any
    ) -> None:
        send(make_status(), NOON)
        files = export(TAILSCALE, database, tmp_path, layout=layout).files
        before = {path: path.read_bytes() for path in files}
        send(make_status(), NOON + MINUTE)

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        try:
            with pytest.raises(ExportError, match="cannot be written") as caught:
                export(TAILSCALE, database, tmp_path, layout=layout)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        assert "Make room" in str(caught.value)
        assert {path: path.read_bytes() for path in files} == before
        assert not list(tmp_path.rglob(f"{TEMPORARY}*"))

    def test_a_place_that_is_no_directory_is_named(self, database: Database, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(ExportError, match="file cannot be written: File exists"):
            export(TAILSCALE, database, tmp_path / "file" / "out")

    def test_two_exports_do_not_share_a_directory(self, database: Database, tmp_path: Path) -> None:
        with locked(tmp_path), pytest.raises(ExportError, match="Another export is writing"):
            export(TAILSCALE, database, tmp_path)
        export(TAILSCALE, database, tmp_path)


class TestCommand:
    @pytest.fixture
    def tsstats(self, database_uri: str) -> Callable[..., Any]:
        def invoke(*arguments: str) -> Any:
            environment = {"DATABASE_URI": database_uri}
            return CliRunner().invoke(main, ["export", *arguments], env=environment, catch_exceptions=False)

        return invoke

    def test_tells_what_it_wrote(
        self, tsstats: Callable[..., Any], send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        send(make_status(), NOON)
        result = tsstats("--out", str(tmp_path), "--since", "2026-01-15", "--until", "2026-01-16")
        assert result.exit_code == 0
        assert result.stderr == ""
        assert result.stdout.startswith("5 rows in 4 files (0.")
        assert result.stdout.endswith(f" MB) under {tmp_path}\n")

    def test_tells_machines_in_json(
        self, tsstats: Callable[..., Any], send: Send, make_status: MakeStatus, tmp_path: Path
    ) -> None:
        send(make_status(), NOON)
        result = tsstats("--out", str(tmp_path), "--layout", "wide", "--host", "gateway", "--json")
        path = tmp_path / "2026" / "01" / "tailscale-status-20260115.parquet"
        assert orjson.loads(result.stdout) == {
            "files": [str(path)],
            "rows": 1,
            "bytes": path.stat().st_size,
        }

    @pytest.mark.usefixtures("clean")
    def test_nothing_stored_is_no_failure(self, tsstats: Callable[..., Any], tmp_path: Path) -> None:
        result = tsstats("--out", str(tmp_path))
        assert (result.exit_code, result.stdout) == (0, "Nothing is stored for that; no file was written.\n")

    @pytest.mark.usefixtures("clean")
    def test_a_failure_ends_with_1_and_a_sentence(self, tsstats: Callable[..., Any], tmp_path: Path) -> None:
        result = tsstats("--out", str(tmp_path), "--host", "nobody")
        assert result.exit_code == 1
        assert "No host 'nobody'" in result.stderr

    def test_a_range_that_ends_before_it_begins_is_a_usage_error(
        self, tsstats: Callable[..., Any], tmp_path: Path
    ) -> None:
        result = tsstats("--out", str(tmp_path), "--since", "2026-01-16", "--until", "2026-01-15")
        assert result.exit_code == 2
        assert "before --until" in result.stderr

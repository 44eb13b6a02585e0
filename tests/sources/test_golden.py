"""Golden cases: `<source>/<case>/payload.*` becomes `expected.json`, or is refused as `expected-error.json`.

A `context.json` beside them says what the sender said: host, time, file_time. To accept
what the code does now: `TSSTATS_WRITE_GOLDEN=1 pytest tests/sources/test_golden.py`,
then read the diff.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringstats_ts.decode import documents
from ringstats_ts.errors import PayloadError
from ringstats_ts.model import Attributes, Batch, Context, Entity
from ringstats_ts.sources import detect

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/*/payload.*"))
RECEIVED_AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_payload_becomes_what_is_expected(case: Path) -> None:
    (payload,) = case.glob("payload.*")
    try:
        expected, got = case / "expected.json", as_json(read(payload, context_of(case)))
    except PayloadError as error:
        got = {"error": error.code, "message": error.message, "pointer": error.pointer, "line": error.line}
        expected = case / "expected-error.json"
    if os.environ.get("TSSTATS_WRITE_GOLDEN"):
        expected.write_bytes(orjson.dumps(got, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    assert sorted(path.name for path in case.glob("expected*")) == [expected.name]
    assert got == orjson.loads(expected.read_bytes())


def test_there_are_cases_of_both_kinds() -> None:
    assert list(HERE.glob("tailscale/*/expected.json"))
    assert list(HERE.glob("tailscale/*/expected-error.json"))


def context_of(case: Path) -> Context:
    path = case / "context.json"
    said = orjson.loads(path.read_bytes()) if path.exists() else {}
    times = {key: datetime.fromisoformat(said[key]) for key in ("time", "file_time") if key in said}
    return Context(RECEIVED_AT, host=said.get("host"), sender="192.0.2.1", **times)


def read(payload: Path, context: Context) -> Batch:
    (document,) = documents(payload.read_bytes(), max_documents=1, max_depth=64)
    return detect(document.value).parse(document.value, context)


def as_json(batch: Batch) -> dict[str, Any]:
    return {
        "source": batch.source,
        "host": {name: getattr(batch.host, name) for name in ("identity", "name", "tailnet", "stable_id")},
        "time": plain(batch.time),
        "time_known": batch.time_known,
        "rows": {
            part.table: [
                {column: plain(cell) for column, cell in zip(part.columns, row, strict=True)}
                for row in part.rows
            ]
            for part in batch.rows
        },
        "changes": {
            part.table: [
                {"entity": plain(entity), "facts": {name: plain(fact) for name, fact in facts.items()}}
                for entity, _, facts in part.rows
            ]
            for part in batch.changes
        },
        "drift": list(batch.drift),
        "warnings": list(batch.warnings),
    }


def plain(cell: Any) -> Any:
    if isinstance(cell, Entity):
        return {"entity": [cell.dimension, *cell.key], **cell.fields}
    if isinstance(cell, Attributes):
        return dict(cell.document)
    return cell.isoformat().replace("+00:00", "Z") if isinstance(cell, datetime) else cell

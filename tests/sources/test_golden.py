"""Golden cases: `<source>/<case>/payload.*` becomes `expected.json`, or is refused as `expected-error.json`.

A `context.json` beside them says what the sender said: host, time, file_time. What is good is
recognised without its source being named, and refused by every other source.

To accept what the code does now: `TSSTATS_WRITE_GOLDEN=1 pytest tests/sources/test_golden.py`,
then read the diff.
"""

import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringstats_ts.config import Config
from ringstats_ts.errors import PayloadError, UnknownSource
from ringstats_ts.ingest import parse
from ringstats_ts.model import Attributes, Batch, Entity, Payload
from ringstats_ts.sources import SOURCES, by_name

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/*/payload.*"))
RECEIVED_AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


# A key that nobody else has: ids of events and pseudonyms are the same everywhere.
CONFIG = Config.from_env({"TSSTATS_CLIENT_KEY": "golden cases alone use this"}, database_uri="")
GOOD = [case for case in CASES if (case / "expected.json").exists()]


def name(case: Path) -> str:
    return f"{case.parent.name}-{case.name}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_payload_becomes_what_is_expected(case: Path) -> None:
    try:
        expected, got = case / "expected.json", as_json(read(case, case.parent.name))
    except PayloadError as error:
        got = {"error": error.code, "message": error.message, "pointer": error.pointer, "line": error.line}
        expected = case / "expected-error.json"
    if os.environ.get("TSSTATS_WRITE_GOLDEN"):
        expected.write_bytes(orjson.dumps(got, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    assert sorted(path.name for path in case.glob("expected*")) == [expected.name]
    assert got == orjson.loads(expected.read_bytes())


@pytest.mark.parametrize("case", GOOD, ids=name)
def test_its_source_is_recognised_and_every_other_one_refuses_it(case: Path) -> None:
    source = by_name(case.parent.name)
    assert as_json(read(case, None)) == as_json(read(case, source.name))
    for other in SOURCES:
        if other is not source:
            with pytest.raises(UnknownSource) as refused:
                read(case, other.name)
            assert (
                refused.value.message == f"The document is not {other.looks}: it looks like {source.looks}."
            )
            assert refused.value.hint == f"Name the source `{source.name}`, or none."


def test_every_source_has_cases_of_both_kinds() -> None:
    for source in SOURCES:
        assert list(HERE.glob(f"{source.name}/*/expected.json")), source.name
        assert list(HERE.glob(f"{source.name}/*/expected-error.json")), source.name


def read(case: Path, source: str | None) -> Batch:
    (payload,) = case.glob("payload.*")
    path = case / "context.json"
    said = orjson.loads(path.read_bytes()) if path.exists() else {}
    times = {key: datetime.fromisoformat(said[key]) for key in ("time", "file_time") if key in said}
    sent = {"host": said.get("host"), "sender": "192.0.2.1", "origin": "192.0.2.1", **times}
    parsed = parse(Payload(payload.read_bytes(), RECEIVED_AT, source, **sent), CONFIG)
    (batch,) = parsed.batches.values()
    return batch


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
        **as_log(batch),
        "drift": list(batch.drift),
        "warnings": list(batch.warnings),
    }


def as_log(batch: Batch) -> dict[str, Any]:
    """What only logs have, and what else brings times of its own."""
    if not batch.events:
        return {}
    return {
        "events": {
            part.table: [
                {column: plain(cell) for column, cell in zip(part.columns, row, strict=True)}
                for row in part.rows
            ]
            for part in batch.events
        },
        "bad_lines": [
            {
                "number": line.number,
                "text": line.text.decode("latin-1"),
                "reason": line.reason,
                "cut": line.cut,
            }
            for line in batch.bad_lines
        ],
    }


def plain(cell: Any) -> Any:
    if isinstance(cell, Entity):
        return {"entity": [cell.dimension, *cell.key], **cell.fields}
    if isinstance(cell, Attributes):
        return dict(cell.document)
    if isinstance(cell, Decimal):
        return str(cell)
    return cell.isoformat().replace("+00:00", "Z") if isinstance(cell, datetime) else cell

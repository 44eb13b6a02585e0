"""Times as senders write them."""

from datetime import UTC, datetime

import pytest

from ringstats_ts.errors import BadParameter
from ringstats_ts.times import parse_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T12:00:00 02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T12:00:00-0330", datetime(2026, 1, 31, 15, 30, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456789Z", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-31T12:00:00.5+14:00", datetime(2026, 1, 30, 22, 0, 0, 500000, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01 08:59:60.5+09:00", datetime(2017, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)),
        ("1769860800", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("1769860800.123456789", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
        ("-0.5", datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=UTC)),
    ],
)
def test_reads(text, expected):
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-02-30T12:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:00:61Z",
        "2026-01-31T12:00:00+99:00",
        "2026-01-31T12:00:00.1234567890Z",
        "9999-12-31T23:59:59-23:59",
        "1769860800000",
        "1e9",
        "nan",
        "٢٠٢٦-01-31T12:00:00Z",
    ],
)
def test_refuses(text):
    with pytest.raises(BadParameter, match="RFC 3339"):
        parse_time(text)

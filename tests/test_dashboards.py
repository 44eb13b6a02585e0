"""Every dashboard is provisionable, says what it shows, and each of its queries returns rows on real data."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROVISIONING = ROOT / "grafana"
DASHBOARDS = sorted([ROOT / "grafana-dashboard.json", *PROVISIONING.glob("**/*.json")])
# Grafana's own: no parenthesis inside the arguments of a macro.
MACRO = re.compile(r"\$(__\w+)\(([^)]*)\)")
UNITS = {
    *("none", "short", "percentunit", "bytes", "bps", "Bps", "pps", "ops", "cps", "s", "d"),
    *("dateTimeAsIso", "bool_on_off"),
}


@dataclass(frozen=True)
class Sample:
    """What a dashboard is tried on: a file of `tests/dashboards`, and the variables that it makes."""

    file: str
    aggregates: Mapping[str, str]
    """Those that are refreshed, up to this age."""
    choices: Mapping[str, list[str]]


SAMPLES = {
    "ringstats-tailnet": Sample(
        "tailscale.sql",
        {
            "tailscale_peers_5m": "5 minutes",
            "tailscale_peers_hourly": "1 hour",
            "tailscale_peers_daily": "1 day",
        },
        {"reporter": ["alpha", "beta"], "peer": [f"peer'{i}" for i in range(1, 11)]},
    ),
    "ringstats-ringserver": Sample(
        "ringserver.sql",
        {"ringserver_transfers_hourly": "1 hour", "ringserver_transfers_daily": "1 day"},
        {
            "ringserver": ["ring-1", "ring-2"],
            "network": ["FR", "G", "XK2026", "none"],
            "direction": ["rx", "tx"],
        },
    ),
    "ringstats-hosts": Sample("hosts.sql", {"samples_hourly": "1 hour"}, {"host": ["alpha", "beta"]}),
    "ringstats-accesslog": Sample(
        "accesslog.sql",
        {"http_requests_1m": "2 minutes"},
        {"host": ["web-1", "web-2"], "virtual_host": ["none", "www.example.org:443"]},
    ),
}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield panel, target


@dataclass(frozen=True)
class View:
    """A dashboard as it is looked at: a range of time, its interval, and what is chosen."""

    until: datetime
    range: timedelta = timedelta(hours=6)
    interval: str = "30s"
    variables: Mapping[str, list[str]] | None = None

    def expand(self, sql: str) -> str:
        """Expand variables, then macros, as Grafana's PostgreSQL data source does."""
        for name, values in (self.variables or {}).items():
            quoted = ",".join("'" + value.replace("'", "''") + "'" for value in values)
            sql = re.sub(rf"\${name}\b", lambda _, quoted=quoted: quoted, sql)
        sql = MACRO.sub(self._macro, sql.replace("$__interval", self.interval))
        assert not re.search(r"\$\{?\w", sql), f"not expanded: {sql}"
        return sql

    def _macro(self, match: re.Match[str]) -> str:
        since, until = (f"'{t:%Y-%m-%dT%H:%M:%SZ}'" for t in (self.until - self.range, self.until))
        if match[1] == "__timeFilter":
            return f"{match[2]} BETWEEN {since} AND {until}"
        return {"__timeFrom": since, "__timeTo": until}[match[1]]


@dataclass(frozen=True)
class Stored:
    """The sample of a dashboard in the database, and the time of its insertion."""

    cursor: Any
    now: datetime
    dashboard: dict[str, Any]

    def choices(self, view: View) -> dict[str, list[str]]:
        """What the variables list; with names that come in any order that a database may have."""
        found = {}
        for variable in self.dashboard["templating"]["list"]:
            if variable["type"] == "query":
                self.cursor.execute(view.expand(variable["query"]))
                found[variable["name"]] = sorted(row[0] for row in self.cursor.fetchall())
        return found

    def view(self, range_: timedelta = View.range, interval: str = View.interval) -> View:
        """All that can be chosen in a range of time that ends when the sample does."""
        chosen = self.choices(View(self.now, range_))
        return View(self.now, range_, interval, chosen)

    def answers(self, view: View, type_: str) -> dict[str, list[tuple[Any, ...]]]:
        """What the panels of a type show, by title."""
        found = {}
        for panel, target in queries(self.dashboard):
            if panel["type"] == type_:
                self.cursor.execute(view.expand(target["rawSql"]))
                found[panel["title"]] = self.cursor.fetchall()
        return found

    def stats(self) -> dict[str, tuple[Any, ...]]:
        """The answers of the stat panels for six hours."""
        return {title: row for title, (row,) in self.answers(self.view(), "stat").items()}


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.name)
def dashboard(request: pytest.FixtureRequest) -> Any:
    return json.loads(request.param.read_text())


@pytest.fixture
def stored(connection: Any, clean: None, dashboard: dict[str, Any]) -> Iterator[Stored]:
    sample = SAMPLES[dashboard["uid"]]
    with connection.cursor() as cursor:
        # In one transaction, so that the sample and the test have one time.
        cursor.execute((ROOT / "tests/dashboards" / sample.file).read_text() + "; SELECT now()")
        (now,) = cursor.fetchone()
        for relation, age in sample.aggregates.items():
            cursor.execute(f"CALL refresh_continuous_aggregate('{relation}', NULL, now() - INTERVAL '{age}')")
        # As Grafana's login is a member of it.
        cursor.execute("SET ROLE tsstats_reader")
        yield Stored(cursor, now, dashboard)


def only(name: str) -> Any:
    return pytest.mark.parametrize("dashboard", [ROOT / name], indirect=True, ids=lambda path: path.name)


def test_a_file_can_be_provisioned(dashboard: dict[str, Any]) -> None:
    assert {"__inputs", "id"}.isdisjoint(dashboard)
    assert dashboard["uid"]
    assert 39 <= dashboard["schemaVersion"] <= 42
    assert (dashboard["editable"], dashboard["timezone"], dashboard["graphTooltip"]) == (False, "browser", 1)
    variables = dashboard["templating"]["list"]
    assert [(v["name"], v["label"]) for v in variables if v["type"] == "datasource"] == [
        ("datasource", "Data source")
    ]
    assert {v["refresh"] for v in variables if v["type"] == "query"} == {2}
    references = re.findall(r'"uid": "([^"]*)"', json.dumps(dashboard))
    assert set(references) == {"${datasource}", dashboard["uid"]}


def test_each_dashboard_has_a_name_of_its_own_and_leads_to_the_others() -> None:
    dashboards = [json.loads(path.read_text()) for path in DASHBOARDS]

    assert sorted(dashboard["uid"] for dashboard in dashboards) == sorted(SAMPLES)
    assert len({dashboard["title"] for dashboard in dashboards}) == len(dashboards)
    for dashboard in dashboards:
        (link,) = dashboard["links"]
        assert (link["type"], link["keepTime"]) == ("dashboards", True)
        assert all(set(link["tags"]) <= set(other["tags"]) for other in dashboards)


def test_every_panel_says_what_it_shows_and_in_which_unit(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        if panel["type"] == "row":
            continue
        title, defaults = panel["title"], panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith("."), title
        assert defaults["unit"] in UNITS, title
        assert defaults["thresholds"]["steps"][0]["value"] is None, title
        assert panel["targets"], title
        assert panel["datasource"]["uid"] == "${datasource}", title


def test_panels_have_ids_and_places_of_their_own(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(ids) == len(set(ids))
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_variables_list_what_there_is(stored: Stored) -> None:
    expected = SAMPLES[stored.dashboard["uid"]].choices
    assert stored.choices(View(stored.now)) == {name: sorted(values) for name, values in expected.items()}


@pytest.mark.parametrize(
    ("range_", "interval"),
    [(timedelta(hours=6), "30s"), (timedelta(days=2), "5m"), (timedelta(days=30), "1h")],
)
def test_every_panel_returns_rows(stored: Stored, range_: timedelta, interval: str) -> None:
    view = stored.view(range_, interval)
    for panel, target in queries(stored.dashboard):
        title = panel["title"]
        stored.cursor.execute(view.expand(target["rawSql"]))
        columns = [column.name for column in stored.cursor.description]
        rows = stored.cursor.fetchall()
        assert rows, title
        if target["format"] == "time_series":
            assert columns[:2] == ["time", "metric"], title
            times = [row[0] for row in rows]
            assert times == sorted(times), title
            assert all(row[1] for row in rows), title
            assert not isinstance(rows[0][2], str), title
            assert any(row[2] is not None for row in rows), title


def test_a_line_has_one_point_at_each_time(stored: Stored) -> None:
    """Grafana draws two points of one time as a vertical stroke."""
    view = stored.view()
    for panel, target in queries(stored.dashboard):
        if target["format"] == "time_series":
            stored.cursor.execute(view.expand(target["rawSql"]))
            points = [row[:2] for row in stored.cursor.fetchall()]
            assert len(points) == len(set(points)), panel["title"]


def test_the_columns_that_a_panel_names_are_in_its_answer(stored: Stored) -> None:
    view = stored.view()
    for panel, target in queries(stored.dashboard):
        if target["format"] == "table":
            stored.cursor.execute(view.expand(target["rawSql"]))
            columns = {column.name for column in stored.cursor.description}
            named = {o["matcher"]["options"] for o in panel["fieldConfig"]["overrides"]}
            for layer in panel["options"].get("layers", []):
                named |= {layer["location"]["latitude"], layer["location"]["longitude"]}
                named |= {layer["config"]["style"]["size"]["field"]}
            for transformation in panel.get("transformations", []):
                options = transformation["options"]
                named |= {options[key] for key in ("columnField", "rowField", "valueField")}
            assert named <= columns, panel["title"]


def test_no_panel_fails_where_nothing_is_chosen_or_stored(
    connection: Any, clean: None, dashboard: dict[str, Any]
) -> None:
    names = [v["name"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        view = View(cursor.fetchone()[0], timedelta(days=1), "1m", {name: [] for name in names})
        for _, target in queries(dashboard):
            cursor.execute(view.expand(target["rawSql"]))


@only("grafana-dashboard.json")
def test_the_overview_counts_what_was_reported(stored: Stored) -> None:
    answers = stored.stats()
    received, sent = answers.pop("Traffic of the last day")
    assert received > 0
    assert sent == 2 * received
    assert answers == {
        "Reporters": (1,),
        "Silent reporters": (1,),
        "Nodes online": (8,),
        "Health messages": (2,),
        "Keys expiring within 30 days": (4,),
    }


@only("grafana-dashboard.json")
@pytest.mark.parametrize(("interval", "width"), [("30s", 300), ("10m", 600), ("1h", 3600)])
def test_a_rate_of_the_overview_is_that_of_the_counters_however_seldom_there_is_a_report(
    stored: Stored, interval: str, width: int
) -> None:
    """Each reporter receives as many kilobytes in a second as its peer's number says; it sends twice that."""
    view = stored.view(interval=interval)
    lines = stored.answers(view, "timeseries")
    first = (view.until - view.range).timestamp() // width + 1
    silent = (view.until - timedelta(hours=1, minutes=7)).timestamp() // width
    times = [datetime.fromtimestamp(width * number, UTC) for number in range(int(first), int(silent))]
    assert len(times) > 2

    peers = {f"peer'{number}": 8000 * number for number in range(1, 11)}
    for title, expected in {
        "Received from peers": {peer: 2 * rate for peer, rate in peers.items()},
        "Sent to peers": {peer: 4 * rate for peer, rate in peers.items()},
        "Traffic by reporter": {
            f"{reporter} {direction}": times_received * sum(peers.values())
            for reporter in ("alpha", "beta")
            for direction, times_received in (("received", 1), ("sent", 2))
        },
        "Traffic by user": {f"user{user}": 48_000 * sum(range(user or 3, 11, 3)) for user in range(3)},
        "Traffic by tag": {"no tag": 48_000 * 25, "tag:even": 48_000 * 30},
    }.items():
        drawn = sorted((time, metric, round(rate, 6)) for time, metric, rate in lines[title] if time in times)
        assert drawn == [(time, *line) for time in times for line in sorted(expected.items())], title


@only("grafana-dashboard.json")
def test_the_overview_draws_traffic_whose_reports_are_gone(stored: Stored) -> None:
    """Aggregates outlive the rows that they are made of: all that is left is the width of a bucket."""
    view = stored.view(interval="1h")
    stored.cursor.execute(
        "RESET ROLE; DELETE FROM tailscale_status AS s USING tailscale_reporters AS r"
        " WHERE s.host_id = r.host_id AND s.time < r.last_seen; SET ROLE tsstats_reader"
    )
    drawn = stored.answers(view, "timeseries")["Received from peers"]
    stored.cursor.execute(
        view.expand(
            "SELECT bucket, peer, 8 * sum(rx_bytes) / 3600"
            " FROM tailscale_traffic($__timeFrom(), $__timeTo(), '1 hour') GROUP BY 1, 2"
        )
    )
    per_bucket = {(time, peer): round(rate, 6) for time, peer, rate in stored.cursor.fetchall()}
    assert len(per_bucket) >= 6 * 10
    assert {(time, peer): round(rate, 6) for time, peer, rate in drawn} == per_bucket


@only("grafana/ringserver.json")
def test_the_ringservers_count_what_was_transferred(stored: Stored) -> None:
    # Six hours of two ringservers and twelve stations; 100, 400 and 900 bytes by client.
    assert stored.stats() == {
        "Ringservers": (2,),
        "Transferred": (6 * 2 * 12 * (100 + 400), 6 * 2 * 12 * 900),
        "Clients": (3,),
        "Channels": (12,),
        "Sessions": (6 * 2 * 3,),
        "Mismatches": (3,),
    }


@only("grafana/hosts.json")
def test_the_hosts_count_what_was_reported(stored: Stored) -> None:
    assert stored.stats() == {
        "Hosts": (1,),
        "Silent hosts": (1,),
        "Processors": (8,),
        "Memory in use": (1 - 6 / 16,),
        "Fullest file system": (0.4,),
        "Started within a day": (1,),
    }


@only("grafana/hosts.json")
@pytest.mark.parametrize("interval", ["30s", "10m", "1h"])
def test_a_rate_is_that_of_the_counter_however_often_there_is_a_document(
    stored: Stored, interval: str
) -> None:
    lines = stored.answers(stored.view(interval=interval), "timeseries")
    counters = counters_of_hosts(stored)
    busy = counters["cpu_times_seconds.user"] + counters["cpu_times_seconds.system"]
    spent = busy + counters["cpu_times_seconds.idle"] + counters["cpu_times_seconds.iowait"]

    assert {row[2] for row in lines["Read from disks"]} == {counters["disk_io.read_bytes"]}
    assert {row[1:] for row in lines["Received"]} == {
        (f"{host} {interface}", 8 * counters[f"network_io.bytes_recv{interface}"])
        for host in ("alpha", "beta")
        for interface in ("lo", "eth0")
    }
    assert {round(row[2], 9) for row in lines["CPU in use"]} == {round(busy / spent, 9)}


@only("grafana/hosts.json")
def test_only_the_chosen_hosts_are_drawn(stored: Stored) -> None:
    view = replace(stored.view(), variables={"host": ["beta"]})
    lines = stored.answers(view, "timeseries")
    counters = counters_of_hosts(stored)

    metrics = {row[1] for rows in lines.values() for row in rows}
    assert {metric for metric in metrics if metric.startswith("alpha")} == set()
    assert {
        metric.partition(" ")[0]
        for title in ("CPU in use", "Received", "Disks busy")
        for _, metric, *_ in lines[title]
    } == {"beta"}
    assert {row[1:] for row in lines["Context switches and interrupts"]} == {
        ("context switches", counters["cpu_stats.ctx_switches"]),
        ("interrupts", counters["cpu_stats.interrupts"]),
    }


def counters_of_hosts(stored: Stored) -> dict[str, int]:
    """How much each counter of each host of `hosts.sql` grows in a second, by name and interface."""
    stored.cursor.execute(
        "SELECT name || coalesce(labels ->> 'interface', ''), series_id FROM series WHERE source = 'host'"
    )
    return dict(stored.cursor.fetchall())


@only("grafana/accesslog.json")
def test_the_access_logs_count_what_was_requested(stored: Stored) -> None:
    # Six hours of two hosts.
    requests = 2 * (360 * 3 + 36 + 6)
    assert stored.stats() == {
        "Requests": (requests,),
        "Bytes sent": (2 * (360 * (1000 + 100) + 36 * 50 + 6 * 226),),
        "Clients": (7,),
        "Client errors": (2 * (360 + 6) / requests,),
        "Server errors": (2 * 36 / requests,),
        "Malformed requests": (2 * 6,),
    }
    sections = {row[0]: row[1:] for row in stored.answers(stored.view(), "table")["Top sections"]}
    assert sections["/login"] == (2 * 360, 2 * 360 * 100, 1, 0)
    assert sections["/section-0"] == (2 * 30, None, 0, 0)


def test_provisioning_takes_everything_from_the_environment() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/timescaledb.yaml").read_text())["datasources"]
    assert source["url"] == "$PGHOST:$PGPORT"
    assert source["user"] == "$PGUSER"
    assert source["jsonData"]["database"] == "$PGDATABASE"
    assert source["jsonData"]["timescaledb"] is True
    assert source["secureJsonData"] == {"password": "$PGPASSWORD"}
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/ringstats.yaml").read_text())["providers"]
    assert provider["allowUiUpdates"] is False


def test_compose_provisions_every_dashboard() -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/ringstats.yaml").read_text())["providers"]
    volumes = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    mounted = [
        source
        for source, target, *_ in (volume.split(":") for volume in volumes)
        if target.startswith(provider["options"]["path"] + "/")
    ]
    assert sorted(ROOT / source for source in mounted) == DASHBOARDS

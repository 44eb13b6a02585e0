"""Every dashboard is provisionable, says what it shows, and each of its queries returns rows on real data."""

import json
import re
from collections.abc import Iterator
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
UNITS = {"none", "short", "percentunit", "bytes", "bps", "s", "d", "dateTimeAsIso", "bool_on_off"}

# Two reporters, ten peers, three days; `beta` fell silent an hour ago.
TAILNET = """
    INSERT INTO hosts (identity, name, tailnet, first_seen, last_seen)
    SELECT 'name:' || name, name, 'example.ts.net', now() - INTERVAL '3 days', now()
    FROM unnest(ARRAY['alpha', 'beta']) AS name;
    INSERT INTO tailscale_nodes (scope, stable_id, tailnet, name, os, user_id, user_name, tags, key_expiry,
        first_seen, changed_at)
    SELECT '', 'n' || i || 'CNTRL', 'example.ts.net', 'peer''' || i, 'linux', i % 3, 'user' || i % 3,
        CASE WHEN i % 2 = 0 THEN ARRAY['tag:even'] END,
        CASE WHEN i % 5 <> 0 THEN now() + i * INTERVAL '7 days' END, now(), now()
    FROM generate_series(1, 10) AS i;
    INSERT INTO tailscale_peers (host_id, node_id, time, received_at, rx_bytes, tx_bytes, online, active,
        path, last_handshake, key_epoch, attribute_id)
    SELECT host_id, node_id, now() - age, now() - age, bytes, 2 * bytes, node_id < 9, node_id < 6,
        CASE WHEN node_id < 4 THEN 'direct' WHEN node_id < 6 THEN 'derp' ELSE 'idle' END,
        now() - age - INTERVAL '1 minute', 1, 1
    FROM hosts, tailscale_nodes, generate_series(0, 431) AS step,
        LATERAL (SELECT step * INTERVAL '10 minutes' + INTERVAL '5 seconds') AS sample (age),
        LATERAL (
            SELECT (1e9 * node_id - extract(epoch FROM age)::bigint % 100000 * 1000 * node_id)::bigint
        ) AS counter (bytes)
    WHERE hosts.name = 'alpha' OR age > INTERVAL '1 hour';
    INSERT INTO tailscale_status (host_id, node_id, time, received_at, backend_state, version, online, health,
        peers, peers_online, attribute_id)
    SELECT host_id, host_id, now() - age, now() - age, 'Running', '1.98.' || host_id, true,
        ARRAY['a message'], 10, 8, 1
    FROM hosts, generate_series(0, 431) AS step,
        LATERAL (SELECT step * INTERVAL '10 minutes' + INTERVAL '5 seconds') AS sample (age)
    WHERE hosts.name = 'alpha' OR age > INTERVAL '1 hour';
    INSERT INTO tailscale_status_changes (host_id, time, digest, health, exit_node_id)
    SELECT host_id, now() - days * INTERVAL '20 hours', '', ARRAY['a message'], CASE WHEN days < 3 THEN 3 END
    FROM hosts, generate_series(1, 3) AS days;
    INSERT INTO tailscale_node_changes (host_id, node_id, time, digest, os, primary_routes)
    SELECT host_id, node_id, now() - days * INTERVAL '5 hours', '', 'linux',
        CASE WHEN node_id = days THEN ARRAY['10.0.0.0/24'] END
    FROM hosts, tailscale_nodes, generate_series(1, 3) AS days;
"""


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield panel, target


def expand(sql: str, since: datetime, until: datetime, interval: str, variables: dict[str, list[str]]) -> str:
    """Expand variables, then macros, as Grafana's PostgreSQL data source does."""
    for name, values in variables.items():
        quoted = ",".join("'" + value.replace("'", "''") + "'" for value in values)
        sql = sql.replace(f"${name}", quoted)
    sql = sql.replace("$__interval", interval)
    literals = {
        "__timeFrom": since.strftime("'%Y-%m-%dT%H:%M:%SZ'"),
        "__timeTo": until.strftime("'%Y-%m-%dT%H:%M:%SZ'"),
    }
    sql = MACRO.sub(lambda match: literals[match[1]], sql)
    assert not re.search(r"\$\{?\w", sql), f"not expanded: {sql}"
    return sql


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.name)
def dashboard(request: pytest.FixtureRequest) -> Any:
    return json.loads(request.param.read_text())


@pytest.fixture
def tailnet(connection: Any, clean: None) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(TAILNET)
        for relation, late in (("5m", "5 minutes"), ("hourly", "1 hour"), ("daily", "1 day")):
            cursor.execute(
                f"CALL refresh_continuous_aggregate('tailscale_peers_{relation}', NULL,"
                f" now() - INTERVAL '{late}')"
            )
        yield cursor


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


def test_variables_list_what_there_is(tailnet: Any, dashboard: dict[str, Any]) -> None:
    assert choices(tailnet, dashboard) == {
        "reporter": ["alpha", "beta"],
        "peer": sorted(f"peer'{i}" for i in range(1, 11)),
    }


def choices(cursor: Any, dashboard: dict[str, Any]) -> dict[str, list[str]]:
    variables = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            cursor.execute(variable["query"])
            variables[variable["name"]] = [row[0] for row in cursor.fetchall()]
    return variables


@pytest.mark.parametrize(
    ("range_", "interval"),
    [(timedelta(hours=6), "30s"), (timedelta(days=2), "5m"), (timedelta(days=30), "1h")],
)
def test_every_panel_returns_rows(
    tailnet: Any, dashboard: dict[str, Any], range_: timedelta, interval: str
) -> None:
    variables = choices(tailnet, dashboard)
    now = datetime.now(UTC)
    for panel, target in queries(dashboard):
        title = panel["title"]
        tailnet.execute(expand(target["rawSql"], now - range_, now, interval, variables))
        columns = [column.name for column in tailnet.description]
        rows = tailnet.fetchall()
        assert rows, title
        if target["format"] == "time_series":
            assert columns[:2] == ["time", "metric"], title
            times = [row[0] for row in rows]
            assert times == sorted(times), title
            assert not isinstance(rows[0][2], str), title


def test_no_panel_fails_where_nothing_is_chosen_or_stored(
    connection: Any, clean: None, dashboard: dict[str, Any]
) -> None:
    now = datetime.now(UTC)
    with connection.cursor() as cursor:
        for _, target in queries(dashboard):
            cursor.execute(
                expand(target["rawSql"], now - timedelta(days=1), now, "1m", {"reporter": [], "peer": []})
            )


def test_the_overview_counts_what_was_reported(tailnet: Any) -> None:
    dashboard = json.loads((ROOT / "grafana-dashboard.json").read_text())
    variables = choices(tailnet, dashboard)
    now = datetime.now(UTC)
    answers = {}
    for panel, target in queries(dashboard):
        if panel["type"] == "stat":
            tailnet.execute(expand(target["rawSql"], now - timedelta(hours=6), now, "30s", variables))
            answers[panel["title"]] = tailnet.fetchone()
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


def test_provisioning_takes_everything_from_the_environment() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/timescaledb.yaml").read_text())["datasources"]
    assert source["url"] == "$PGHOST:$PGPORT"
    assert source["user"] == "$PGUSER"
    assert source["jsonData"]["database"] == "$PGDATABASE"
    assert source["jsonData"]["timescaledb"] is True
    assert source["secureJsonData"] == {"password": "$PGPASSWORD"}
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/ringstats.yaml").read_text())["providers"]
    assert provider["allowUiUpdates"] is False

"""The history views, on changes written by hand: versions that agree are one row."""

from datetime import UTC, datetime, timedelta
from typing import Any

T = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(10)]


def test_a_health_message_that_stays_while_another_changes_has_one_row(tailnet: Any) -> None:
    alpha, beta = tailnet.add_host("alpha"), tailnet.add_host("beta")
    changes = [["a"], ["a", "b"], ["a"], None, ["b"], [], ["a"]]
    for time, health in zip(T, changes, strict=False):
        tailnet.add_change("tailscale_status_changes", host_id=alpha, time=time, health=health)
    tailnet.add_change("tailscale_status_changes", host_id=beta, time=T[2], health=["a"])
    assert tailnet.query(
        "SELECT reporter, message, appeared_at, cleared_at FROM tailscale_health_history ORDER BY 1, 3, 2"
    ) == [
        ("alpha", "a", T[0], T[3]),
        ("alpha", "b", T[1], T[2]),
        ("alpha", "b", T[4], T[5]),
        ("alpha", "a", T[6], None),
        ("beta", "a", T[2], None),
    ]


def test_an_exit_node_stays_in_use_while_other_things_change(tailnet: Any) -> None:
    alpha = tailnet.add_host("alpha")
    one, two = tailnet.add_node("one"), tailnet.add_node("two")
    changes = [(None, "1"), (one, "1"), (one, "2"), (two, "2"), (None, "2"), (two, "2"), (two, "3")]
    for time, (exit_node_id, version) in zip(T, changes, strict=False):
        tailnet.add_change(
            "tailscale_status_changes", host_id=alpha, time=time, exit_node_id=exit_node_id, version=version
        )
    assert tailnet.query(
        "SELECT reporter, exit_node, since, until FROM tailscale_exit_node_history ORDER BY since"
    ) == [("alpha", "one", T[1], T[3]), ("alpha", "two", T[3], T[4]), ("alpha", "two", T[5], None)]


def test_a_route_names_its_primary_router_at_any_time(tailnet: Any) -> None:
    alpha = tailnet.add_host("alpha")
    one, two, three = (tailnet.add_node(name) for name in ("one", "two", "three"))
    lan, lab = "10.0.0.0/24", "10.1.0.0/24"
    for node_id, time, routes, os in [
        (one, T[0], [lan, lab], "linux"),
        (one, T[1], [lan, lab], "freebsd"),
        (two, T[0], None, "linux"),
        (one, T[2], [lab], "freebsd"),
        (two, T[2], [lan], "linux"),
        # `two` leaves the tailnet: no sample says that it lost the route.
        (three, T[5], [lan], "linux"),
    ]:
        tailnet.add_change(
            "tailscale_node_changes", host_id=alpha, node_id=node_id, time=time, primary_routes=routes, os=os
        )
    assert tailnet.query(
        "SELECT reporter, tailnet, route, router, since, until"
        " FROM tailscale_route_history ORDER BY route, since"
    ) == [
        ("alpha", "example.ts.net", lan, "one", T[0], T[2]),
        ("alpha", "example.ts.net", lan, "two", T[2], T[5]),
        ("alpha", "example.ts.net", lan, "three", T[5], None),
        ("alpha", "example.ts.net", lab, "one", T[0], None),
    ]


def routers(tailnet: Any, versions: list[tuple[int, str, list[str] | None, str]]) -> list[tuple[Any, ...]]:
    """Terms of 10.0.0.0/24 as (router, since, until), of versions (hour, node, routes, os)."""
    alpha = tailnet.add_host("alpha")
    nodes = {name: tailnet.add_node(name) for name in sorted({name for _, name, _, _ in versions})}
    for hour, name, routes, os in versions:
        tailnet.add_change(
            "tailscale_node_changes",
            host_id=alpha,
            node_id=nodes[name],
            time=T[hour],
            primary_routes=routes,
            os=os,
        )
    rows = tailnet.query("SELECT router, since, until FROM tailscale_route_history ORDER BY since")
    return [(router, T.index(since), until and T.index(until)) for router, since, until in rows]


LAN = ["10.0.0.0/24"]


def test_a_router_that_was_away_has_its_route_again_when_its_successor_gives_it_up(tailnet: Any) -> None:
    versions = [(0, "a", LAN, ""), (0, "b", None, ""), (1, "b", LAN, ""), (2, "b", None, "")]
    assert routers(tailnet, versions) == [("a", 0, 1), ("b", 1, 2), ("a", 2, None)]


def test_a_router_that_was_away_and_changed_meanwhile_takes_over_from_one_that_left(tailnet: Any) -> None:
    versions = [(0, "a", LAN, ""), (1, "b", LAN, ""), (2, "a", LAN, "new"), (4, "a", None, "new")]
    # No row says whether `b` is there at 4; it is the only one that claims the route.
    assert routers(tailnet, versions) == [("a", 0, 1), ("b", 1, 2), ("a", 2, 4), ("b", 4, None)]


def test_a_route_that_nobody_has_is_nobodys(tailnet: Any) -> None:
    versions = [
        (0, "a", LAN, ""),
        (1, "a", None, ""),
        (3, "b", LAN, ""),
        (4, "b", None, ""),
        (6, "a", LAN, ""),
    ]
    assert routers(tailnet, versions) == [("a", 0, 1), ("b", 3, 4), ("a", 6, None)]


def test_node_history_says_what_changed(tailnet: Any) -> None:
    alpha, beta = tailnet.add_host("alpha"), tailnet.add_host("beta")
    one = tailnet.add_node("one")
    for host_id, time, columns in [
        (alpha, T[0], {"os": "linux", "tags": ["tag:a"], "user_id": 38520981566058213}),
        (alpha, T[1], {"os": "linux", "tags": ["tag:a", "tag:b"], "user_id": 38520981566058213}),
        (alpha, T[3], {"os": None, "tags": None, "user_id": 38520981566058213}),
        (beta, T[2], {"os": "linux"}),
    ]:
        tailnet.add_change("tailscale_node_changes", host_id=host_id, node_id=one, time=time, **columns)
    assert tailnet.query(
        "SELECT reporter, node, valid_from, valid_until, changed, os, tags, user_id"
        " FROM tailscale_node_history ORDER BY reporter, valid_from"
    ) == [
        ("alpha", "one", T[0], T[1], None, "linux", ["tag:a"], 38520981566058213),
        ("alpha", "one", T[1], T[3], ["tags"], "linux", ["tag:a", "tag:b"], 38520981566058213),
        ("alpha", "one", T[3], None, ["os", "tags"], None, None, 38520981566058213),
        ("beta", "one", T[2], None, None, "linux", None, None),
    ]


def test_reporters_show_their_latest_status(tailnet: Any) -> None:
    alpha = tailnet.add_host("alpha")
    tailnet.add_host("never reported a status")
    self_id, exit_node_id = tailnet.add_node("alpha"), tailnet.add_node("exit")
    tailnet.add_status(alpha, T[0], backend_state="Stopped", peers=3, peers_online=0)
    tailnet.add_status(
        alpha,
        T[5],
        backend_state="Running",
        version="1.98.0",
        health=["x"],
        peers=4,
        peers_online=2,
        node_id=self_id,
        exit_node_id=exit_node_id,
    )
    assert tailnet.query(
        "SELECT reporter, tailnet, backend_state, version, health, exit_node, peers, peers_online,"
        " first_seen, last_seen, host_id, node_id FROM tailscale_reporters"
    ) == [
        (
            "alpha",
            "example.ts.net",
            "Running",
            "1.98.0",
            ["x"],
            "exit",
            4,
            2,
            T[0],
            T[5],
            alpha,
            self_id,
        )
    ]


def test_a_node_is_seen_by_whoever_lists_it_and_by_itself(tailnet: Any, make_sample: type) -> None:
    alpha, beta = tailnet.add_host("alpha"), tailnet.add_host("beta")
    self_id, one = tailnet.add_node("alpha"), tailnet.add_node("one")
    tailnet.add_node("never seen")
    tailnet.add_samples(
        [
            make_sample(alpha, one, T[2], 1, 1),
            make_sample(alpha, one, T[4], 1, 1),
            make_sample(beta, one, T[7], 1, 1),
            make_sample(beta, self_id, T[3], 1, 1),
        ]
    )
    tailnet.add_status(alpha, T[1], node_id=self_id)
    tailnet.add_status(alpha, T[2], node_id=self_id)
    assert tailnet.query(
        "SELECT tailnet, node, first_seen, last_seen, reporters FROM tailscale_nodes_seen ORDER BY node"
    ) == [
        ("example.ts.net", "alpha", T[1], T[3], 2),
        ("example.ts.net", "one", T[2], T[7], 2),
    ]

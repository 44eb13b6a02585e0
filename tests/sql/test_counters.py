"""The counter aggregates: states of any cut of a sequence add up to the state of the whole."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples

STATES_OF_CUTS = """
    WITH samples AS (
        SELECT rx, tx, epoch, position, width_bucket(position, %(fine)s::bigint[]) AS fine
        FROM unnest(%(rx)s::bigint[], %(tx)s::bigint[], %(epochs)s::bigint[])
            WITH ORDINALITY AS s (rx, tx, epoch, position)
    ),
    fine AS (
        SELECT fine, width_bucket(fine, %(coarse)s::integer[]) AS coarse,
            traffic_counter(rx, tx, epoch ORDER BY position) AS s
        FROM samples GROUP BY 1
    ),
    coarse AS (
        SELECT coarse,
            traffic_counter_roll(s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9] ORDER BY fine) AS s
        FROM fine GROUP BY 1
    )
    SELECT
        (SELECT traffic_counter(rx, tx, epoch ORDER BY position) FROM samples),
        (
            SELECT traffic_counter_roll(s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9] ORDER BY fine)
            FROM fine
        ),
        (
            SELECT traffic_counter_roll(s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9] ORDER BY coarse)
            FROM coarse
        )
"""
MOST = 2**63 - 1

Sample = tuple[int | None, int | None, int | None]


def counter_state(samples: list[Sample]) -> list[int | None] | None:
    """The definition, in Python: first, last, increase of rx, of tx, resets, first epoch, last epoch."""
    known = [(rx, tx, epoch) for rx, tx, epoch in samples if rx is not None and tx is not None]
    if not known:
        return None
    rx_increase = tx_increase = resets = 0
    for before, (rx, tx, epoch) in pairwise(known):
        reset = rx < before[0] or tx < before[1] or epoch != before[2]
        rx_increase += rx if reset else rx - before[0]
        tx_increase += tx if reset else tx - before[1]
        resets += reset
    (rx_first, tx_first, epoch_first), (rx_last, tx_last, epoch_last) = known[0], known[-1]
    rx_state = [rx_first, rx_last, min(rx_increase, MOST)]
    tx_state = [tx_first, tx_last, min(tx_increase, MOST)]
    return [*rx_state, *tx_state, resets, epoch_first, epoch_last]


values = st.none() | st.integers(0, 50) | st.integers(0, MOST)
sequences = st.lists(st.tuples(values, values, st.none() | st.integers(1, 3)), max_size=40)
cuts = st.lists(st.integers(1, 40), max_size=8, unique=True).map(sorted)


@examples(150)
@given(samples=sequences, fine=cuts, coarse=cuts)
def test_states_of_any_cut_roll_up_to_the_state_of_the_whole(
    connection: Any, samples: list[Sample], fine: list[int], coarse: list[int]
) -> None:
    parameters = {
        "rx": [rx for rx, _, _ in samples],
        "tx": [tx for _, tx, _ in samples],
        "epochs": [epoch for _, _, epoch in samples],
        "fine": fine or [0],
        "coarse": coarse or [0],
    }
    with connection.cursor() as cursor:
        cursor.execute(STATES_OF_CUTS, parameters)
        whole, rolled, rolled_twice = cursor.fetchone()
    assert whole == counter_state(samples)
    assert rolled == whole
    assert rolled_twice == whole


@pytest.mark.parametrize(
    ("samples", "state"),
    [
        pytest.param([(None, 5, 1), (7, None, 1)], None, id="no sample has both counters"),
        pytest.param([(9, 5, 1)], [9, 9, 0, 5, 5, 0, 0, 1, 1], id="the first sample adds nothing"),
        pytest.param([(9, 5, 1), (11, 5, 1)], [9, 11, 2, 5, 5, 0, 0, 1, 1], id="growth"),
        pytest.param(
            [(1000, 100, 1), (50, 200, 1)], [1000, 50, 50, 100, 200, 200, 1, 1, 1], id="rx tells of the reset"
        ),
        pytest.param(
            [(1000, 100, 1), (2000, 7, 1)], [1000, 2000, 2000, 100, 7, 7, 1, 1, 1], id="tx tells of the reset"
        ),
        pytest.param([(0, 5, 1), (3, 9, 2)], [0, 3, 3, 5, 9, 9, 1, 1, 2], id="the key tells of the reset"),
        pytest.param(
            [(10, 10, 1), (None, 3, 2), (12, 15, 1)],
            [10, 12, 2, 10, 15, 5, 0, 1, 1],
            id="a sample that lacks a counter is passed over with its key",
        ),
        pytest.param(
            [(0, 0, 1), (MOST, 1, 1), (0, 2, 1), (MOST, 3, 1)],
            [0, MOST, MOST, 0, 3, 4, 1, 1, 1],
            id="as much as fits, not an error",
        ),
    ],
)
def test_both_counters_start_anew_together(
    connection: Any, samples: list[Sample], state: list[int] | None
) -> None:
    rx, tx, epochs = (list(column) for column in zip(*samples, strict=True))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT traffic_counter(rx, tx, epoch ORDER BY position)"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[])"
            " WITH ORDINALITY AS s (rx, tx, epoch, position)",
            (rx, tx, epochs),
        )
        assert cursor.fetchone() == (state,)


@pytest.mark.parametrize(
    ("before", "after", "reset", "step"),
    [
        (None, 70, False, 0),
        (50, 70, False, 20),
        (50, 50, False, 0),
        (50, 7, True, 7),
        (50, 70, True, 70),
        (50, None, False, None),
    ],
)
def test_a_step_counts_from_zero_after_a_reset(
    connection: Any, before: int | None, after: int | None, reset: bool, step: int | None
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT counter_step(%s, %s, %s)", (before, after, reset))
        assert cursor.fetchone() == (step,)

"""The counter aggregates: states of any cut of a sequence add up to the state of the whole."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STATES_OF_CUTS = """
    WITH samples AS (
        SELECT value, epoch, position, width_bucket(position, %(fine)s::bigint[]) AS fine
        FROM unnest(%(values)s::bigint[], %(epochs)s::bigint[]) WITH ORDINALITY AS s (value, epoch, position)
    ),
    fine AS (
        SELECT fine, width_bucket(fine, %(coarse)s::integer[]) AS coarse,
            counter(value, epoch ORDER BY position) AS s
        FROM samples GROUP BY 1
    ),
    coarse AS (
        SELECT coarse, counter_roll(s[1], s[2], s[3], s[4], s[5], s[6] ORDER BY fine) AS s
        FROM fine GROUP BY 1
    )
    SELECT
        (SELECT counter(value, epoch ORDER BY position) FROM samples),
        (SELECT counter_roll(s[1], s[2], s[3], s[4], s[5], s[6] ORDER BY fine) FROM fine),
        (SELECT counter_roll(s[1], s[2], s[3], s[4], s[5], s[6] ORDER BY coarse) FROM coarse)
"""


def counter_state(samples: list[tuple[int | None, int | None]]) -> list[int | None] | None:
    """The definition, in Python: [first, last, increase, resets, first epoch, last epoch]."""
    known = [(value, epoch) for value, epoch in samples if value is not None]
    if not known:
        return None
    increase = resets = 0
    for (before, epoch_before), (value, epoch) in pairwise(known):
        reset = value < before or epoch != epoch_before
        increase += value if reset else value - before
        resets += reset
    return [known[0][0], known[-1][0], increase, resets, known[0][1], known[-1][1]]


values = st.none() | st.integers(0, 50) | st.integers(0, 2**62 // 100)
# Within a series, either every document names the key or none does.
sequences = st.lists(st.tuples(values, st.integers(1, 3)), max_size=40) | st.lists(
    st.tuples(values, st.none()), max_size=40
)
cuts = st.lists(st.integers(1, 40), max_size=8, unique=True).map(sorted)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=sequences, fine=cuts, coarse=cuts)
def test_states_of_any_cut_roll_up_to_the_state_of_the_whole(
    connection: Any, samples: list[tuple[int | None, int | None]], fine: list[int], coarse: list[int]
) -> None:
    parameters = {
        "values": [value for value, _ in samples],
        "epochs": [epoch for _, epoch in samples],
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
    ("before", "after", "step"),
    [
        ((None, None), (70, 1), 0),
        ((50, 1), (70, 1), 20),
        ((50, 1), (50, 1), 0),
        ((50, 1), (7, 1), 7),
        ((50, 1), (70, 2), 70),
        ((50, None), (70, None), 20),
        ((50, 1), (None, None), None),
    ],
)
def test_a_step_counts_from_zero_after_a_reset_or_a_new_key(
    connection: Any, before: tuple[int, int], after: tuple[int, int], step: int
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT counter_step(%s, %s, %s, %s)", (*before, *after))
        assert cursor.fetchone() == (step,)

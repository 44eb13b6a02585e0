-- Create the reset-aware counter aggregates: traffic_counter over samples, traffic_counter_roll over their states.

CREATE FUNCTION traffic_counter_sample(state bigint[], rx bigint, tx bigint, epoch bigint) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    most CONSTANT bigint := 9223372036854775807;
BEGIN
    IF rx IS NULL OR tx IS NULL THEN
        RETURN state;
    END IF;
    IF state IS NULL THEN
        RETURN ARRAY[rx, rx, 0, tx, tx, 0, 0, epoch, epoch];
    END IF;
    IF rx < state[2] OR tx < state[5] OR epoch IS DISTINCT FROM state[9] THEN
        state[3] := state[3] + least(rx, most - state[3]);
        state[6] := state[6] + least(tx, most - state[6]);
        state[7] := state[7] + 1;
        state[9] := epoch;
    ELSE
        state[3] := state[3] + least(rx - state[2], most - state[3]);
        state[6] := state[6] + least(tx - state[5], most - state[6]);
    END IF;
    state[2] := rx;
    state[5] := tx;
    RETURN state;
END $$;

CREATE AGGREGATE traffic_counter(rx bigint, tx bigint, epoch bigint) (
    SFUNC = traffic_counter_sample,
    STYPE = bigint[],
    PARALLEL = SAFE
);

CREATE FUNCTION traffic_counter_state(
    state bigint[],
    rx_first bigint,
    rx_last bigint,
    rx_increase bigint,
    tx_first bigint,
    tx_last bigint,
    tx_increase bigint,
    resets bigint,
    epoch_first bigint,
    epoch_last bigint
) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    most CONSTANT bigint := 9223372036854775807;
BEGIN
    IF rx_first IS NULL THEN
        RETURN state;
    END IF;
    IF state IS NULL THEN
        RETURN ARRAY[rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, epoch_first, epoch_last];
    END IF;
    IF rx_first < state[2] OR tx_first < state[5] OR epoch_first IS DISTINCT FROM state[9] THEN
        state[3] := state[3] + least(rx_first, most - state[3]);
        state[6] := state[6] + least(tx_first, most - state[6]);
        state[7] := state[7] + 1;
    ELSE
        state[3] := state[3] + least(rx_first - state[2], most - state[3]);
        state[6] := state[6] + least(tx_first - state[5], most - state[6]);
    END IF;
    state[2] := rx_last;
    state[3] := state[3] + least(rx_increase, most - state[3]);
    state[5] := tx_last;
    state[6] := state[6] + least(tx_increase, most - state[6]);
    state[7] := state[7] + resets;
    state[9] := epoch_last;
    RETURN state;
END $$;

CREATE AGGREGATE traffic_counter_roll(
    rx_first bigint,
    rx_last bigint,
    rx_increase bigint,
    tx_first bigint,
    tx_last bigint,
    tx_increase bigint,
    resets bigint,
    epoch_first bigint,
    epoch_last bigint
) (
    SFUNC = traffic_counter_state,
    STYPE = bigint[],
    PARALLEL = SAFE
);

DO $$
BEGIN
    COMMENT ON FUNCTION traffic_counter_sample(bigint[], bigint, bigint, bigint) IS 'Transition of traffic_counter: both counters restart where either falls or the epoch changes. A sample that lacks a counter is passed over with its epoch: the step reaches over it.';
    COMMENT ON AGGREGATE traffic_counter(bigint, bigint, bigint) IS 'State of a pair of counters that restart together, over samples in the order given: [first rx, last rx, rx increase, first tx, last tx, tx increase, resets, first epoch, last epoch]. Use with ORDER BY time. The first sample adds nothing. An increase of 9223372036854775807 stands for that much or more.';
    COMMENT ON FUNCTION traffic_counter_state(bigint[], bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint) IS 'Transition of traffic_counter_roll: adds a later state, with the step between the two.';
    COMMENT ON AGGREGATE traffic_counter_roll(bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint) IS 'State of a pair of counters over states in the order given, steps between them included. Use with ORDER BY bucket.';
END $$;

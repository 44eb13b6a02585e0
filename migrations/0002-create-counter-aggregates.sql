-- Create the reset-aware counter aggregates: counter over samples, counter_roll over their states.

CREATE FUNCTION counter_sample(state bigint[], value bigint, epoch bigint) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL THEN
        RETURN state;
    END IF;
    IF state IS NULL THEN
        RETURN ARRAY[value, value, 0, 0, epoch, epoch];
    END IF;
    IF value < state[2] OR epoch <> state[6] THEN
        state[3] := state[3] + value;
        state[4] := state[4] + 1;
    ELSE
        state[3] := state[3] + (value - state[2]);
    END IF;
    state[2] := value;
    state[6] := coalesce(epoch, state[6]);
    RETURN state;
END $$;

CREATE AGGREGATE counter(value bigint, epoch bigint) (
    SFUNC = counter_sample,
    STYPE = bigint[],
    PARALLEL = SAFE
);

CREATE FUNCTION counter_state(
    state bigint[],
    first bigint,
    last bigint,
    increase bigint,
    resets bigint,
    epoch_first bigint,
    epoch_last bigint
) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF first IS NULL THEN
        RETURN state;
    END IF;
    IF state IS NULL THEN
        RETURN ARRAY[first, last, increase, resets, epoch_first, epoch_last];
    END IF;
    IF first < state[2] OR epoch_first <> state[6] THEN
        state[3] := state[3] + first + increase;
        state[4] := state[4] + 1 + resets;
    ELSE
        state[3] := state[3] + (first - state[2]) + increase;
        state[4] := state[4] + resets;
    END IF;
    state[2] := last;
    state[6] := coalesce(epoch_last, state[6]);
    RETURN state;
END $$;

CREATE AGGREGATE counter_roll(
    first bigint,
    last bigint,
    increase bigint,
    resets bigint,
    epoch_first bigint,
    epoch_last bigint
) (
    SFUNC = counter_state,
    STYPE = bigint[],
    PARALLEL = SAFE
);

DO $$
BEGIN
    COMMENT ON FUNCTION counter_sample(bigint[], bigint, bigint) IS 'Transition of counter: a value below the last one, or a new epoch, is a reset and counts from zero; NULL values are passed over.';
    COMMENT ON AGGREGATE counter(bigint, bigint) IS 'State of a counter over samples in the order given: [first, last, increase, resets, first epoch, last epoch]. Use with ORDER BY time. The first sample adds nothing.';
    COMMENT ON FUNCTION counter_state(bigint[], bigint, bigint, bigint, bigint, bigint, bigint) IS 'Transition of counter_roll: adds a later state, with the step between the two.';
    COMMENT ON AGGREGATE counter_roll(bigint, bigint, bigint, bigint, bigint, bigint) IS 'State of a counter over states in the order given, steps between them included. Use with ORDER BY bucket.';
END $$;

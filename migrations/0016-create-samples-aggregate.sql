-- Create samples_hourly, with the state of counters in it, and series_increase, which reads both.

CREATE FUNCTION value_counter_sample(state numeric[], value numeric) RETURNS numeric[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL THEN
        RETURN state;
    END IF;
    IF state IS NULL THEN
        RETURN ARRAY[value, value, 0, 0];
    END IF;
    IF value < state[2] THEN
        state[3] := state[3] + greatest(value, 0);
        state[4] := state[4] + 1;
    ELSE
        state[3] := state[3] + (value - state[2]);
    END IF;
    state[2] := value;
    RETURN state;
END $$;

CREATE AGGREGATE value_counter(value numeric) (
    SFUNC = value_counter_sample,
    STYPE = numeric[],
    PARALLEL = SAFE
);

CREATE FUNCTION value_counter_state(
    state numeric[],
    first numeric,
    last numeric,
    increase numeric,
    resets numeric
) RETURNS numeric[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF first IS NULL THEN
        RETURN state;
    END IF;
    IF state IS NULL THEN
        RETURN ARRAY[first, last, increase, resets];
    END IF;
    IF first < state[2] THEN
        state[3] := state[3] + greatest(first, 0);
        state[4] := state[4] + 1;
    ELSE
        state[3] := state[3] + (first - state[2]);
    END IF;
    state[2] := last;
    state[3] := state[3] + increase;
    state[4] := state[4] + resets;
    RETURN state;
END $$;

CREATE AGGREGATE value_counter_roll(first numeric, last numeric, increase numeric, resets numeric) (
    SFUNC = value_counter_state,
    STYPE = numeric[],
    PARALLEL = SAFE
);

CREATE MATERIALIZED VIEW samples_hourly
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 hour', time) AS bucket,
    host_id,
    series_id,
    count(*) AS samples,
    min(value) AS min,
    max(value) AS max,
    sum(value) AS sum,
    (value_counter(value ORDER BY time))[1] AS first,
    (value_counter(value ORDER BY time))[2] AS last,
    (value_counter(value ORDER BY time))[3] AS increase,
    (value_counter(value ORDER BY time))[4] AS resets
FROM samples
GROUP BY 1, 2, 3
WITH NO DATA;

ALTER MATERIALIZED VIEW samples_hourly SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id, series_id',
    timescaledb.orderby = 'bucket DESC'
);

CREATE FUNCTION series_states(
    since timestamptz,
    until timestamptz,
    hourly boolean,
    hosts integer[] DEFAULT NULL,
    counters integer[] DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz,
    host_id integer,
    series_id integer,
    first numeric,
    last numeric,
    increase numeric,
    resets numeric,
    samples bigint
)
LANGUAGE plpgsql STABLE ROWS 10000 AS $$
DECLARE
    -- The hours that are whole in the range; none where the range holds no whole hour.
    low timestamptz := until;
    high timestamptz := until;
    condition CONSTANT text :=
        '($3 IS NULL OR s.host_id = ANY ($3)) AND ($4 IS NULL OR s.series_id = ANY ($4)) AND EXISTS (
             SELECT FROM series WHERE series.series_id = s.series_id AND series.kind = ''counter''
         )';
BEGIN
    IF NOT since < until THEN
        RETURN;
    END IF;
    IF hourly AND time_bucket(INTERVAL '1 hour', since + INTERVAL '1 hour' - INTERVAL '1 microsecond')
        < time_bucket(INTERVAL '1 hour', until) THEN
        low := time_bucket(INTERVAL '1 hour', since + INTERVAL '1 hour' - INTERVAL '1 microsecond');
        high := time_bucket(INTERVAL '1 hour', until);
    END IF;
    -- Dynamic SQL, so that the planner sees the bounds and leaves out chunks.
    RETURN QUERY EXECUTE
        'SELECT s.time, s.host_id, s.series_id, s.value, s.value, 0::numeric, 0::numeric, 1::bigint
         FROM samples AS s
         WHERE (s.time >= $1 AND s.time < $2) AND ' || condition
    USING since, low, hosts, counters;
    RETURN QUERY EXECUTE
        'SELECT s.bucket, s.host_id, s.series_id, s.first, s.last, s.increase, s.resets, s.samples
         FROM samples_hourly AS s
         WHERE (s.bucket >= $1 AND s.bucket < $2) AND ' || condition
    USING low, high, hosts, counters;
    RETURN QUERY EXECUTE
        'SELECT s.time, s.host_id, s.series_id, s.value, s.value, 0::numeric, 0::numeric, 1::bigint
         FROM samples AS s
         WHERE (s.time >= $1 AND s.time < $2) AND ' || condition
    USING high, until, hosts, counters;
END $$;

CREATE FUNCTION series_before(since timestamptz, hosts integer[], counters integer[]) RETURNS TABLE (
    host_id integer,
    series_id integer,
    last numeric
)
LANGUAGE plpgsql STABLE ROWS 1000 AS $$
DECLARE
    today CONSTANT timestamptz := time_bucket(INTERVAL '24 hours', since);
    low timestamptz := today;
    high timestamptz := since;
    days integer := 1;
    found record;
BEGIN
    -- Most series have a sample within a day; only those that do not are looked for further back.
    WHILE cardinality(hosts) > 0 LOOP
        SELECT
            array_agg(latest.host_id) AS hosts,
            array_agg(latest.series_id) AS counters,
            array_agg(latest.last) AS lasts
        INTO found
        FROM (
            SELECT DISTINCT ON (states.host_id, states.series_id) states.*
            FROM series_states(low, high, true, hosts, counters) AS states
            INNER JOIN unnest(hosts, counters) AS wanted (host_id, series_id)
                ON wanted.host_id = states.host_id AND wanted.series_id = states.series_id
            ORDER BY states.host_id, states.series_id, states.time DESC
        ) AS latest;
        RETURN QUERY SELECT * FROM unnest(found.hosts, found.counters, found.lasts);
        EXIT WHEN low = '-infinity';
        SELECT array_agg(missing.host_id), array_agg(missing.series_id)
        INTO hosts, counters
        FROM (
            SELECT * FROM unnest(hosts, counters)
            EXCEPT
            SELECT * FROM unnest(found.hosts, found.counters)
        ) AS missing (host_id, series_id);
        high := low;
        low := CASE WHEN days > 100 THEN '-infinity' ELSE today - days * INTERVAL '24 hours' END;
        days := days * 8;
    END LOOP;
END $$;

CREATE FUNCTION series_increase(
    since timestamptz,
    until timestamptz,
    bucket interval DEFAULT '1 hour',
    hosts text[] DEFAULT NULL,
    names text[] DEFAULT NULL
) RETURNS TABLE (
    bucket timestamptz,
    host text,
    source text,
    name text,
    labels jsonb,
    unit text,
    increase numeric,
    resets bigint,
    samples bigint,
    host_id integer,
    series_id integer
)
LANGUAGE sql STABLE ROWS 10000 AS $$
    WITH states AS MATERIALIZED (
        SELECT *
        FROM series_states(
            $1,
            $2,
            extract(year FROM $3) <> 0 OR extract(month FROM $3) <> 0 OR extract(epoch FROM $3) % 3600 = 0,
            -- By number, as a column of hosts would win over the argument of that name.
            CASE WHEN $4 IS NOT NULL THEN ARRAY(SELECT h.host_id FROM hosts AS h WHERE h.name = ANY ($4)) END,
            CASE WHEN $5 IS NOT NULL THEN ARRAY(SELECT s.series_id FROM series AS s WHERE s.name = ANY ($5)) END
        )
    ),
    counters AS (
        SELECT array_agg(c.host_id) AS hosts, array_agg(c.series_id) AS counters
        FROM (SELECT DISTINCT states.host_id, states.series_id FROM states) AS c
    ),
    steps AS (
        SELECT
            both_sides.*,
            lag(both_sides.last) OVER (
                PARTITION BY both_sides.host_id, both_sides.series_id ORDER BY both_sides.time
            ) AS before
        FROM (
            SELECT * FROM states
            UNION ALL
            SELECT '-infinity', known.host_id, known.series_id, NULL, known.last, NULL, NULL, NULL
            FROM counters CROSS JOIN LATERAL series_before($1, counters.hosts, counters.counters) AS known
        ) AS both_sides
    ),
    buckets AS (
        SELECT
            time_bucket($3, steps.time) AS bucket,
            steps.host_id,
            steps.series_id,
            sum(
                steps.increase + CASE
                    WHEN steps.before IS NULL THEN 0
                    WHEN steps.first < steps.before THEN greatest(steps.first, 0)
                    ELSE steps.first - steps.before
                END
            ) AS increase,
            sum(steps.resets) + count(*) FILTER (WHERE steps.first < steps.before) AS resets,
            sum(steps.samples) AS samples
        FROM steps
        -- The values from before the range have no first.
        WHERE steps.first IS NOT NULL
        GROUP BY 1, 2, 3
    )
    SELECT
        buckets.bucket,
        hosts.name,
        series.source,
        series.name,
        series.labels,
        series.unit,
        buckets.increase,
        buckets.resets::bigint,
        buckets.samples::bigint,
        buckets.host_id,
        buckets.series_id
    FROM buckets
    INNER JOIN hosts ON hosts.host_id = buckets.host_id
    INNER JOIN series ON series.series_id = buckets.series_id
    ORDER BY buckets.bucket, buckets.host_id, buckets.series_id
$$;

INSERT INTO policies (relation, kind, source, level, after, until, every) VALUES
('samples_hourly', 'refresh', 'samples', 1, INTERVAL '3 days', INTERVAL '1 hour', INTERVAL '30 minutes'),
('samples_hourly', 'columnstore', 'samples', 1, INTERVAL '30 days', NULL, INTERVAL '1 day'),
('samples_hourly', 'retention', 'samples', 1, NULL, NULL, INTERVAL '1 day');

DO $$
BEGIN
    COMMENT ON FUNCTION value_counter_sample(numeric[], numeric) IS 'Transition of value_counter: the counter starts anew from zero where it falls. NULL is passed over: the step reaches over it.';
    COMMENT ON AGGREGATE value_counter(numeric) IS 'State of a counter over samples in the order given: [first, last, increase, resets]. Use with ORDER BY time. The first sample adds nothing.';
    COMMENT ON FUNCTION value_counter_state(numeric[], numeric, numeric, numeric, numeric) IS 'Transition of value_counter_roll: adds a later state, with the step between the two.';
    COMMENT ON AGGREGATE value_counter_roll(numeric, numeric, numeric, numeric) IS 'State of a counter over states in the order given, steps between them included. Use with ORDER BY bucket.';
    COMMENT ON FUNCTION series_states(timestamptz, timestamptz, boolean, integer[], integer[]) IS 'Counter states that cover exactly since <= time < until: samples, or where hourly is true whole hours of samples_hourly, with samples at the edges; of the given hosts and series, or of all.';
    COMMENT ON FUNCTION series_before(timestamptz, integer[], integer[]) IS 'Last values of counters before a time (host_id and series_id pairwise), however far back, from samples_hourly where the samples are gone.';
    COMMENT ON FUNCTION series_increase(timestamptz, timestamptz, interval, text[], text[]) IS 'How much each counter of each host grew in each bucket of since <= time < until, in the unit of the series. Exact across buckets and resets: it starts anew from zero where it falls, and the step from the sample before counts at the later sample, also after a silent gap and for the first sample after since. The first sample of a counter adds nothing. resets: times it started anew. Buckets are in UTC. hosts and names: the hosts and series to read, by name, of whatever source; an empty array reads none, NULL all.';

    COMMENT ON VIEW samples_hourly IS 'samples by hour, host and series.';
    COMMENT ON COLUMN samples_hourly.bucket IS 'Start of the bucket (UTC).';
    COMMENT ON COLUMN samples_hourly.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN samples_hourly.series_id IS 'What the numbers are (series).';
    COMMENT ON COLUMN samples_hourly.samples IS 'Samples in the bucket.';
    COMMENT ON COLUMN samples_hourly.min IS 'Smallest value.';
    COMMENT ON COLUMN samples_hourly.max IS 'Largest value.';
    COMMENT ON COLUMN samples_hourly.sum IS 'Sum of the values; divided by samples it is their mean.';
    COMMENT ON COLUMN samples_hourly.first IS 'First value in the bucket.';
    COMMENT ON COLUMN samples_hourly.last IS 'Last value in the bucket.';
    COMMENT ON COLUMN samples_hourly.increase IS 'Of a counter: its increase between the samples of the bucket, resets handled; the step from the bucket before is added by series_increase.';
    COMMENT ON COLUMN samples_hourly.resets IS 'Of a counter: times it started anew inside the bucket.';
END $$;

GRANT SELECT ON samples_hourly TO tsstats_reader;

GRANT EXECUTE ON FUNCTION
    value_counter(numeric),
    value_counter_roll(numeric, numeric, numeric, numeric),
    series_states(timestamptz, timestamptz, boolean, integer[], integer[]),
    series_before(timestamptz, integer[], integer[]),
    series_increase(timestamptz, timestamptz, interval, text[], text[])
TO tsstats_reader;

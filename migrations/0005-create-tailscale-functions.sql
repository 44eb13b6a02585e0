-- Create the functions and views that read the tailscale tables: traffic, history, who was seen.

CREATE FUNCTION counter_step(previous bigint, next bigint, reset boolean) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN previous IS NULL THEN 0
        WHEN reset THEN next
        ELSE next - previous
    END
$$;

CREATE FUNCTION counter_total(total numeric) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN total > 9223372036854775807 THEN 9223372036854775807
        ELSE total::bigint
    END
$$;

CREATE FUNCTION tailscale_peers_level(bucket interval) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN extract(year FROM bucket) <> 0 OR extract(month FROM bucket) <> 0 THEN 3
        WHEN extract(epoch FROM bucket) % 86400 = 0 THEN 3
        WHEN extract(epoch FROM bucket) % 3600 = 0 THEN 2
        WHEN extract(epoch FROM bucket) % 300 = 0 THEN 1
        ELSE 0
    END
$$;

CREATE FUNCTION tailscale_counter_states(
    since timestamptz,
    until timestamptz,
    level integer,
    hosts integer[] DEFAULT NULL,
    nodes integer[] DEFAULT NULL
) RETURNS TABLE (
    "time" timestamptz,
    host_id integer,
    node_id integer,
    rx_first bigint,
    rx_last bigint,
    rx_increase bigint,
    tx_first bigint,
    tx_last bigint,
    tx_increase bigint,
    resets bigint,
    key_first bigint,
    key_last bigint,
    samples bigint
)
LANGUAGE plpgsql STABLE ROWS 10000 AS $$
DECLARE
    -- In hours: a day of the session's time zone may have 23.
    width CONSTANT interval := (ARRAY['5 minutes', '1 hour', '24 hours'])[level];
    low timestamptz;
    high timestamptz;
BEGIN
    IF NOT since < until THEN
        RETURN;
    END IF;
    -- Dynamic SQL, so that the planner sees the bounds and leaves out chunks.
    IF level = 0 THEN
        RETURN QUERY EXECUTE
            'SELECT time, host_id, node_id,
                 c.rx, c.rx, c.increase, c.tx, c.tx, c.increase, c.increase, c.key, c.key, 1::bigint
             FROM tailscale_peers
             LEFT JOIN LATERAL (
                 SELECT rx_bytes AS rx, tx_bytes AS tx, key_epoch AS key, 0::bigint AS increase
                 WHERE rx_bytes IS NOT NULL AND tx_bytes IS NOT NULL
             ) AS c ON true
             WHERE time >= $1 AND time < $2
                 AND ($3 IS NULL OR host_id = ANY ($3)) AND ($4 IS NULL OR node_id = ANY ($4))'
        USING since, until, hosts, nodes;
        RETURN;
    END IF;
    low := time_bucket(width, since);
    IF low < since THEN
        low := low + width;
    END IF;
    high := time_bucket(width, until);
    IF low >= high THEN
        RETURN QUERY SELECT * FROM tailscale_counter_states(since, until, level - 1, hosts, nodes);
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM tailscale_counter_states(since, low, level - 1, hosts, nodes);
    RETURN QUERY EXECUTE format(
        'SELECT bucket, host_id, node_id,
             rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last, samples
         FROM %I
         WHERE bucket >= $1 AND bucket < $2
             AND ($3 IS NULL OR host_id = ANY ($3)) AND ($4 IS NULL OR node_id = ANY ($4))',
        (ARRAY['tailscale_peers_5m', 'tailscale_peers_hourly', 'tailscale_peers_daily'])[level]
    ) USING low, high, hosts, nodes;
    RETURN QUERY SELECT * FROM tailscale_counter_states(high, until, level - 1, hosts, nodes);
END $$;

CREATE FUNCTION tailscale_counters(since timestamptz, until timestamptz, bucket interval) RETURNS TABLE (
    "time" timestamptz,
    host_id integer,
    node_id integer,
    rx_first bigint,
    rx_last bigint,
    rx_increase bigint,
    tx_first bigint,
    tx_last bigint,
    tx_increase bigint,
    resets bigint,
    key_first bigint,
    key_last bigint,
    samples bigint
)
LANGUAGE sql STABLE ROWS 10000 AS $$
    SELECT *
    FROM tailscale_counter_states(since, until, tailscale_peers_level(bucket))
$$;

CREATE FUNCTION tailscale_counters_before(since timestamptz, hosts integer[], nodes integer[]) RETURNS TABLE (
    host_id integer,
    node_id integer,
    rx_last bigint,
    tx_last bigint,
    key_last bigint
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
            array_agg(last_states.host_id) AS hosts,
            array_agg(last_states.node_id) AS nodes,
            array_agg(last_states.rx_last) AS rx,
            array_agg(last_states.tx_last) AS tx,
            array_agg(last_states.key_last) AS keys
        INTO found
        FROM (
            SELECT DISTINCT ON (states.host_id, states.node_id) states.*
            FROM tailscale_counter_states(low, high, 3, hosts, nodes) AS states
            INNER JOIN unnest(hosts, nodes) AS wanted (host_id, node_id)
                ON wanted.host_id = states.host_id AND wanted.node_id = states.node_id
            WHERE states.rx_first IS NOT NULL
            ORDER BY states.host_id, states.node_id, states.time DESC
        ) AS last_states;
        RETURN QUERY SELECT * FROM unnest(found.hosts, found.nodes, found.rx, found.tx, found.keys);
        EXIT WHEN low = '-infinity';
        SELECT array_agg(missing.host_id), array_agg(missing.node_id)
        INTO hosts, nodes
        FROM (
            SELECT * FROM unnest(hosts, nodes)
            EXCEPT
            SELECT * FROM unnest(found.hosts, found.nodes)
        ) AS missing (host_id, node_id);
        high := low;
        low := CASE WHEN days > 100 THEN '-infinity' ELSE today - days * INTERVAL '24 hours' END;
        days := days * 8;
    END LOOP;
END $$;

CREATE FUNCTION tailscale_traffic(
    since timestamptz,
    until timestamptz,
    bucket interval DEFAULT '1 hour'
) RETURNS TABLE (
    bucket timestamptz,
    reporter text,
    peer text,
    rx_bytes bigint,
    tx_bytes bigint,
    resets bigint,
    samples bigint,
    host_id integer,
    node_id integer
)
LANGUAGE sql STABLE ROWS 10000 AS $$
    WITH states AS MATERIALIZED (
        SELECT * FROM tailscale_counters($1, $2, $3)
    ),
    series AS (
        SELECT array_agg(s.host_id) AS hosts, array_agg(s.node_id) AS nodes
        FROM (SELECT DISTINCT states.host_id, states.node_id FROM states WHERE states.rx_first IS NOT NULL) AS s
    ),
    pairs AS (
        SELECT
            all_states.*,
            lag(all_states.rx_last) OVER earlier AS rx_before,
            lag(all_states.tx_last) OVER earlier AS tx_before,
            lag(all_states.key_last) OVER earlier AS key_before
        FROM (
            SELECT * FROM states
            UNION ALL
            SELECT
                '-infinity', known.host_id, known.node_id,
                known.rx_last, known.rx_last, NULL, known.tx_last, known.tx_last, NULL,
                NULL, NULL, known.key_last, NULL
            FROM series CROSS JOIN LATERAL tailscale_counters_before($1, series.hosts, series.nodes) AS known
        ) AS all_states
        -- Samples without counters stand apart, so that the step reaches over them.
        WINDOW earlier AS (
            PARTITION BY all_states.host_id, all_states.node_id, all_states.rx_first IS NULL ORDER BY all_states.time
        )
    ),
    steps AS (
        SELECT
            pairs.*,
            coalesce(
                pairs.rx_first < pairs.rx_before
                OR pairs.tx_first < pairs.tx_before
                OR pairs.key_first <> pairs.key_before,
                false
            ) AS reset
        FROM pairs
        WHERE pairs.time >= $1
    ),
    buckets AS (
        SELECT
            time_bucket($3, steps.time) AS bucket,
            steps.host_id,
            steps.node_id,
            sum(steps.rx_increase) + sum(counter_step(steps.rx_before, steps.rx_first, steps.reset)) AS rx_bytes,
            sum(steps.tx_increase) + sum(counter_step(steps.tx_before, steps.tx_first, steps.reset)) AS tx_bytes,
            coalesce(sum(steps.resets), 0) + count(*) FILTER (WHERE steps.reset) AS resets,
            sum(steps.samples) AS samples
        FROM steps
        GROUP BY 1, 2, 3
    )
    SELECT
        buckets.bucket,
        hosts.name,
        tailscale_nodes.name,
        counter_total(buckets.rx_bytes),
        counter_total(buckets.tx_bytes),
        buckets.resets::bigint,
        buckets.samples::bigint,
        buckets.host_id,
        buckets.node_id
    FROM buckets
    INNER JOIN hosts ON hosts.host_id = buckets.host_id
    INNER JOIN tailscale_nodes ON tailscale_nodes.node_id = buckets.node_id
    ORDER BY buckets.bucket, buckets.host_id, buckets.node_id
$$;

CREATE FUNCTION tailscale_traffic_by_reporter(
    since timestamptz,
    until timestamptz,
    bucket interval DEFAULT '1 hour'
) RETURNS TABLE (
    bucket timestamptz,
    reporter text,
    rx_bytes bigint,
    tx_bytes bigint,
    resets bigint,
    samples bigint,
    host_id integer
)
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT
        t.bucket, t.reporter, counter_total(sum(t.rx_bytes)), counter_total(sum(t.tx_bytes)),
        sum(t.resets)::bigint, sum(t.samples)::bigint, t.host_id
    FROM tailscale_traffic($1, $2, $3) AS t
    GROUP BY t.bucket, t.reporter, t.host_id
    ORDER BY t.bucket, t.reporter, t.host_id
$$;

CREATE FUNCTION tailscale_traffic_labelled(since timestamptz, until timestamptz, bucket interval) RETURNS TABLE (
    bucket timestamptz,
    tailnet text,
    user_id bigint,
    user_name text,
    tags text[],
    rx_bytes bigint,
    tx_bytes bigint,
    resets bigint,
    samples bigint
)
LANGUAGE sql STABLE ROWS 10000 AS $$
    WITH versions AS (
        SELECT
            c.host_id, c.node_id, c.user_id, c.user_name, c.tags, c.time,
            coalesce(lead(c.time) OVER (PARTITION BY c.host_id, c.node_id ORDER BY c.time), 'infinity') AS next_time
        FROM tailscale_node_changes AS c
        WHERE c.time < $2
    )
    SELECT
        t.bucket,
        n.tailnet,
        CASE WHEN v.host_id IS NULL THEN n.user_id ELSE v.user_id END,
        CASE
            WHEN v.host_id IS NULL THEN n.user_name
            WHEN v.user_name IS NULL AND n.user_id = v.user_id THEN n.user_name
            ELSE v.user_name
        END,
        CASE WHEN v.host_id IS NULL THEN n.tags ELSE v.tags END,
        t.rx_bytes,
        t.tx_bytes,
        t.resets,
        t.samples
    FROM tailscale_traffic($1, $2, $3) AS t
    INNER JOIN tailscale_nodes AS n ON n.node_id = t.node_id
    LEFT JOIN versions AS v
        ON v.host_id = t.host_id AND v.node_id = t.node_id
            AND v.time < least(t.bucket + $3, $2) AND v.next_time >= least(t.bucket + $3, $2)
$$;

CREATE FUNCTION tailscale_traffic_by_user(
    since timestamptz,
    until timestamptz,
    bucket interval DEFAULT '1 hour'
) RETURNS TABLE (
    bucket timestamptz,
    tailnet text,
    user_name text,
    rx_bytes bigint,
    tx_bytes bigint,
    resets bigint,
    samples bigint,
    user_id bigint
)
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT
        t.bucket, t.tailnet, t.user_name, counter_total(sum(t.rx_bytes)), counter_total(sum(t.tx_bytes)),
        sum(t.resets)::bigint, sum(t.samples)::bigint, t.user_id
    FROM tailscale_traffic_labelled($1, $2, $3) AS t
    GROUP BY t.bucket, t.tailnet, t.user_name, t.user_id
    ORDER BY t.bucket, t.tailnet, t.user_name, t.user_id
$$;

CREATE FUNCTION tailscale_traffic_by_tag(
    since timestamptz,
    until timestamptz,
    bucket interval DEFAULT '1 hour'
) RETURNS TABLE (
    bucket timestamptz,
    tailnet text,
    tag text,
    rx_bytes bigint,
    tx_bytes bigint,
    resets bigint,
    samples bigint
)
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT
        t.bucket, t.tailnet, tags.tag, counter_total(sum(t.rx_bytes)), counter_total(sum(t.tx_bytes)),
        sum(t.resets)::bigint, sum(t.samples)::bigint
    FROM tailscale_traffic_labelled($1, $2, $3) AS t
    LEFT JOIN LATERAL unnest(t.tags) AS tags (tag) ON true
    GROUP BY t.bucket, t.tailnet, tags.tag
    ORDER BY t.bucket, t.tailnet, tags.tag
$$;

CREATE FUNCTION tailscale_traffic_by_tailnet(
    since timestamptz,
    until timestamptz,
    bucket interval DEFAULT '1 hour'
) RETURNS TABLE (
    bucket timestamptz,
    tailnet text,
    rx_bytes bigint,
    tx_bytes bigint,
    resets bigint,
    samples bigint
)
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT
        t.bucket, n.tailnet, counter_total(sum(t.rx_bytes)), counter_total(sum(t.tx_bytes)),
        sum(t.resets)::bigint, sum(t.samples)::bigint
    FROM tailscale_traffic($1, $2, $3) AS t
    INNER JOIN tailscale_nodes AS n ON n.node_id = t.node_id
    GROUP BY t.bucket, n.tailnet
    ORDER BY t.bucket, n.tailnet
$$;

CREATE FUNCTION tailscale_presence(
    since timestamptz,
    until timestamptz,
    bucket interval DEFAULT '1 hour'
) RETURNS TABLE (
    bucket timestamptz,
    reporter text,
    peer text,
    samples bigint,
    online_samples bigint,
    active_samples bigint,
    direct_samples bigint,
    derp_samples bigint,
    peer_relay_samples bigint,
    last_handshake timestamptz,
    host_id integer,
    node_id integer
)
LANGUAGE sql STABLE ROWS 10000 AS $$
    SELECT
        b.bucket,
        hosts.name,
        tailscale_nodes.name,
        b.samples,
        b.online_samples,
        b.active_samples,
        b.direct_samples,
        b.derp_samples,
        b.peer_relay_samples,
        b.last_handshake,
        b.host_id,
        b.node_id
    FROM (
        SELECT
            time_bucket($3, a.bucket) AS bucket,
            a.host_id,
            a.node_id,
            sum(a.samples)::bigint AS samples,
            sum(a.online_samples)::bigint AS online_samples,
            sum(a.active_samples)::bigint AS active_samples,
            sum(a.direct_samples)::bigint AS direct_samples,
            sum(a.derp_samples)::bigint AS derp_samples,
            sum(a.peer_relay_samples)::bigint AS peer_relay_samples,
            max(a.last_handshake) AS last_handshake
        FROM (
            -- The planner drops the three that the width rules out.
            SELECT
                time, host_id, node_id, 1, (online IS true)::integer, (active IS true)::integer,
                (path IS NOT DISTINCT FROM 'direct')::integer, (path IS NOT DISTINCT FROM 'derp')::integer,
                (path IS NOT DISTINCT FROM 'peer_relay')::integer, last_handshake
            FROM tailscale_peers
            WHERE tailscale_peers_level($3) = 0 AND time >= $1 AND time < $2
            UNION ALL
            SELECT
                bucket, host_id, node_id, samples, online_samples, active_samples,
                direct_samples, derp_samples, peer_relay_samples, last_handshake
            FROM tailscale_peers_5m AS five
            WHERE tailscale_peers_level($3) = 1
                AND five.bucket > $1 - INTERVAL '5 minutes' AND five.bucket < $2
            UNION ALL
            SELECT
                bucket, host_id, node_id, samples, online_samples, active_samples,
                direct_samples, derp_samples, peer_relay_samples, last_handshake
            FROM tailscale_peers_hourly AS hourly
            WHERE tailscale_peers_level($3) = 2
                AND hourly.bucket > $1 - INTERVAL '1 hour' AND hourly.bucket < $2
            UNION ALL
            SELECT
                bucket, host_id, node_id, samples, online_samples, active_samples,
                direct_samples, derp_samples, peer_relay_samples, last_handshake
            FROM tailscale_peers_daily AS daily
            WHERE tailscale_peers_level($3) = 3
                AND daily.bucket > $1 - INTERVAL '24 hours' AND daily.bucket < $2
        ) AS a (
            bucket, host_id, node_id, samples, online_samples, active_samples,
            direct_samples, derp_samples, peer_relay_samples, last_handshake
        )
        GROUP BY 1, 2, 3
    ) AS b
    INNER JOIN hosts ON hosts.host_id = b.host_id
    INNER JOIN tailscale_nodes ON tailscale_nodes.node_id = b.node_id
    ORDER BY b.bucket, b.host_id, b.node_id
$$;

CREATE VIEW tailscale_node_history AS
SELECT
    h.name AS reporter,
    n.tailnet,
    n.name AS node,
    v.time AS valid_from,
    v.valid_until,
    (
        SELECT array_agg(f.key ORDER BY f.key)
        FROM jsonb_each(v.fields) AS f
        WHERE v.fields_before IS NOT NULL AND f.value IS DISTINCT FROM v.fields_before -> f.key
    ) AS changed,
    v.host_name,
    v.dns_name,
    v.os,
    v.version,
    v.user_id,
    v.user_name,
    v.tags,
    v.public_key,
    v.key_expiry,
    v.expired,
    v.exit_node_option,
    v.tailscale_ips,
    v.allowed_ips,
    v.primary_routes,
    v.host_id,
    v.node_id
FROM (
    SELECT
        c.*,
        lead(c.time) OVER versions AS valid_until,
        to_jsonb(c) - ARRAY['host_id', 'node_id', 'time', 'digest'] AS fields,
        lag(to_jsonb(c)) OVER versions AS fields_before
    FROM tailscale_node_changes AS c
    WINDOW versions AS (PARTITION BY c.host_id, c.node_id ORDER BY c.time)
) AS v
INNER JOIN hosts AS h ON h.host_id = v.host_id
INNER JOIN tailscale_nodes AS n ON n.node_id = v.node_id;

CREATE VIEW tailscale_health_history AS
WITH versions AS (
    SELECT
        c.*,
        row_number() OVER statuses AS version_number,
        lead(c.time) OVER statuses AS next_time
    FROM tailscale_status_changes AS c
    WINDOW statuses AS (PARTITION BY c.host_id ORDER BY c.time)
),
messages AS (
    SELECT
        v.host_id,
        m.message,
        v.time,
        coalesce(v.next_time, 'infinity') AS next_time,
        -- Constant along consecutive versions that hold the message.
        v.version_number - row_number() OVER (PARTITION BY v.host_id, m.message ORDER BY v.time) AS island
    FROM versions AS v
    CROSS JOIN LATERAL (SELECT DISTINCT message FROM unnest(v.health) AS message) AS m
)
SELECT
    h.name AS reporter,
    h.tailnet,
    m.message,
    min(m.time) AS appeared_at,
    nullif(max(m.next_time), 'infinity') AS cleared_at,
    m.host_id
FROM messages AS m
INNER JOIN hosts AS h ON h.host_id = m.host_id
GROUP BY m.host_id, h.name, h.tailnet, m.message, m.island;

CREATE VIEW tailscale_exit_node_history AS
WITH versions AS (
    SELECT
        c.host_id,
        c.exit_node_id,
        c.time,
        coalesce(lead(c.time) OVER statuses, 'infinity') AS next_time,
        row_number() OVER statuses
        - row_number() OVER (PARTITION BY c.host_id, c.exit_node_id ORDER BY c.time) AS island
    FROM tailscale_status_changes AS c
    WINDOW statuses AS (PARTITION BY c.host_id ORDER BY c.time)
)
SELECT
    h.name AS reporter,
    h.tailnet,
    n.name AS exit_node,
    min(v.time) AS since,
    nullif(max(v.next_time), 'infinity') AS until,
    v.host_id,
    v.exit_node_id
FROM versions AS v
INNER JOIN hosts AS h ON h.host_id = v.host_id
INNER JOIN tailscale_nodes AS n ON n.node_id = v.exit_node_id
GROUP BY v.host_id, h.name, h.tailnet, v.exit_node_id, n.name, v.island;

CREATE VIEW tailscale_route_history AS
WITH claims AS (
    SELECT
        v.host_id,
        n.tailnet,
        r.route,
        v.node_id,
        v.time,
        v.next_time
    FROM (
        SELECT
            c.*,
            lead(c.time) OVER (PARTITION BY c.host_id, c.node_id ORDER BY c.time) AS next_time
        FROM tailscale_node_changes AS c
    ) AS v
    INNER JOIN tailscale_nodes AS n ON n.node_id = v.node_id
    CROSS JOIN LATERAL (SELECT DISTINCT route FROM unnest(v.primary_routes) AS route) AS r
),
moments AS (
    SELECT host_id, tailnet, route, time FROM claims
    UNION
    SELECT host_id, tailnet, route, next_time FROM claims WHERE next_time IS NOT NULL
),
routers AS (
    SELECT DISTINCT host_id, tailnet, route, node_id FROM claims
),
holders AS (
    -- A route has one primary router, so the latest version that claims it tells. A router that
    -- left has no later version: its claim is outdone by its successor's, and stands again after it.
    SELECT DISTINCT ON (m.host_id, m.tailnet, m.route, m.time)
        m.host_id,
        m.tailnet,
        m.route,
        m.time,
        CASE WHEN latest.claims THEN routers.node_id END AS node_id
    FROM moments AS m
    INNER JOIN routers USING (host_id, tailnet, route)
    CROSS JOIN LATERAL (
        SELECT c.time, coalesce(m.route = ANY (c.primary_routes), false) AS claims
        FROM tailscale_node_changes AS c
        WHERE c.host_id = m.host_id AND c.node_id = routers.node_id AND c.time <= m.time
        ORDER BY c.time DESC
        LIMIT 1
    ) AS latest
    ORDER BY m.host_id, m.tailnet, m.route, m.time, latest.claims DESC, latest.time DESC, routers.node_id
),
changes AS (
    SELECT
        holders.*,
        lag(holders.node_id) OVER (PARTITION BY host_id, tailnet, route ORDER BY time) AS node_before
    FROM holders
),
terms AS (
    SELECT
        changes.*,
        lead(time) OVER (PARTITION BY host_id, tailnet, route ORDER BY time) AS until
    FROM changes
    WHERE node_id IS DISTINCT FROM node_before
)
SELECT
    h.name AS reporter,
    t.tailnet,
    t.route,
    n.name AS router,
    t.time AS since,
    t.until,
    t.host_id,
    t.node_id
FROM terms AS t
INNER JOIN hosts AS h ON h.host_id = t.host_id
INNER JOIN tailscale_nodes AS n ON n.node_id = t.node_id;

CREATE VIEW tailscale_reporters AS
SELECT
    h.name AS reporter,
    h.tailnet,
    s.backend_state,
    s.version,
    s.online,
    s.health,
    e.name AS exit_node,
    s.relay,
    s.peers,
    s.peers_online,
    s.peers_active,
    s.peers_direct,
    s.peers_derp,
    s.peers_peer_relay,
    f.time AS first_seen,
    s.time AS last_seen,
    h.host_id,
    s.node_id
FROM hosts AS h
CROSS JOIN LATERAL (
    SELECT *
    FROM tailscale_status
    -- What is of more than an hour from now is a wrong clock's.
    WHERE tailscale_status.host_id = h.host_id AND tailscale_status.time <= now() + INTERVAL '1 hour'
    ORDER BY tailscale_status.time DESC
    LIMIT 1
) AS s
CROSS JOIN LATERAL (
    SELECT tailscale_status.time
    FROM tailscale_status
    WHERE tailscale_status.host_id = h.host_id
    ORDER BY tailscale_status.time ASC
    LIMIT 1
) AS f
LEFT JOIN tailscale_nodes AS e ON e.node_id = s.exit_node_id;

CREATE VIEW tailscale_nodes_seen AS
SELECT
    n.tailnet,
    n.name AS node,
    min(s.first_seen) AS first_seen,
    max(s.last_seen) AS last_seen,
    count(DISTINCT s.host_id) AS reporters,
    n.node_id
FROM (
    SELECT host_id, node_id, first_time AS first_seen, last_time AS last_seen FROM tailscale_peers_daily
    UNION ALL
    SELECT host_id, node_id, first_seen, last_seen FROM tailscale_reporters
) AS s
INNER JOIN tailscale_nodes AS n ON n.node_id = s.node_id
GROUP BY n.node_id;

DO $$
BEGIN
    COMMENT ON FUNCTION counter_step(bigint, bigint, boolean) IS 'Increase of a counter from one sample to the next [bytes]: after a reset it counts from zero; nothing where there is no sample before.';
    COMMENT ON FUNCTION counter_total(numeric) IS 'A sum of increases as bigint; 9223372036854775807 stands for that much or more [bytes].';
    COMMENT ON FUNCTION tailscale_peers_level(interval) IS 'Coarsest aggregate whose buckets lie inside buckets of the given width: 3 daily, 2 hourly, 1 five minutes, 0 samples.';
    COMMENT ON FUNCTION tailscale_counter_states(timestamptz, timestamptz, integer, integer[], integer[]) IS 'Counter states that cover exactly since <= time < until: whole buckets of the given level (3 daily, 2 hourly, 1 five minutes, 0 samples), finer levels at the edges; of the given hosts and nodes, or of all.';
    COMMENT ON FUNCTION tailscale_counters(timestamptz, timestamptz, interval) IS 'Counter states per reporter and peer that cover exactly since <= time < until, from the coarsest continuous aggregate whose buckets lie inside buckets of the given width. Columns as in tailscale_peers_5m.';
    COMMENT ON FUNCTION tailscale_counters_before(timestamptz, integer[], integer[]) IS 'Last counter values before a time of the given series (host_id and node_id pairwise), however far back, from the aggregates where the samples are gone [bytes].';
    COMMENT ON FUNCTION tailscale_traffic(timestamptz, timestamptz, interval) IS 'Bytes between each reporter and each of its peers in each bucket of since <= time < until, as the reporter counts them: rx_bytes received from the peer, tx_bytes sent to it [bytes]; NULL where no sample of the bucket has both counters. Exact across buckets and resets: both start anew where either falls or the key changes, and the step from the sample before counts at the later sample, also after a silent gap and for the first sample after since. The first sample of a series adds nothing. resets: times the counters started anew. 9223372036854775807 stands for that much or more. Buckets are in UTC. Sums over reporters count traffic between two reporters twice.';
    COMMENT ON FUNCTION tailscale_traffic_by_reporter(timestamptz, timestamptz, interval) IS 'tailscale_traffic summed over the peers of each reporter [bytes].';
    COMMENT ON FUNCTION tailscale_traffic_labelled(timestamptz, timestamptz, interval) IS 'tailscale_traffic [bytes] with the owner and the tags that the peer had then, by the reporter''s own word: a bucket has those of the last sample in it that the reporter sent. Where it told none, those of the node.';
    COMMENT ON FUNCTION tailscale_traffic_by_user(timestamptz, timestamptz, interval) IS 'tailscale_traffic summed over the peers of each user, by the owner that the reporter saw at the end of the bucket [bytes].';
    COMMENT ON FUNCTION tailscale_traffic_by_tag(timestamptz, timestamptz, interval) IS 'tailscale_traffic summed over the peers with each tag, by the tags that the reporter saw at the end of the bucket [bytes]. A peer with two tags counts for both; tag is NULL for peers that have none.';
    COMMENT ON FUNCTION tailscale_traffic_by_tailnet(timestamptz, timestamptz, interval) IS 'tailscale_traffic summed over each tailnet [bytes].';
    COMMENT ON FUNCTION tailscale_presence(timestamptz, timestamptz, interval) IS 'How many samples of each reporter found each peer online, active, and on which path, in each bucket, with the latest handshake. Made from the coarsest aggregate whose buckets lie inside them (or the samples); those stay whole at both ends of the range. Buckets are in UTC.';

    COMMENT ON VIEW tailscale_node_history IS 'How each node looked to each reporter, and from when until when: one row per version of its names, system, user, tags, key, routes and addresses.';
    COMMENT ON COLUMN tailscale_node_history.reporter IS 'Host that reported (hosts.name).';
    COMMENT ON COLUMN tailscale_node_history.tailnet IS 'Tailnet of the node.';
    COMMENT ON COLUMN tailscale_node_history.node IS 'Name of the node as it is today (tailscale_nodes.name).';
    COMMENT ON COLUMN tailscale_node_history.valid_from IS 'First sample that shows it so.';
    COMMENT ON COLUMN tailscale_node_history.valid_until IS 'First sample that shows it otherwise; NULL while it lasts.';
    COMMENT ON COLUMN tailscale_node_history.changed IS 'Columns that differ from the version before, sorted; NULL for the first version.';
    COMMENT ON COLUMN tailscale_node_history.host_name IS 'HostName.';
    COMMENT ON COLUMN tailscale_node_history.dns_name IS 'DNSName.';
    COMMENT ON COLUMN tailscale_node_history.os IS 'OS.';
    COMMENT ON COLUMN tailscale_node_history.version IS 'Version; only of the reporter itself.';
    COMMENT ON COLUMN tailscale_node_history.user_id IS 'UserID.';
    COMMENT ON COLUMN tailscale_node_history.user_name IS 'Login name of the user.';
    COMMENT ON COLUMN tailscale_node_history.tags IS 'Tags, sorted.';
    COMMENT ON COLUMN tailscale_node_history.public_key IS 'PublicKey.';
    COMMENT ON COLUMN tailscale_node_history.key_expiry IS 'KeyExpiry; NULL for never.';
    COMMENT ON COLUMN tailscale_node_history.expired IS 'Expired.';
    COMMENT ON COLUMN tailscale_node_history.exit_node_option IS 'ExitNodeOption.';
    COMMENT ON COLUMN tailscale_node_history.tailscale_ips IS 'TailscaleIPs, or TailAddr.';
    COMMENT ON COLUMN tailscale_node_history.allowed_ips IS 'AllowedIPs, sorted.';
    COMMENT ON COLUMN tailscale_node_history.primary_routes IS 'PrimaryRoutes, sorted.';
    COMMENT ON COLUMN tailscale_node_history.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN tailscale_node_history.node_id IS 'The node (tailscale_nodes).';

    COMMENT ON VIEW tailscale_health_history IS 'Each health message of each reporter, when it appeared and when it cleared; a message that comes back has a row for each time.';
    COMMENT ON COLUMN tailscale_health_history.reporter IS 'Host that reported (hosts.name).';
    COMMENT ON COLUMN tailscale_health_history.tailnet IS 'Tailnet of the host.';
    COMMENT ON COLUMN tailscale_health_history.message IS 'The message as sent (Health).';
    COMMENT ON COLUMN tailscale_health_history.appeared_at IS 'First sample that holds it.';
    COMMENT ON COLUMN tailscale_health_history.cleared_at IS 'First sample without it; NULL while it lasts.';
    COMMENT ON COLUMN tailscale_health_history.host_id IS 'Host that reported (hosts).';

    COMMENT ON VIEW tailscale_exit_node_history IS 'Which exit node each reporter used, and when.';
    COMMENT ON COLUMN tailscale_exit_node_history.reporter IS 'Host that used it (hosts.name).';
    COMMENT ON COLUMN tailscale_exit_node_history.tailnet IS 'Tailnet of the host.';
    COMMENT ON COLUMN tailscale_exit_node_history.exit_node IS 'The exit node (tailscale_nodes.name).';
    COMMENT ON COLUMN tailscale_exit_node_history.since IS 'First sample that shows it in use.';
    COMMENT ON COLUMN tailscale_exit_node_history.until IS 'First sample that shows another one or none; NULL while it lasts.';
    COMMENT ON COLUMN tailscale_exit_node_history.host_id IS 'Host that used it (hosts).';
    COMMENT ON COLUMN tailscale_exit_node_history.exit_node_id IS 'The exit node (tailscale_nodes).';

    COMMENT ON VIEW tailscale_route_history IS 'Which router was primary for each route, and when, as each reporter saw it. Made from tailscale_node_changes, which has no row for a node that leaves, nor for one that comes back as it was: a router that left keeps the route until another one takes it, and has it again when that one gives it up.';
    COMMENT ON COLUMN tailscale_route_history.reporter IS 'Host that reported (hosts.name).';
    COMMENT ON COLUMN tailscale_route_history.tailnet IS 'Tailnet of the router.';
    COMMENT ON COLUMN tailscale_route_history.route IS 'The route (PrimaryRoutes).';
    COMMENT ON COLUMN tailscale_route_history.router IS 'Its primary router (tailscale_nodes.name).';
    COMMENT ON COLUMN tailscale_route_history.since IS 'First sample that shows it so; for a router that had left, the one that shows its successor without the route.';
    COMMENT ON COLUMN tailscale_route_history.until IS 'First sample that shows the router without the route, or another router with it; NULL while it lasts.';
    COMMENT ON COLUMN tailscale_route_history.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN tailscale_route_history.node_id IS 'The router (tailscale_nodes).';

    COMMENT ON VIEW tailscale_reporters IS 'Each host that sends status documents, with the latest of them.';
    COMMENT ON COLUMN tailscale_reporters.reporter IS 'The host (hosts.name).';
    COMMENT ON COLUMN tailscale_reporters.tailnet IS 'Its tailnet.';
    COMMENT ON COLUMN tailscale_reporters.backend_state IS 'BackendState.';
    COMMENT ON COLUMN tailscale_reporters.version IS 'Version of the daemon (Version).';
    COMMENT ON COLUMN tailscale_reporters.online IS 'Whether it is connected to the control plane (Self.Online).';
    COMMENT ON COLUMN tailscale_reporters.health IS 'Health messages; their order carries no meaning (Health).';
    COMMENT ON COLUMN tailscale_reporters.exit_node IS 'Exit node in use (tailscale_nodes.name).';
    COMMENT ON COLUMN tailscale_reporters.relay IS 'Home DERP region (Self.Relay).';
    COMMENT ON COLUMN tailscale_reporters.peers IS 'Peers in the document.';
    COMMENT ON COLUMN tailscale_reporters.peers_online IS 'Peers that are online.';
    COMMENT ON COLUMN tailscale_reporters.peers_active IS 'Peers that are active.';
    COMMENT ON COLUMN tailscale_reporters.peers_direct IS 'Active peers on a direct path.';
    COMMENT ON COLUMN tailscale_reporters.peers_derp IS 'Active peers relayed by DERP.';
    COMMENT ON COLUMN tailscale_reporters.peers_peer_relay IS 'Active peers relayed by a peer.';
    COMMENT ON COLUMN tailscale_reporters.first_seen IS 'Time of its earliest status that is still kept.';
    COMMENT ON COLUMN tailscale_reporters.last_seen IS 'Time of its latest status.';
    COMMENT ON COLUMN tailscale_reporters.host_id IS 'The host (hosts).';
    COMMENT ON COLUMN tailscale_reporters.node_id IS 'The host as a node (tailscale_nodes); NULL before login.';

    COMMENT ON VIEW tailscale_nodes_seen IS 'Each node with the first and the last sample that holds it, its own reports included. Seen says listed, not online.';
    COMMENT ON COLUMN tailscale_nodes_seen.tailnet IS 'Tailnet of the node.';
    COMMENT ON COLUMN tailscale_nodes_seen.node IS 'The node (tailscale_nodes.name).';
    COMMENT ON COLUMN tailscale_nodes_seen.first_seen IS 'First sample that holds it.';
    COMMENT ON COLUMN tailscale_nodes_seen.last_seen IS 'Last sample that holds it.';
    COMMENT ON COLUMN tailscale_nodes_seen.reporters IS 'Hosts that ever listed it.';
    COMMENT ON COLUMN tailscale_nodes_seen.node_id IS 'The node (tailscale_nodes).';
END $$;

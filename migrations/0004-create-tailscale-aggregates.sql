-- Create the continuous aggregates of tailscale_peers: 5 minutes, hourly and daily, stacked.

CREATE MATERIALIZED VIEW tailscale_peers_5m
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '5 minutes', time) AS bucket,
    host_id,
    node_id,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[1] AS rx_first,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[2] AS rx_last,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[3] AS rx_increase,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[4] AS tx_first,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[5] AS tx_last,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[6] AS tx_increase,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[7] AS resets,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[8] AS key_first,
    (traffic_counter(rx_bytes, tx_bytes, key_epoch ORDER BY time))[9] AS key_last,
    count(*) AS samples,
    count(*) FILTER (WHERE online) AS online_samples,
    count(*) FILTER (WHERE active) AS active_samples,
    count(*) FILTER (WHERE path = 'direct') AS direct_samples,
    count(*) FILTER (WHERE path = 'derp') AS derp_samples,
    count(*) FILTER (WHERE path = 'peer_relay') AS peer_relay_samples,
    max(last_handshake) AS last_handshake,
    min(time) AS first_time,
    max(time) AS last_time
FROM tailscale_peers
GROUP BY 1, 2, 3
WITH NO DATA;

CREATE MATERIALIZED VIEW tailscale_peers_hourly
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 hour', bucket) AS bucket,
    host_id,
    node_id,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[1] AS rx_first,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[2] AS rx_last,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[3] AS rx_increase,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[4] AS tx_first,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[5] AS tx_last,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[6] AS tx_increase,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[7] AS resets,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[8] AS key_first,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[9] AS key_last,
    sum(samples)::bigint AS samples,
    sum(online_samples)::bigint AS online_samples,
    sum(active_samples)::bigint AS active_samples,
    sum(direct_samples)::bigint AS direct_samples,
    sum(derp_samples)::bigint AS derp_samples,
    sum(peer_relay_samples)::bigint AS peer_relay_samples,
    max(last_handshake) AS last_handshake,
    min(first_time) AS first_time,
    max(last_time) AS last_time
FROM tailscale_peers_5m
GROUP BY 1, 2, 3
WITH NO DATA;

CREATE MATERIALIZED VIEW tailscale_peers_daily
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 day', bucket) AS bucket,
    host_id,
    node_id,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[1] AS rx_first,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[2] AS rx_last,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[3] AS rx_increase,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[4] AS tx_first,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[5] AS tx_last,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[6] AS tx_increase,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[7] AS resets,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[8] AS key_first,
    (traffic_counter_roll(rx_first, rx_last, rx_increase, tx_first, tx_last, tx_increase, resets, key_first, key_last ORDER BY bucket))[9] AS key_last,
    sum(samples)::bigint AS samples,
    sum(online_samples)::bigint AS online_samples,
    sum(active_samples)::bigint AS active_samples,
    sum(direct_samples)::bigint AS direct_samples,
    sum(derp_samples)::bigint AS derp_samples,
    sum(peer_relay_samples)::bigint AS peer_relay_samples,
    max(last_handshake) AS last_handshake,
    min(first_time) AS first_time,
    max(last_time) AS last_time
FROM tailscale_peers_hourly
GROUP BY 1, 2, 3
WITH NO DATA;

ALTER MATERIALIZED VIEW tailscale_peers_5m SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id, node_id',
    timescaledb.orderby = 'bucket DESC'
);

ALTER MATERIALIZED VIEW tailscale_peers_hourly SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id, node_id',
    timescaledb.orderby = 'bucket DESC'
);

ALTER MATERIALIZED VIEW tailscale_peers_daily SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id, node_id',
    timescaledb.orderby = 'bucket DESC'
);

INSERT INTO policies (relation, kind, source, level, after, until, every) VALUES
('tailscale_peers_5m', 'refresh', 'tailscale', 1, INTERVAL '2 days', INTERVAL '5 minutes', INTERVAL '5 minutes'),
('tailscale_peers_hourly', 'refresh', 'tailscale', 2, INTERVAL '3 days', INTERVAL '1 hour', INTERVAL '30 minutes'),
('tailscale_peers_daily', 'refresh', 'tailscale', 3, INTERVAL '7 days', INTERVAL '1 day', INTERVAL '6 hours'),
('tailscale_peers_5m', 'columnstore', 'tailscale', 1, INTERVAL '10 days', NULL, INTERVAL '12 hours'),
('tailscale_peers_hourly', 'columnstore', 'tailscale', 2, INTERVAL '30 days', NULL, INTERVAL '1 day'),
('tailscale_peers_daily', 'columnstore', 'tailscale', 3, INTERVAL '90 days', NULL, INTERVAL '1 day'),
('tailscale_peers_5m', 'retention', 'tailscale', 1, INTERVAL '730 days', NULL, INTERVAL '1 day'),
('tailscale_peers_hourly', 'retention', 'tailscale', 2, NULL, NULL, INTERVAL '1 day'),
('tailscale_peers_daily', 'retention', 'tailscale', 3, NULL, NULL, INTERVAL '1 day');

DO $$
DECLARE
    view_name text;
BEGIN
    COMMENT ON VIEW tailscale_peers_5m IS 'tailscale_peers by 5 minutes, reporter and peer.';
    COMMENT ON VIEW tailscale_peers_hourly IS 'tailscale_peers by hour, reporter and peer; built on tailscale_peers_5m.';
    COMMENT ON VIEW tailscale_peers_daily IS 'tailscale_peers by UTC day, reporter and peer; built on tailscale_peers_hourly.';
    FOREACH view_name IN ARRAY ARRAY['tailscale_peers_5m', 'tailscale_peers_hourly', 'tailscale_peers_daily'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.bucket IS ''Start of the bucket (UTC).''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.host_id IS ''Host that reported (hosts).''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.node_id IS ''The peer (tailscale_nodes).''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.rx_first IS ''First value of rx_bytes in the bucket [bytes].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.rx_last IS ''Last value of rx_bytes in the bucket [bytes].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.rx_increase IS ''Increase of rx_bytes between the samples of the bucket, resets handled; the step from the bucket before is added by tailscale_traffic [bytes].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.tx_first IS ''First value of tx_bytes in the bucket [bytes].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.tx_last IS ''Last value of tx_bytes in the bucket [bytes].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.tx_increase IS ''Increase of tx_bytes between the samples of the bucket, resets handled [bytes].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.resets IS ''Times both counters started anew inside the bucket.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.key_first IS ''key_epoch of the first sample that has counters.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.key_last IS ''key_epoch of the last sample that has counters.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.samples IS ''Samples in the bucket.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.online_samples IS ''Samples with the peer online.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.active_samples IS ''Samples with the peer active.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.direct_samples IS ''Samples on a direct path.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.derp_samples IS ''Samples relayed by DERP.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.peer_relay_samples IS ''Samples relayed by a peer.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.last_handshake IS ''Latest WireGuard handshake reported in the bucket.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.first_time IS ''Time of the first sample in the bucket.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.last_time IS ''Time of the last sample in the bucket.''', view_name);
    END LOOP;
END $$;

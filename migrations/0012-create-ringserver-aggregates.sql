-- Create the continuous aggregates of ringserver_transfers: hourly and daily, stacked.

CREATE MATERIALIZED VIEW ringserver_transfers_hourly
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 hour', time) AS bucket,
    host_id,
    direction,
    network,
    extended_network,
    station,
    location,
    channel,
    client,
    country,
    city,
    latitude,
    longitude,
    geohash,
    least(sum(bytes), 9223372036854775807)::bigint AS bytes,
    least(sum(packets), 9223372036854775807)::bigint AS packets,
    count(*) AS transfers
FROM ringserver_transfers
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
WITH NO DATA;

CREATE MATERIALIZED VIEW ringserver_transfers_daily
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    time_bucket(INTERVAL '1 day', bucket) AS bucket,
    host_id,
    direction,
    network,
    extended_network,
    station,
    location,
    channel,
    client,
    country,
    city,
    latitude,
    longitude,
    geohash,
    least(sum(bytes), 9223372036854775807)::bigint AS bytes,
    least(sum(packets), 9223372036854775807)::bigint AS packets,
    sum(transfers)::bigint AS transfers
FROM ringserver_transfers_hourly
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
WITH NO DATA;

ALTER MATERIALIZED VIEW ringserver_transfers_hourly SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'bucket DESC'
);

ALTER MATERIALIZED VIEW ringserver_transfers_daily SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'bucket DESC'
);

INSERT INTO policies (relation, kind, source, level, after, until, every) VALUES
('ringserver_transfers_hourly', 'refresh', 'ringserver', 1, INTERVAL '3 days', INTERVAL '1 hour', INTERVAL '30 minutes'),
('ringserver_transfers_daily', 'refresh', 'ringserver', 2, INTERVAL '7 days', INTERVAL '1 day', INTERVAL '6 hours'),
('ringserver_transfers_hourly', 'columnstore', 'ringserver', 1, INTERVAL '35 days', NULL, INTERVAL '1 day'),
('ringserver_transfers_daily', 'columnstore', 'ringserver', 2, INTERVAL '90 days', NULL, INTERVAL '1 day'),
('ringserver_transfers_hourly', 'retention', 'ringserver', 1, NULL, NULL, INTERVAL '1 day'),
('ringserver_transfers_daily', 'retention', 'ringserver', 2, NULL, NULL, INTERVAL '1 day');

DO $$
DECLARE
    view_name text;
BEGIN
    COMMENT ON VIEW ringserver_transfers_hourly IS 'ringserver_transfers by hour, ringserver, direction, channel, client and place.';
    COMMENT ON VIEW ringserver_transfers_daily IS 'ringserver_transfers by UTC day, ringserver, direction, channel, client and place; built on ringserver_transfers_hourly.';
    FOREACH view_name IN ARRAY ARRAY['ringserver_transfers_hourly', 'ringserver_transfers_daily'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.bucket IS ''Start of the bucket (UTC). A transfer is in the bucket in which its interval ended.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.host_id IS ''The ringserver (hosts).''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.direction IS ''tx: to the client; rx: from the client.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.network IS ''Network code; NULL where the stream id has none.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.extended_network IS ''Network code that is unique for ever; NULL where it is not known.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.station IS ''Station code.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.location IS ''Location code, which may be empty.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.channel IS ''Channel code.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.client IS ''The client: a pseudonym, or its address where TSSTATS_CLIENTS is raw.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.country IS ''Country of the client, ISO 3166-1 alpha-2.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.city IS ''City of the client.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.latitude IS ''Latitude of that place [degrees].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.longitude IS ''Longitude of that place [degrees].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.geohash IS ''Geohash of that place.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.bytes IS ''Bytes transferred [bytes].''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.packets IS ''Packets transferred.''', view_name);
        EXECUTE format('COMMENT ON COLUMN %I.transfers IS ''Rows of ringserver_transfers.''', view_name);
    END LOOP;
END $$;

GRANT SELECT ON ringserver_transfers_hourly, ringserver_transfers_daily TO tsstats_reader;

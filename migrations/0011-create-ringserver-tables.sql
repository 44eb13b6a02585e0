-- Create the tables of the ringserver source: transfers, sessions, access, and the view of mismatches.

CREATE TABLE ringserver_transfers (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    transfer_id bigint NOT NULL,
    stream_id text NOT NULL,
    network text,
    station text,
    location text,
    channel text,
    label text,
    format text,
    extended_network text,
    direction text NOT NULL,
    bytes bigint NOT NULL,
    packets bigint NOT NULL,
    connect_time timestamptz,
    client text NOT NULL,
    agent text,
    country text,
    city text,
    latitude double precision,
    longitude double precision,
    geohash text,
    PRIMARY KEY (host_id, time, transfer_id, stream_id)
);

SELECT create_hypertable(
    'ringserver_transfers',
    by_range('time', INTERVAL '30 days'),
    create_default_indexes => false
);

ALTER TABLE ringserver_transfers SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'time DESC'
);

CREATE TABLE ringserver_sessions (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    transfer_id bigint NOT NULL,
    direction text NOT NULL,
    start_time timestamptz,
    connect_time timestamptz,
    client text NOT NULL,
    client_name text,
    agent text,
    protocol text,
    protocol_version text,
    tls boolean,
    websocket boolean,
    server_port integer,
    auth_method text,
    username text,
    service text,
    service_version text,
    streams integer NOT NULL,
    bytes bigint NOT NULL,
    packets bigint NOT NULL,
    total_bytes bigint,
    country text,
    city text,
    latitude double precision,
    longitude double precision,
    geohash text,
    attribute_id bigint,
    PRIMARY KEY (host_id, time, transfer_id)
);

SELECT create_hypertable(
    'ringserver_sessions',
    by_range('time', INTERVAL '30 days'),
    create_default_indexes => false
);

ALTER TABLE ringserver_sessions SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'time DESC'
);

CREATE TABLE ringserver_access (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    event_id bigint NOT NULL,
    event text NOT NULL,
    command text,
    detail text,
    match text,
    reject text,
    connect_time timestamptz,
    client text NOT NULL,
    client_name text,
    agent text,
    protocol text,
    protocol_version text,
    tls boolean,
    websocket boolean,
    server_port integer,
    auth_method text,
    username text,
    service text,
    service_version text,
    attribute_id bigint,
    PRIMARY KEY (host_id, time, event_id)
);

SELECT create_hypertable(
    'ringserver_access',
    by_range('time', INTERVAL '30 days'),
    create_default_indexes => false
);

ALTER TABLE ringserver_access SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'time DESC'
);

CREATE VIEW ringserver_mismatches AS
SELECT
    hosts.name AS host,
    sessions.time,
    sessions.direction,
    sessions.client,
    sessions.bytes,
    sessions.total_bytes,
    sessions.total_bytes::numeric - sessions.bytes AS difference,
    sessions.host_id,
    sessions.transfer_id
FROM ringserver_sessions AS sessions
INNER JOIN hosts ON hosts.host_id = sessions.host_id
WHERE sessions.total_bytes <> sessions.bytes;

INSERT INTO policies (relation, kind, source, level, after, until, every) VALUES
('ringserver_transfers', 'columnstore', 'ringserver', 0, INTERVAL '35 days', NULL, INTERVAL '1 day'),
('ringserver_transfers', 'retention', 'ringserver', 0, NULL, NULL, INTERVAL '1 day'),
('ringserver_sessions', 'columnstore', 'ringserver', 0, INTERVAL '35 days', NULL, INTERVAL '1 day'),
('ringserver_sessions', 'retention', 'ringserver', 0, NULL, NULL, INTERVAL '1 day'),
('ringserver_access', 'columnstore', 'ringserver', 0, INTERVAL '35 days', NULL, INTERVAL '1 day'),
('ringserver_access', 'retention', 'ringserver', 0, NULL, NULL, INTERVAL '1 day');

DO $$
DECLARE
    table_name text;
BEGIN
    COMMENT ON TABLE ringserver_transfers IS 'What of one stream went to or came from one client of a ringserver in one interval.';
    COMMENT ON TABLE ringserver_sessions IS 'What went to or came from one client of a ringserver in one interval, over all streams; also where it was nothing.';
    COMMENT ON TABLE ringserver_access IS 'One event of a ringserver''s access log.';
    COMMENT ON VIEW ringserver_mismatches IS 'Sessions whose total in the log is not the sum of their streams: lines of the log are missing or wrong.';

    FOREACH table_name IN ARRAY ARRAY['ringserver_transfers', 'ringserver_sessions', 'ringserver_access'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.host_id IS ''The ringserver (hosts).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.received_at IS ''Time of arrival.''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.connect_time IS ''When the client connected (connected, connect_time).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.client IS ''Pseudonym of the client''''s address, or the address itself where TSSTATS_CLIENTS is raw (client.ip).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.agent IS ''What the client calls itself; NULL where it does not (client.user_agent).''', table_name);
    END LOOP;

    FOREACH table_name IN ARRAY ARRAY['ringserver_transfers', 'ringserver_sessions'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.time IS ''End of the interval: when the log was written (log_time).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.transfer_id IS ''Hash of the transfer, which makes it the same one in every log that has it.''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.direction IS ''tx: from the ringserver to the client; rx: from the client to the ringserver (transfer_direction).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.country IS ''Country of the client''''s address, ISO 3166-1 alpha-2; NULL where it is not known.''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.city IS ''City of the client''''s address, in English; NULL where it is not known.''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.latitude IS ''Latitude of that place [degrees].''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.longitude IS ''Longitude of that place [degrees].''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.geohash IS ''Geohash of that place.''', table_name);
    END LOOP;

    FOREACH table_name IN ARRAY ARRAY['ringserver_sessions', 'ringserver_access'] LOOP
        EXECUTE format('COMMENT ON COLUMN %I.client_name IS ''Pseudonym of the client''''s host name, or the name itself where TSSTATS_CLIENTS is raw; NULL where its address has no name (client.hostname).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.protocol IS ''SeedLink, DataLink or HTTP; NULL where the log says Unknown, as version 2 does for HTTP, or nothing (transfer_protocol.name, protocol.name).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.protocol_version IS ''Version of the protocol (protocol.version).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.tls IS ''Whether the connection is encrypted; NULL where the log is text, which does not say (protocol.is_tls).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.websocket IS ''Whether it is a WebSocket; NULL where the log is text (protocol.is_websocket).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.server_port IS ''Port that the client connected to; NULL where it is unknown, which is 0 in the log (client.server_port).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.auth_method IS ''jwt, userpass or unknown; NULL where the client did not authenticate (auth.method).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.username IS ''Pseudonym of the user, or the name itself where TSSTATS_CLIENTS is raw (auth.username).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.service IS ''Program that wrote the log (service.name).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.service_version IS ''Its version (service.version).''', table_name);
        EXECUTE format('COMMENT ON COLUMN %I.attribute_id IS ''Fields that this version does not know (attributes); NULL where there are none.''', table_name);
    END LOOP;

    COMMENT ON COLUMN ringserver_transfers.stream_id IS 'The whole stream id as it is in the log (stream_id).';
    COMMENT ON COLUMN ringserver_transfers.network IS 'Network code; NULL where the stream id has none.';
    COMMENT ON COLUMN ringserver_transfers.station IS 'Station code.';
    COMMENT ON COLUMN ringserver_transfers.location IS 'Location code, which may be empty.';
    COMMENT ON COLUMN ringserver_transfers.channel IS 'Channel code: as in SEED where there is such a code (BHZ), else band, source and subsource joined by _ (L_SOH_X).';
    COMMENT ON COLUMN ringserver_transfers.label IS 'Label behind the format; NULL where there is none.';
    COMMENT ON COLUMN ringserver_transfers.format IS 'Payload format behind the stream''s name: MSEED, MSEED3, JSON, TEXT or others.';
    COMMENT ON COLUMN ringserver_transfers.extended_network IS 'Network code that is unique for ever: of a temporary code as TSSTATS_NETWORKS has it for the day, NULL where that does not know it; else the code itself.';
    COMMENT ON COLUMN ringserver_transfers.bytes IS 'Payload transferred in the interval, without headers of the protocol [bytes] (bytes).';
    COMMENT ON COLUMN ringserver_transfers.packets IS 'Packets transferred in the interval (packets).';

    COMMENT ON COLUMN ringserver_sessions.start_time IS 'Start of the interval; NULL where the log is text, which does not say (log_start_time).';
    COMMENT ON COLUMN ringserver_sessions.streams IS 'Streams in ringserver_transfers.';
    COMMENT ON COLUMN ringserver_sessions.bytes IS 'Sum of the bytes of its streams [bytes].';
    COMMENT ON COLUMN ringserver_sessions.packets IS 'Sum of the packets of its streams.';
    COMMENT ON COLUMN ringserver_sessions.total_bytes IS 'What the log says the sum is [bytes] (total bytes, transfer_bytes).';

    COMMENT ON COLUMN ringserver_access.time IS 'Time of the event (log_time).';
    COMMENT ON COLUMN ringserver_access.event_id IS 'Hash of the event, which makes it the same one in every log that has it.';
    COMMENT ON COLUMN ringserver_access.event IS 'connect, disconnect or command (event).';
    COMMENT ON COLUMN ringserver_access.command IS 'INFO, DATA, FETCH, STREAM or GET (command).';
    COMMENT ON COLUMN ringserver_access.detail IS 'What was asked for: an item of INFO, or a path (detail).';
    COMMENT ON COLUMN ringserver_access.match IS 'Regular expression of the streams that were asked for (match).';
    COMMENT ON COLUMN ringserver_access.reject IS 'Regular expression of the streams that were not wanted (reject).';

    COMMENT ON COLUMN ringserver_mismatches.host IS 'Name of the ringserver.';
    COMMENT ON COLUMN ringserver_mismatches.time IS 'When the log was written.';
    COMMENT ON COLUMN ringserver_mismatches.direction IS 'tx or rx.';
    COMMENT ON COLUMN ringserver_mismatches.client IS 'The client.';
    COMMENT ON COLUMN ringserver_mismatches.bytes IS 'Sum of the streams [bytes].';
    COMMENT ON COLUMN ringserver_mismatches.total_bytes IS 'What the log says the sum is [bytes].';
    COMMENT ON COLUMN ringserver_mismatches.difference IS 'What is missing of the streams; negative where they are more than the total [bytes].';
    COMMENT ON COLUMN ringserver_mismatches.host_id IS 'The ringserver (hosts).';
    COMMENT ON COLUMN ringserver_mismatches.transfer_id IS 'The transfer (ringserver_sessions).';
END $$;

GRANT SELECT ON
    ringserver_transfers,
    ringserver_sessions,
    ringserver_access,
    ringserver_mismatches
TO tsstats_reader;

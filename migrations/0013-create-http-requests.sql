-- Create the table of the accesslog source, the requests in access logs, and their aggregate by minute.

CREATE TABLE http_requests (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    request_id bigint NOT NULL,
    client text,
    country text,
    city text,
    ident text,
    username text,
    virtual_host text,
    method text,
    path text,
    query text,
    protocol text,
    section text,
    request text,
    status smallint,
    bytes bigint,
    referer text,
    agent text,
    rest text,
    PRIMARY KEY (host_id, time, request_id)
);

SELECT create_hypertable(
    'http_requests',
    by_range('time', INTERVAL '30 days'),
    create_default_indexes => false
);

ALTER TABLE http_requests SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'time DESC'
);

-- Without an index for each of its groups: anybody can ask for a section, or by a method, that is
-- longer than an entry of an index may be, and no minute would be refreshed from then on.
CREATE MATERIALIZED VIEW http_requests_1m
WITH (
    timescaledb.continuous,
    timescaledb.materialized_only = false,
    timescaledb.create_group_indexes = false
) AS
SELECT
    time_bucket(INTERVAL '1 minute', time) AS bucket,
    host_id,
    virtual_host,
    method,
    section,
    status,
    count(*) AS requests,
    counter_total(sum(bytes)) AS bytes
FROM http_requests
GROUP BY 1, 2, 3, 4, 5, 6
WITH NO DATA;

CREATE INDEX http_requests_1m_host_idx ON http_requests_1m (host_id, bucket DESC);

ALTER MATERIALIZED VIEW http_requests_1m SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'bucket DESC'
);

INSERT INTO policies (relation, kind, source, level, after, until, every) VALUES
('http_requests', 'columnstore', 'accesslog', 0, INTERVAL '31 days', NULL, INTERVAL '1 day'),
('http_requests', 'retention', 'accesslog', 0, NULL, NULL, INTERVAL '1 day'),
('http_requests_1m', 'refresh', 'accesslog', 1, INTERVAL '2 days', INTERVAL '2 minutes', INTERVAL '1 minute'),
('http_requests_1m', 'columnstore', 'accesslog', 1, INTERVAL '10 days', NULL, INTERVAL '12 hours'),
('http_requests_1m', 'retention', 'accesslog', 1, NULL, NULL, INTERVAL '1 day');

DO $$
BEGIN
    COMMENT ON TABLE http_requests IS 'One request to a web server, a line of its access log.';
    COMMENT ON COLUMN http_requests.host_id IS 'Host whose log it is (hosts).';
    COMMENT ON COLUMN http_requests.time IS 'Time that the server logged, in full seconds.';
    COMMENT ON COLUMN http_requests.received_at IS 'Time of arrival of the log that brought it first.';
    COMMENT ON COLUMN http_requests.request_id IS 'Hash of the line; equal lines of one log are told apart by their order.';
    COMMENT ON COLUMN http_requests.client IS 'Client as it is stored: a keyed hash of its address or name, or these themselves (TSSTATS_CLIENTS); NULL where the log does not say (%h, $remote_addr).';
    COMMENT ON COLUMN http_requests.country IS 'Country of the client''s address, ISO 3166-1 alpha-2; NULL where it is unknown.';
    COMMENT ON COLUMN http_requests.city IS 'City of the client''s address; NULL where it is unknown.';
    COMMENT ON COLUMN http_requests.ident IS 'User of the client by RFC 1413, stored as clients are; NULL where the log has - (%l).';
    COMMENT ON COLUMN http_requests.username IS 'User by HTTP authentication, stored as clients are; NULL for none (%u, $remote_user).';
    COMMENT ON COLUMN http_requests.virtual_host IS 'Virtual host, with the port where the log has it (%v:%p); NULL where the log does not say.';
    COMMENT ON COLUMN http_requests.method IS 'Method as it was sent, known or not; NULL where the request is malformed or empty.';
    COMMENT ON COLUMN http_requests.path IS 'Target of the request up to its query, as it was sent.';
    COMMENT ON COLUMN http_requests.query IS 'Query of the target, without the question mark; secrets are masked. NULL where there is no question mark.';
    COMMENT ON COLUMN http_requests.protocol IS 'Protocol, such as HTTP/1.1; NULL for HTTP/0.9, which sends none.';
    COMMENT ON COLUMN http_requests.section IS 'First segment of the path, such as /api, and / for the root; NULL where the target is no path.';
    COMMENT ON COLUMN http_requests.request IS 'The request whole, where it is malformed; else NULL.';
    COMMENT ON COLUMN http_requests.status IS 'Status of the answer, 000 to 999; NULL where the log has - (%>s, $status).';
    COMMENT ON COLUMN http_requests.bytes IS 'Size of the answer as logged; NULL where the log has -, as Apache writes for none [bytes] (%b, %O, $body_bytes_sent).';
    COMMENT ON COLUMN http_requests.referer IS 'Referer header; secrets are masked.';
    COMMENT ON COLUMN http_requests.agent IS 'User-Agent header.';
    COMMENT ON COLUMN http_requests.rest IS 'What the log has behind these fields, as it is written there, but with addresses stored as clients are.';

    COMMENT ON VIEW http_requests_1m IS 'http_requests by minute, host, virtual host, method, section and status.';
    COMMENT ON COLUMN http_requests_1m.bucket IS 'Start of the bucket (UTC).';
    COMMENT ON COLUMN http_requests_1m.host_id IS 'Host whose log it is (hosts).';
    COMMENT ON COLUMN http_requests_1m.virtual_host IS 'Virtual host.';
    COMMENT ON COLUMN http_requests_1m.method IS 'Method.';
    COMMENT ON COLUMN http_requests_1m.section IS 'First segment of the path.';
    COMMENT ON COLUMN http_requests_1m.status IS 'Status of the answer.';
    COMMENT ON COLUMN http_requests_1m.requests IS 'Requests in the bucket.';
    COMMENT ON COLUMN http_requests_1m.bytes IS 'Sum of the sizes that are known; NULL where none is. 9223372036854775807 stands for that much or more [bytes].';
END $$;

GRANT SELECT ON http_requests, http_requests_1m TO tsstats_reader;

-- Create the tables of sources whose numbers have names: series, samples, and documents for the rest.

CREATE TABLE series (
    series_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    name text NOT NULL,
    labels_key text NOT NULL,
    labels jsonb NOT NULL,
    kind text NOT NULL CHECK (kind IN ('gauge', 'counter')),
    unit text,
    first_seen timestamptz NOT NULL,
    UNIQUE (source, name, labels_key)
);

CREATE TABLE samples (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    source text NOT NULL,
    series_id integer NOT NULL,
    value numeric NOT NULL,
    PRIMARY KEY (host_id, time, series_id)
);

SELECT create_hypertable(
    'samples',
    by_range('time', INTERVAL '7 days'),
    create_default_indexes => false
);

ALTER TABLE samples SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id, series_id',
    timescaledb.orderby = 'time DESC'
);

CREATE TABLE documents (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    source text NOT NULL,
    agent text NOT NULL DEFAULT '',
    samples integer NOT NULL,
    attribute_id bigint,
    PRIMARY KEY (host_id, time, source, agent)
);

SELECT create_hypertable(
    'documents',
    by_range('time', INTERVAL '7 days'),
    create_default_indexes => false
);

ALTER TABLE documents SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'time DESC'
);

INSERT INTO policies (relation, kind, source, level, after, until, every) VALUES
('samples', 'columnstore', 'samples', 0, INTERVAL '10 days', NULL, INTERVAL '12 hours'),
('samples', 'retention', 'samples', 0, INTERVAL '730 days', NULL, INTERVAL '1 day'),
('documents', 'columnstore', 'samples', 0, INTERVAL '10 days', NULL, INTERVAL '12 hours'),
('documents', 'retention', 'samples', 0, INTERVAL '730 days', NULL, INTERVAL '1 day');

DO $$
BEGIN
    COMMENT ON TABLE series IS 'A number that has a name, and what tells it from others of that name. Hosts share series.';
    COMMENT ON COLUMN series.series_id IS 'Key of this table.';
    COMMENT ON COLUMN series.source IS 'Payload format: host, pattoo or json.';
    COMMENT ON COLUMN series.name IS 'Name of the number: the path of its keys, joined with dots, or what the agent calls it (pattoo_key).';
    COMMENT ON COLUMN series.labels_key IS 'The labels as canonical JSON: keys sorted, no spaces.';
    COMMENT ON COLUMN series.labels IS 'What tells it from others of its name, such as {"interface": "eth0"}: an object of texts.';
    COMMENT ON COLUMN series.kind IS 'gauge, or counter: that grows until it starts anew. As the first document said.';
    COMMENT ON COLUMN series.unit IS 'Unit of the values, such as bytes or seconds; NULL where nothing tells it.';
    COMMENT ON COLUMN series.first_seen IS 'Time of the first sample that was received of it.';

    COMMENT ON TABLE samples IS 'A number as a host reported it.';
    COMMENT ON COLUMN samples.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN samples.time IS 'Time of the observation.';
    COMMENT ON COLUMN samples.received_at IS 'Time of arrival.';
    COMMENT ON COLUMN samples.source IS 'Payload format, as in series.';
    COMMENT ON COLUMN samples.series_id IS 'What the number is (series).';
    COMMENT ON COLUMN samples.value IS 'The number: whole ones of 64 bits exactly, others as a double precision has them.';

    COMMENT ON TABLE documents IS 'What a document said beside its numbers.';
    COMMENT ON COLUMN documents.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN documents.time IS 'Time of the observation.';
    COMMENT ON COLUMN documents.received_at IS 'Time of arrival.';
    COMMENT ON COLUMN documents.source IS 'Payload format: host, pattoo or json.';
    COMMENT ON COLUMN documents.agent IS 'Which of the host''s agents sent it (pattoo_agent_id); empty for sources without agents.';
    COMMENT ON COLUMN documents.samples IS 'Numbers of the document that are in samples.';
    COMMENT ON COLUMN documents.attribute_id IS 'Everything else in it (attributes); NULL where there is nothing.';
END $$;

GRANT SELECT ON series, samples, documents TO tsstats_reader;

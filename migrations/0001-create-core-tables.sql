-- Create the tables that every source shares: hosts, receipts, rejects, attributes and upkeep.

CREATE TABLE hosts (
    host_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    identity text NOT NULL UNIQUE,
    name text NOT NULL,
    tailnet text NOT NULL DEFAULT '',
    stable_id text,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    changes_digests jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE receipts (
    receipt_id uuid PRIMARY KEY,
    host_id integer NOT NULL REFERENCES hosts,
    source text NOT NULL,
    key text NOT NULL,
    digest bytea NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    row_count integer NOT NULL,
    short_rows integer NOT NULL DEFAULT 0,
    UNIQUE (host_id, source, key)
);

CREATE INDEX receipts_digest_idx ON receipts (digest, received_at);

CREATE INDEX receipts_received_at_idx ON receipts (received_at);

CREATE TABLE rejects (
    reject_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    source text,
    host text,
    sender text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    pointer text,
    line integer,
    size_bytes bigint NOT NULL,
    payload bytea
);

CREATE INDEX rejects_received_at_idx ON rejects (received_at);

CREATE TABLE attributes (
    attribute_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    document jsonb NOT NULL
);

CREATE TABLE drift (
    source text NOT NULL,
    path text NOT NULL,
    host_id integer NOT NULL REFERENCES hosts,
    first_seen timestamptz NOT NULL,
    PRIMARY KEY (source, path)
);

CREATE TABLE late_windows (
    late_window_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL
);

CREATE TABLE policies (
    relation text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('refresh', 'columnstore', 'retention')),
    source text NOT NULL,
    level smallint NOT NULL,
    after interval,
    until interval,
    every interval NOT NULL,
    PRIMARY KEY (relation, kind)
);

CREATE TABLE job_runs (
    job text PRIMARY KEY,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    runs bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0,
    error text
);

CREATE TABLE clocks (
    machine text PRIMARY KEY,
    ahead interval NOT NULL,
    seen_at timestamptz NOT NULL
);

DO $$
BEGIN
    COMMENT ON TABLE hosts IS 'A host that reports.';
    COMMENT ON COLUMN hosts.host_id IS 'Key of this table.';
    COMMENT ON COLUMN hosts.identity IS 'What makes two reports come from one host: the name that the sender gave, else tailnet and stable id, else the host name in the document.';
    COMMENT ON COLUMN hosts.name IS 'Name to show: the one the sender gave, else the first label of the DNS name, else the host name.';
    COMMENT ON COLUMN hosts.tailnet IS 'MagicDNS suffix of the tailnet it is in; empty where the host is in none or the document does not say.';
    COMMENT ON COLUMN hosts.stable_id IS 'Stable node id of the host in its tailnet (Self.ID).';
    COMMENT ON COLUMN hosts.first_seen IS 'Time of its earliest sample.';
    COMMENT ON COLUMN hosts.last_seen IS 'Time of its latest sample.';

    COMMENT ON COLUMN hosts.changes_digests IS 'By source: digest of all that its latest sample told the change tables; the next sample with the same one has changed nothing. A source is absent behind a late or corrected sample.';

    COMMENT ON TABLE receipts IS 'A document that was taken. Written in the same transaction as its rows, so that a retry is answered from here; pruned by age.';
    COMMENT ON COLUMN receipts.receipt_id IS 'The id in the answer to the sender.';
    COMMENT ON COLUMN receipts.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN receipts.source IS 'Payload format, such as tailscale.';
    COMMENT ON COLUMN receipts.key IS 'What makes a repetition: key:<Idempotency-Key>, time:<sample time>, or live:<receipt id>.';
    COMMENT ON COLUMN receipts.digest IS 'BLAKE2b-256 of the document in canonical JSON.';
    COMMENT ON COLUMN receipts.time IS 'Time of the sample.';
    COMMENT ON COLUMN receipts.received_at IS 'Time of arrival.';
    COMMENT ON COLUMN receipts.row_count IS 'Rows stored in hypertables.';
    COMMENT ON COLUMN receipts.short_rows IS 'Rows that went without what was new in them, as a budget had run out. When the document comes again, it takes the place of what was stored of it.';

    COMMENT ON TABLE rejects IS 'A payload that was refused, with its reason; pruned by age.';
    COMMENT ON COLUMN rejects.reject_id IS 'Key of this table.';
    COMMENT ON COLUMN rejects.received_at IS 'Time of arrival.';
    COMMENT ON COLUMN rejects.source IS 'Payload format, where the sender named it or it was recognised.';
    COMMENT ON COLUMN rejects.host IS 'Host, where the sender named it.';
    COMMENT ON COLUMN rejects.sender IS 'Address of the client.';
    COMMENT ON COLUMN rejects.reason IS 'Code of the error, as in the type of the answer.';
    COMMENT ON COLUMN rejects.detail IS 'What the sender was told.';
    COMMENT ON COLUMN rejects.pointer IS 'Where in the document (RFC 6901).';
    COMMENT ON COLUMN rejects.line IS 'Line of the body, counted from 1.';
    COMMENT ON COLUMN rejects.size_bytes IS 'Size of the whole body [bytes].';
    COMMENT ON COLUMN rejects.payload IS 'The body as received, secrets blanked; NULL where it was too large to keep.';

    COMMENT ON TABLE attributes IS 'A distinct set of slowly changing fields, stored once however often it is reported.';
    COMMENT ON COLUMN attributes.attribute_id IS 'Key of this table.';
    COMMENT ON COLUMN attributes.digest IS 'BLAKE2b-128 of the canonical JSON of the document.';
    COMMENT ON COLUMN attributes.document IS 'The fields that have no column of their own, under the producer''s keys. Keys that begin with $ say how to put the columns back: $absent, $raw, $zone, $key.';

    COMMENT ON TABLE drift IS 'A field in a document that this version does not know. It is kept in attributes.';
    COMMENT ON COLUMN drift.source IS 'Payload format.';
    COMMENT ON COLUMN drift.path IS 'Path of the field, map keys as *.';
    COMMENT ON COLUMN drift.host_id IS 'First host that reported it (hosts).';
    COMMENT ON COLUMN drift.first_seen IS 'Time of the first sample with it.';

    COMMENT ON TABLE late_windows IS 'A range of time that documents arrived for after the refresh policies had passed it; refreshed by the loader, then deleted.';
    COMMENT ON COLUMN late_windows.late_window_id IS 'Key of this table.';
    COMMENT ON COLUMN late_windows.source IS 'Payload format whose aggregates are to be refreshed.';
    COMMENT ON COLUMN late_windows.since IS 'Earliest late sample.';
    COMMENT ON COLUMN late_windows.until IS 'Latest late sample.';

    COMMENT ON TABLE policies IS 'The refresh, columnstore and retention policies as shipped; the environment overrides them, `tsstats migrate` applies them.';
    COMMENT ON COLUMN policies.relation IS 'Hypertable or continuous aggregate.';
    COMMENT ON COLUMN policies.kind IS 'refresh, columnstore or retention.';
    COMMENT ON COLUMN policies.source IS 'Payload format that the relation belongs to.';
    COMMENT ON COLUMN policies.level IS 'Order of refreshes: a level builds on those below it.';
    COMMENT ON COLUMN policies.after IS 'refresh: how far back it looks; columnstore: age at which a chunk is compressed; retention: age at which it is dropped, NULL for never.';
    COMMENT ON COLUMN policies.until IS 'refresh: age of the newest bucket that is materialised; otherwise NULL.';
    COMMENT ON COLUMN policies.every IS 'How often the job runs.';

    COMMENT ON TABLE clocks IS 'A machine that runs the service, and whose clock is off the database''s by more than TSSTATS_FUTURE.';
    COMMENT ON COLUMN clocks.machine IS 'Its host name.';
    COMMENT ON COLUMN clocks.ahead IS 'How far its clock is ahead; negative where it is behind.';
    COMMENT ON COLUMN clocks.seen_at IS 'When it was last seen to be, by the clock of the database.';

    COMMENT ON TABLE job_runs IS 'The last run of each job that the embedded database''s runner executed; TimescaleDB keeps no statistics for those.';
    COMMENT ON COLUMN job_runs.job IS 'Name of the job.';
    COMMENT ON COLUMN job_runs.started_at IS 'Start of the last run.';
    COMMENT ON COLUMN job_runs.finished_at IS 'End of the last run; NULL while it runs.';
    COMMENT ON COLUMN job_runs.runs IS 'Runs so far.';
    COMMENT ON COLUMN job_runs.failures IS 'Failed runs so far.';
    COMMENT ON COLUMN job_runs.error IS 'Error of the last run; NULL where it went well.';
END $$;

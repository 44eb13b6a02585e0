-- Create what logs need: the fingerprint of the key of their events' ids, and rejects of single lines.

CREATE TABLE client_keys (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    fingerprint text NOT NULL,
    first_used timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE rejects
ADD COLUMN origin text,
ADD COLUMN equal_before integer;

CREATE INDEX rejects_bad_lines_idx ON rejects (source, line) WHERE reason = 'bad-line';

DO $$
BEGIN
    COMMENT ON TABLE client_keys IS 'The key that ids of events in logs are made with, by its fingerprint. One row, or none before the first log.';
    COMMENT ON COLUMN client_keys.single IS 'Key of the only row.';
    COMMENT ON COLUMN client_keys.fingerprint IS 'Hash of the last of the client keys (TSSTATS_CLIENT_KEY). The key itself is never in the database.';
    COMMENT ON COLUMN client_keys.first_used IS 'Time of the first log.';

    COMMENT ON COLUMN rejects.origin IS 'Machine that it came from: names the host of a log that names none.';
    COMMENT ON COLUMN rejects.equal_before IS 'Of a line of a log: how many equal ones it has before it, which are other events.';
    COMMENT ON COLUMN rejects.reason IS 'Code of the error, as in the type of the answer; bad-line for a line of a log whose others are stored.';
END $$;

-- Create what bounds and mends a flood: budgets of senders, and rejects that can be retried.

CREATE TABLE budgets (
    token_id integer NOT NULL,
    day date NOT NULL,
    hosts bigint NOT NULL,
    series bigint NOT NULL,
    PRIMARY KEY (token_id, day)
);

CREATE TABLE rejects_kept (
    total boolean PRIMARY KEY DEFAULT true CHECK (total),
    rejects bigint NOT NULL,
    bytes bigint NOT NULL
);

ALTER TABLE rejects
ADD COLUMN time timestamptz,
ADD COLUMN key text,
ADD COLUMN replace boolean NOT NULL DEFAULT false,
ADD COLUMN partial boolean NOT NULL DEFAULT false,
ADD COLUMN token_id integer,
ADD COLUMN retries integer NOT NULL DEFAULT 0,
ADD COLUMN retried_at timestamptz;

DO $$
BEGIN
    COMMENT ON TABLE budgets IS 'What a sender has named that was new, in a day. Written in the transaction that stores it; pruned by age.';
    COMMENT ON COLUMN budgets.token_id IS 'Token that it was sent with (tokens); 0 for all who sent none.';
    COMMENT ON COLUMN budgets.day IS 'Day of arrival in UTC.';
    COMMENT ON COLUMN budgets.hosts IS 'New hosts so far.';
    COMMENT ON COLUMN budgets.series IS 'New series (nodes, paths) so far.';

    COMMENT ON TABLE rejects_kept IS 'How much is in rejects, at most: counted up with every reject, and anew when the oldest are pruned. One row, or none at first.';
    COMMENT ON COLUMN rejects_kept.total IS 'Key of the only row.';
    COMMENT ON COLUMN rejects_kept.rejects IS 'Rejects that are kept.';
    COMMENT ON COLUMN rejects_kept.bytes IS 'Size of their payloads [bytes].';

    COMMENT ON TABLE rejects IS 'A payload that was refused, with its reason and with what a retry needs; pruned by age, count and size.';
    COMMENT ON COLUMN rejects.time IS 'Time of the observation, where the sender named it.';
    COMMENT ON COLUMN rejects.key IS 'Idempotency-Key, where the sender gave one.';
    COMMENT ON COLUMN rejects.replace IS 'Whether the sender meant it as a correction.';
    COMMENT ON COLUMN rejects.partial IS 'Whether the good documents of the body were to be stored without the others.';
    COMMENT ON COLUMN rejects.token_id IS 'Token that it was sent with (tokens); NULL for none.';
    COMMENT ON COLUMN rejects.retries IS 'Retries so far; reason, detail, pointer and line are those of the last one.';
    COMMENT ON COLUMN rejects.retried_at IS 'Time of the last retry.';
END $$;

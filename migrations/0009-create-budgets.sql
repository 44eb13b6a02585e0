-- Create what bounds and mends a flood: budgets of senders, and rejects that can be retried.

CREATE TABLE budgets (
    level text NOT NULL CHECK (level IN ('all', 'sender', 'host')),
    sender text NOT NULL,
    host text NOT NULL,
    day date NOT NULL,
    hosts bigint NOT NULL DEFAULT 0,
    series bigint NOT NULL DEFAULT 0,
    attribute_bytes bigint NOT NULL DEFAULT 0,
    short_hosts bigint NOT NULL DEFAULT 0,
    short_series bigint NOT NULL DEFAULT 0,
    short_attributes bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (level, sender, host)
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
    COMMENT ON TABLE budgets IS 'What was brought that is new, on the last day that there was any. Written in the transaction that stores it; pruned by age.';
    COMMENT ON COLUMN budgets.level IS 'Whose budget: that of a host of a sender (host), of a sender with all its hosts (sender), of all senders together (all).';
    COMMENT ON COLUMN budgets.sender IS 'The token (tokens.token_id), else the address, of IPv6 its first 64 bits; empty for all.';
    COMMENT ON COLUMN budgets.host IS 'Host that it is of (hosts.identity); empty for the wider levels.';
    COMMENT ON COLUMN budgets.day IS 'Day of arrival in UTC.';
    COMMENT ON COLUMN budgets.hosts IS 'New hosts on that day.';
    COMMENT ON COLUMN budgets.series IS 'New series (nodes, paths) on that day.';
    COMMENT ON COLUMN budgets.attribute_bytes IS 'New attributes on that day [bytes].';
    COMMENT ON COLUMN budgets.short_hosts IS 'Documents that were refused on that day, because this budget had no room for their host.';
    COMMENT ON COLUMN budgets.short_series IS 'New series that were left out on that day, because this budget had no room for them.';
    COMMENT ON COLUMN budgets.short_attributes IS 'New attributes that were left out on that day, because this budget had no room for them.';

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

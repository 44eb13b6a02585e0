-- Create the table of the tokens that hosts and readers show.

CREATE TABLE tokens (
    token_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id text NOT NULL UNIQUE,
    digest bytea NOT NULL CHECK (length(digest) = 32),
    hosts text NOT NULL,
    scopes text[] NOT NULL CHECK (scopes <@ ARRAY['ingest', 'read'] AND cardinality(scopes) > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);

DO $$
BEGIN
    COMMENT ON TABLE tokens IS 'A token that lets its holder in. Its secret is nowhere kept. Not for tsstats_reader.';
    COMMENT ON COLUMN tokens.token_id IS 'Key of this table.';
    COMMENT ON COLUMN tokens.key_id IS 'Part of the token that names it and is no secret.';
    COMMENT ON COLUMN tokens.digest IS 'SHA-256 of the secret.';
    COMMENT ON COLUMN tokens.hosts IS 'Host that may report with it, or a pattern of names with * and ?.';
    COMMENT ON COLUMN tokens.scopes IS 'What it allows: ingest, read.';
    COMMENT ON COLUMN tokens.created_at IS 'Time it was made.';
    COMMENT ON COLUMN tokens.expires_at IS 'Time from which it is not taken any more; NULL for never.';
    COMMENT ON COLUMN tokens.last_used_at IS 'Time it was last seen to be used, at most an hour too early; NULL where it was not.';
    COMMENT ON COLUMN tokens.revoked_at IS 'Time it was revoked; NULL where it was not.';
END $$;

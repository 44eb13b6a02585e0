SELECT 1;

DROP FUNCTION IF EXISTS tsstats_query;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tsstats_query') THEN
        DROP OWNED BY tsstats_query;
        DROP ROLE tsstats_query;
    END IF;
EXCEPTION
    WHEN dependent_objects_still_exist OR insufficient_privilege THEN
        RAISE NOTICE 'The role tsstats_query is kept: %', SQLERRM;
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tsstats_reader') THEN
        -- It owns nothing; this revokes what it was granted in this database.
        DROP OWNED BY tsstats_reader;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'The role tsstats_reader keeps its privileges in this database: %', SQLERRM;
END $$;

SELECT 1;

SELECT 1;

SELECT 1;

DO $$
BEGIN
    -- What `migrate` made of it goes with it: a role of the whole server, as that one is.
    DROP ROLE IF EXISTS tsstats_login;
    DROP ROLE IF EXISTS tsstats_reader;
EXCEPTION
    WHEN dependent_objects_still_exist OR insufficient_privilege THEN
        RAISE NOTICE 'The role tsstats_reader is kept: %', SQLERRM;
END $$;

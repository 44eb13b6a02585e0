-- Create the role tsstats_reader, which may SELECT the data and nothing else, and the function that reads as it.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tsstats_reader') THEN
        CREATE ROLE tsstats_reader NOLOGIN;
        COMMENT ON ROLE tsstats_reader IS 'May SELECT the data of ringstats-ts and nothing else.';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL; -- Another database of the cluster is migrated at the same time.
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'The role tsstats_reader does not exist, and % may not create it.', current_user
        USING
            ERRCODE = 'insufficient_privilege',
            HINT = format('Run as a superuser: CREATE ROLE tsstats_reader NOLOGIN; GRANT tsstats_reader TO %I; then migrate again.', current_user);
END $$;

DO $$
BEGIN
    GRANT tsstats_reader TO CURRENT_USER;
EXCEPTION
    WHEN insufficient_privilege THEN
        IF NOT pg_has_role(current_user, 'tsstats_reader', 'MEMBER') THEN
            RAISE EXCEPTION 'The user % may not act as tsstats_reader.', current_user
            USING
                ERRCODE = 'insufficient_privilege',
                HINT = format('Run as a superuser: GRANT tsstats_reader TO %I; then migrate again.', current_user);
        END IF;
END $$;

GRANT USAGE ON SCHEMA public TO tsstats_reader;

GRANT SELECT ON
    hosts,
    receipts,
    attributes,
    drift,
    policies,
    tailscale_nodes,
    tailscale_node_changes,
    tailscale_status,
    tailscale_status_changes,
    tailscale_peers,
    tailscale_peers_5m,
    tailscale_peers_hourly,
    tailscale_peers_daily,
    tailscale_node_history,
    tailscale_health_history,
    tailscale_exit_node_history,
    tailscale_route_history,
    tailscale_reporters,
    tailscale_nodes_seen
TO tsstats_reader;

GRANT EXECUTE ON FUNCTION
    counter_step(bigint, bigint, boolean),
    counter_total(numeric),
    traffic_counter(bigint, bigint, bigint),
    traffic_counter_roll(bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint),
    tailscale_peers_level(interval),
    tailscale_counter_states(timestamptz, timestamptz, integer, integer[], integer[]),
    tailscale_counters(timestamptz, timestamptz, interval),
    tailscale_counters_before(timestamptz, integer[], integer[]),
    tailscale_traffic(timestamptz, timestamptz, interval),
    tailscale_traffic_by_reporter(timestamptz, timestamptz, interval),
    tailscale_traffic_labelled(timestamptz, timestamptz, interval),
    tailscale_traffic_by_user(timestamptz, timestamptz, interval),
    tailscale_traffic_by_tag(timestamptz, timestamptz, interval),
    tailscale_traffic_by_tailnet(timestamptz, timestamptz, interval),
    tailscale_presence(timestamptz, timestamptz, interval),
    rfc3339(timestamptz, text),
    tailscale_fields(jsonb, jsonb),
    tailscale_document_peers(integer, timestamptz, text),
    tailscale_document(integer, timestamptz)
TO tsstats_reader;

DO $$
BEGIN
    -- It owns the function below, whose text it therefore runs, and nobody logs in as it: a member
    -- of tsstats_reader could alter or drop what tsstats_reader owns.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tsstats_query') THEN
        CREATE ROLE tsstats_query NOLOGIN;
        COMMENT ON ROLE tsstats_query IS 'Owns the function tsstats_query of ringstats-ts, which reads as tsstats_reader.';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_auth_members
        WHERE roleid = 'tsstats_reader'::regrole AND member = 'tsstats_query'::regrole
    ) THEN
        GRANT tsstats_reader TO tsstats_query;
    END IF;
    IF NOT pg_has_role(current_user, 'tsstats_query', 'USAGE') THEN
        GRANT tsstats_query TO CURRENT_USER;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        RAISE EXCEPTION 'Another database of the server is migrated at the same time.'
        USING HINT = 'Migrate again.';
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'The role tsstats_query is not ready, and % may not make it so.', current_user
        USING
            ERRCODE = 'insufficient_privilege',
            HINT = format('Run as a superuser: CREATE ROLE tsstats_query NOLOGIN IN ROLE tsstats_reader; GRANT tsstats_query TO %I; then migrate again.', current_user);
END $$;

CREATE FUNCTION tsstats_query(query text, max_rows bigint, max_bytes bigint, documents boolean DEFAULT true)
RETURNS TABLE (document json, fields text, names text[], types oid[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = public, pg_catalog, pg_temp
AS $$
DECLARE
    -- A cursor runs one statement, and as nobody but the owner of the function, being fetched in
    -- it. A stable function is refused whatever is not reading.
    rows refcursor;
    found_row record;
    count bigint := 0;
    bytes bigint := 0;
    head bytea;
BEGIN
    OPEN rows NO SCROLL FOR EXECUTE query;
    LOOP
        FETCH rows INTO found_row;
        EXIT WHEN NOT FOUND;
        count := count + 1;
        bytes := bytes + pg_column_size(found_row);
        IF count > max_rows OR bytes > max_bytes THEN
            RAISE EXCEPTION 'the answer has more than % rows or % bytes', max_rows, max_bytes
            USING ERRCODE = 'program_limit_exceeded';
        END IF;
        IF documents THEN
            document := row_to_json(found_row);
        ELSE
            fields := found_row::text;
        END IF;
        bytes := bytes + octet_length(coalesce(fields, document::text));
        RETURN NEXT;
    END LOOP;
    -- After the last row the variable has the columns, all of them NULL.
    document := NULL;
    fields := NULL;
    names := ARRAY(SELECT json_object_keys(row_to_json(found_row)));
    head := record_send(found_row);
    types := ARRAY(
        SELECT ('x' || encode(substr(head, 5 + 8 * i, 4), 'hex'))::bit(32)::bigint::oid
        FROM generate_series(0, cardinality(names) - 1) AS i
    );
    RETURN NEXT;
END $$;

DO $$
BEGIN
    COMMENT ON FUNCTION tsstats_query IS 'The rows of one statement that reads, run as tsstats_reader whoever calls it: each as JSON (document) or, where documents are not wanted, in the text form of a row (fields); then one more row with the names and types of its columns. More rows or bytes than are allowed are an error. The caller bounds the time. Not for tsstats_reader.';
    REVOKE ALL ON FUNCTION tsstats_query FROM PUBLIC;
    -- An owner needs CREATE where its function is, when it becomes the owner.
    GRANT CREATE ON SCHEMA public TO tsstats_query;
    ALTER FUNCTION tsstats_query OWNER TO tsstats_query;
    REVOKE CREATE ON SCHEMA public FROM tsstats_query;
    GRANT EXECUTE ON FUNCTION tsstats_query TO CURRENT_USER;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'The role tsstats_query cannot be given its function: %.', SQLERRM
        USING
            ERRCODE = 'insufficient_privilege',
            HINT = 'Run as a superuser: GRANT CREATE ON SCHEMA public TO tsstats_query; then migrate again.';
END $$;

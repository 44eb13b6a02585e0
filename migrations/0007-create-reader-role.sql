-- Create the role tsstats_reader: it may SELECT the data and nothing else.

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

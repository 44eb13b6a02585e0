SELECT 1;

DROP VIEW IF EXISTS tailscale_nodes_seen;

DROP VIEW IF EXISTS tailscale_reporters;

DROP VIEW IF EXISTS tailscale_route_history;

DROP VIEW IF EXISTS tailscale_exit_node_history;

DROP VIEW IF EXISTS tailscale_health_history;

DROP VIEW IF EXISTS tailscale_node_history;

DROP FUNCTION IF EXISTS tailscale_presence(timestamptz, timestamptz, interval);

DROP FUNCTION IF EXISTS tailscale_traffic_by_tailnet(timestamptz, timestamptz, interval);

DROP FUNCTION IF EXISTS tailscale_traffic_by_tag(timestamptz, timestamptz, interval);

DROP FUNCTION IF EXISTS tailscale_traffic_by_user(timestamptz, timestamptz, interval);

DROP FUNCTION IF EXISTS tailscale_traffic_labelled(timestamptz, timestamptz, interval);

DROP FUNCTION IF EXISTS tailscale_traffic_by_reporter(timestamptz, timestamptz, interval);

DROP FUNCTION IF EXISTS tailscale_traffic(timestamptz, timestamptz, interval);

DROP FUNCTION IF EXISTS tailscale_counters_before(timestamptz, integer[], integer[]);

DROP FUNCTION IF EXISTS tailscale_counters(timestamptz, timestamptz, interval);

DROP FUNCTION IF EXISTS tailscale_counter_states(timestamptz, timestamptz, integer, integer[], integer[]);

DROP FUNCTION IF EXISTS tailscale_peers_level(interval);

DROP FUNCTION IF EXISTS counter_total(numeric);

DROP FUNCTION IF EXISTS counter_step(bigint, bigint, boolean);

SELECT 1;

DELETE FROM policies WHERE relation IN ('tailscale_peers', 'tailscale_status');

DROP FUNCTION IF EXISTS tailscale_status_changes_next(integer, timestamptz, integer[]);

DROP FUNCTION IF EXISTS tailscale_node_changes_next(integer, timestamptz, integer[]);

DROP TABLE IF EXISTS tailscale_status_changes;

DROP INDEX IF EXISTS tailscale_node_changes_node_idx;

DROP TABLE IF EXISTS tailscale_node_changes;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS tailscale_peers;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS tailscale_status;

DROP INDEX IF EXISTS tailscale_nodes_said_by_idx;

DROP TABLE IF EXISTS tailscale_nodes;

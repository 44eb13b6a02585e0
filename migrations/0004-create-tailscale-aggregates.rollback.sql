SELECT 1;

DELETE FROM policies WHERE relation IN ('tailscale_peers_5m', 'tailscale_peers_hourly', 'tailscale_peers_daily');

SELECT 1;

SELECT 1;

SELECT 1;

DROP MATERIALIZED VIEW IF EXISTS tailscale_peers_daily;

DROP MATERIALIZED VIEW IF EXISTS tailscale_peers_hourly;

DROP MATERIALIZED VIEW IF EXISTS tailscale_peers_5m;

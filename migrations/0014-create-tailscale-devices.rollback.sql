SELECT 1;

SELECT 1;

DELETE FROM policies WHERE relation IN ('tailscale_devices', 'tailscale_device_lists');

DROP VIEW IF EXISTS tailscale_devices_latest;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS tailscale_device_lists;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS tailscale_devices;

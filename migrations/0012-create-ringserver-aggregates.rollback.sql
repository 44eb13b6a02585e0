SELECT 1;

SELECT 1;

DELETE FROM policies WHERE relation IN ('ringserver_transfers_hourly', 'ringserver_transfers_daily');

SELECT 1;

SELECT 1;

DROP MATERIALIZED VIEW IF EXISTS ringserver_transfers_daily;

DROP MATERIALIZED VIEW IF EXISTS ringserver_transfers_hourly;

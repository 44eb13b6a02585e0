SELECT 1;

SELECT 1;

DELETE FROM policies
WHERE relation IN ('ringserver_transfers', 'ringserver_sessions', 'ringserver_access');

DROP VIEW IF EXISTS ringserver_mismatches;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS ringserver_access;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS ringserver_sessions;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS ringserver_transfers;

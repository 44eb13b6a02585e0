SELECT 1;

SELECT 1;

DELETE FROM policies WHERE relation IN ('http_requests', 'http_requests_1m');

SELECT 1;

SELECT 1;

DROP MATERIALIZED VIEW IF EXISTS http_requests_1m;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS http_requests;

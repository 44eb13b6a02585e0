SELECT 1;

SELECT 1;

DELETE FROM policies WHERE relation IN ('samples', 'documents');

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS documents;

SELECT 1;

SELECT 1;

DROP TABLE IF EXISTS samples;

DROP TABLE IF EXISTS series;

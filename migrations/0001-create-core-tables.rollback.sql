SELECT 1;

DROP TABLE IF EXISTS clocks;

DROP TABLE IF EXISTS job_runs;

DROP TABLE IF EXISTS policies;

DROP TABLE IF EXISTS late_windows;

DROP TABLE IF EXISTS drift;

DROP TABLE IF EXISTS attributes;

DROP INDEX IF EXISTS rejects_received_at_idx;

DROP TABLE IF EXISTS rejects;

DROP INDEX IF EXISTS receipts_received_at_idx;

DROP INDEX IF EXISTS receipts_digest_idx;

DROP TABLE IF EXISTS receipts;

DROP TABLE IF EXISTS hosts;

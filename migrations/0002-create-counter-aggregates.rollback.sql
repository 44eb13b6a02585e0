SELECT 1;

DROP AGGREGATE IF EXISTS counter_roll(bigint, bigint, bigint, bigint, bigint, bigint);

DROP FUNCTION IF EXISTS counter_state(bigint[], bigint, bigint, bigint, bigint, bigint, bigint);

DROP AGGREGATE IF EXISTS counter(bigint, bigint);

DROP FUNCTION IF EXISTS counter_sample(bigint[], bigint, bigint);

SELECT 1;

DROP AGGREGATE IF EXISTS traffic_counter_roll(bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint);

DROP FUNCTION IF EXISTS traffic_counter_state(bigint[], bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint);

DROP AGGREGATE IF EXISTS traffic_counter(bigint, bigint, bigint);

DROP FUNCTION IF EXISTS traffic_counter_sample(bigint[], bigint, bigint, bigint);

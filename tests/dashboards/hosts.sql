-- Two hosts, three days; `beta` fell silent an hour ago, `alpha` was started twelve hours ago.
-- What beta said before of its start is no time. Another source has series of the same names.

INSERT INTO hosts (identity, name, first_seen, last_seen)
SELECT 'host:' || name, name, now() - INTERVAL '3 days', now()
FROM unnest(ARRAY['alpha', 'beta', 'of another kind']) AS name;

INSERT INTO attributes (digest, document)
SELECT convert_to(boots.boot_time, 'UTF8'), jsonb_build_object('boot_time', boots.boot_time, 'system', 'Linux',
    'release', '6.12', 'machine', 'x86_64')
FROM (
    VALUES
    (1, to_char((now() - INTERVAL '12 hours') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
    (2, to_char((now() - INTERVAL '10 days') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')),
    (3, '2026-02-30T00:00:00Z'),
    (4, 'yesterday')
) AS boots (boot, boot_time)
ORDER BY boots.boot;

INSERT INTO series (source, name, labels_key, labels, kind, first_seen)
SELECT 'host', name, labels, labels::jsonb, kind, now()
FROM (
    SELECT unnest(string_to_array('cpu_count process_count users load_average.1m load_average.5m'
        || ' virtual_memory_bytes.total virtual_memory_bytes.available virtual_memory_bytes.used'
        || ' virtual_memory_bytes.free virtual_memory_bytes.buffers virtual_memory_bytes.cached'
        || ' swap_memory_bytes.total swap_memory_bytes.used', ' ')), '{}', 'gauge'
    UNION ALL
    SELECT unnest(string_to_array('cpu_times_seconds.user cpu_times_seconds.system cpu_times_seconds.idle'
        || ' cpu_times_seconds.iowait cpu_times_seconds.guest cpu_stats.ctx_switches cpu_stats.interrupts'
        || ' swap_memory_bytes.sin swap_memory_bytes.sout', ' ')), '{}', 'counter'
    UNION ALL
    SELECT 'disk_usage_bytes.' || number, format('{"mountpoint":"%s"}', mountpoint), 'gauge'
    FROM unnest(ARRAY['total', 'used', 'free']) AS number, unnest(ARRAY['/', '/srv', '/snap/core']) AS mountpoint
    UNION ALL
    SELECT 'disk_io.' || number, '{"device":"sda"}', 'counter'
    FROM unnest(ARRAY['read_bytes', 'write_bytes', 'read_count', 'write_count', 'busy_time_seconds']) AS number
    UNION ALL
    SELECT 'network_io.' || number, format('{"interface":"%s"}', interface), 'counter'
    FROM unnest(ARRAY['bytes_recv', 'bytes_sent', 'packets_recv', 'packets_sent', 'errin', 'dropout']) AS number,
        unnest(ARRAY['lo', 'eth0']) AS interface
    UNION ALL
    SELECT 'temperatures_celsius.current', '{"sensor":"k10temp/0"}', 'gauge'
) AS known (name, labels, kind);

INSERT INTO series (source, name, labels_key, labels, kind, first_seen)
VALUES
('json', 'cpu_count', '{}', '{}', 'gauge', now()),
('json', 'network_io.bytes_recv', '{"interface":"eth1"}', '{"interface":"eth1"}', 'counter', now());

CREATE TEMPORARY TABLE observations AS
SELECT
    host_id,
    now() - age AS time,
    CASE
        WHEN host_id = 1 AND age < INTERVAL '12 hours' THEN 1
        WHEN host_id = 1 OR age < INTERVAL '1 day' THEN 2
        WHEN age < INTERVAL '2 days' THEN 3
        ELSE 4
    END AS boot
FROM hosts, generate_series(0, 431) AS step,
    LATERAL (SELECT step * INTERVAL '10 minutes' + INTERVAL '5 seconds') AS sample (age)
WHERE name = 'alpha' OR (name = 'beta' AND age > INTERVAL '1 hour');

INSERT INTO documents (host_id, time, received_at, source, samples, attribute_id)
SELECT host_id, time, time, 'host', 0, boot FROM observations;

-- A counter stands at its number times the seconds since the start.
INSERT INTO samples (host_id, time, received_at, source, series_id, value)
SELECT
    o.host_id, o.time, o.time, 'host', s.series_id,
    CASE
        WHEN s.kind = 'counter' THEN s.series_id * round(extract(epoch FROM o.time - CASE o.boot
            WHEN 1 THEN now() - INTERVAL '12 hours' ELSE now() - INTERVAL '10 days' END))
        WHEN s.name = 'cpu_count' THEN 4
        WHEN s.name = 'virtual_memory_bytes.total' THEN 8e9
        WHEN s.name = 'virtual_memory_bytes.available' THEN CASE o.host_id WHEN 1 THEN 2e9 ELSE 4e9 END
        WHEN s.name = 'disk_usage_bytes.total' THEN 100
        WHEN s.name = 'disk_usage_bytes.used' THEN length(s.labels ->> 'mountpoint') * 10
        WHEN s.name = 'disk_usage_bytes.free' THEN 100 - length(s.labels ->> 'mountpoint') * 10
        ELSE 7
    END
FROM observations AS o, series AS s
WHERE s.source = 'host';

INSERT INTO samples (host_id, time, received_at, source, series_id, value)
SELECT o.host_id, o.time, o.time, 'json', s.series_id, 1000
FROM observations AS o, series AS s
WHERE s.source = 'json';

DROP TABLE observations;

-- Two ringservers, three clients of which two have a place, twelve stations of four networks; each
-- hour of the last two days, and each day of the forty days before. What was received is of client 3.

CREATE TEMPORARY TABLE hours AS
SELECT time_bucket(INTERVAL '1 hour', now()) - INTERVAL '10 minutes' - step * INTERVAL '1 hour' AS time
FROM (
    SELECT generate_series(0, 47) AS step
    UNION ALL
    SELECT generate_series(48, 1008, 24)
) AS steps;

INSERT INTO hosts (identity, name, first_seen, last_seen)
SELECT 'host:' || name, name, now() - INTERVAL '42 days', now()
FROM unnest(ARRAY['ring-1', 'ring-2', 'of another kind']) AS name;

INSERT INTO ringserver_transfers (host_id, time, received_at, transfer_id, stream_id, network, station, location,
    channel, format, extended_network, direction, bytes, packets, client, country, city, latitude, longitude)
SELECT host_id, time, now(), client, concat_ws('_', network, 'STA' || station, '00', 'BHZ') || '/MSEED', network,
    'STA' || station, '00', 'BHZ', 'MSEED', CASE network WHEN 'XK' THEN 'XK2026' ELSE network END,
    CASE client WHEN 3 THEN 'rx' ELSE 'tx' END, 100 * client * client, 2, 'client''' || client,
    CASE client WHEN 1 THEN 'FR' WHEN 2 THEN 'NO' END, CASE client WHEN 1 THEN 'Strasbourg' END,
    CASE client WHEN 1 THEN 48.6 WHEN 2 THEN 62.0 END, CASE client WHEN 1 THEN 7.8 WHEN 2 THEN 10.0 END
FROM hosts, hours, generate_series(1, 3) AS client, generate_series(1, 12) AS station,
    LATERAL (SELECT (ARRAY['FR', 'G', 'XK', NULL])[1 + station % 4]) AS codes (network)
WHERE host_id < 3;

-- The total of client 1 is wrong on the second ringserver in every other hour; that of client 2 is not known.
INSERT INTO ringserver_sessions (host_id, time, received_at, transfer_id, direction, client, agent, protocol,
    streams, bytes, packets, total_bytes, country)
SELECT host_id, time, now(), client, CASE client WHEN 3 THEN 'rx' ELSE 'tx' END, 'client''' || client,
    CASE client WHEN 1 THEN 'slarchive' END, 'SeedLink', 12, 1200 * client * client, 24,
    CASE
        WHEN client = 2 THEN NULL
        WHEN client = 1 AND host_id = 2 AND extract(epoch FROM time)::bigint / 3600 % 2 = 0 THEN 1201
        ELSE 1200 * client * client
    END,
    CASE client WHEN 1 THEN 'FR' WHEN 2 THEN 'NO' END
FROM hosts, hours, generate_series(1, 3) AS client
WHERE host_id < 3;

INSERT INTO ringserver_access (host_id, time, received_at, event_id, event, command, client)
SELECT host_id, time, now(), event_id, event, command, 'client''1'
FROM hosts, hours,
    (VALUES (1, 'connect', NULL), (2, 'command', 'STREAM'), (3, 'disconnect', NULL)) AS e (event_id, event, command)
WHERE host_id < 3;

DROP TABLE hours;

-- Two reporters, ten peers, three days of `alpha` and two of `beta`, which reports at other times and fell silent
-- an hour ago.

INSERT INTO hosts (identity, name, tailnet, first_seen, last_seen)
SELECT 'name:' || name, name, 'example.ts.net', now() - INTERVAL '3 days', now()
FROM unnest(ARRAY['alpha', 'beta']) AS name;

INSERT INTO tailscale_nodes (scope, stable_id, tailnet, name, os, user_id, user_name, tags, key_expiry,
    first_seen, changed_at)
SELECT '', 'n' || i || 'CNTRL', 'example.ts.net', 'peer''' || i, 'linux', i % 3, 'user' || i % 3,
    CASE WHEN i % 2 = 0 THEN ARRAY['tag:even'] END,
    CASE WHEN i % 5 <> 0 THEN now() + i * INTERVAL '7 days' END, now(), now()
FROM generate_series(1, 10) AS i;

INSERT INTO tailscale_peers (host_id, node_id, time, received_at, rx_bytes, tx_bytes, online, active,
    path, last_handshake, key_epoch, attribute_id)
SELECT host_id, node_id, now() - age, now() - age, bytes, 2 * bytes, node_id < 9, node_id < 6,
    CASE WHEN node_id < 4 THEN 'direct' WHEN node_id < 6 THEN 'derp' ELSE 'idle' END,
    now() - age - INTERVAL '1 minute', 1, 1
FROM hosts, tailscale_nodes, generate_series(0, 431) AS step,
    LATERAL (SELECT step * INTERVAL '1 minute' * CASE hosts.name WHEN 'alpha' THEN 10 ELSE 7 END + INTERVAL '5 seconds') AS sample (age),
    LATERAL (
        SELECT (1e9 * node_id - extract(epoch FROM age)::bigint % 100000 * 1000 * node_id)::bigint
    ) AS counter (bytes)
WHERE hosts.name = 'alpha' OR age > INTERVAL '1 hour';

INSERT INTO tailscale_status (host_id, node_id, time, received_at, backend_state, version, online, health,
    peers, peers_online, attribute_id)
SELECT host_id, host_id, now() - age, now() - age, 'Running', '1.98.' || host_id, true,
    ARRAY['a message'], 10, 8, 1
FROM hosts, generate_series(0, 431) AS step,
    LATERAL (SELECT step * INTERVAL '1 minute' * CASE hosts.name WHEN 'alpha' THEN 10 ELSE 7 END + INTERVAL '5 seconds') AS sample (age)
WHERE hosts.name = 'alpha' OR age > INTERVAL '1 hour';

INSERT INTO tailscale_status_changes (host_id, time, digest, health, exit_node_id)
SELECT host_id, now() - days * INTERVAL '20 hours', '', ARRAY['a message'], CASE WHEN days < 3 THEN 3 END
FROM hosts, generate_series(1, 3) AS days;

INSERT INTO tailscale_node_changes (host_id, node_id, time, digest, os, primary_routes)
SELECT host_id, node_id, now() - days * INTERVAL '5 hours', '', 'linux',
    CASE WHEN node_id = days THEN ARRAY['10.0.0.0/24'] END
FROM hosts, tailscale_nodes, generate_series(1, 3) AS days;

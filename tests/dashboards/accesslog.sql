-- Two hosts with a virtual host each, twelve hours. In each minute each answers 200, 304 and 404; in
-- each tenth also 500, and in each sixtieth a request that is malformed.

INSERT INTO hosts (identity, name, first_seen, last_seen)
SELECT 'host:' || name, name, now() - INTERVAL '12 hours', now()
FROM unnest(ARRAY['web-1', 'web-2', 'of another kind']) AS name;

INSERT INTO http_requests (host_id, time, received_at, request_id, client, country, virtual_host, method, path,
    protocol, section, request, status, bytes, referer, agent)
SELECT
    host_id, time_bucket(INTERVAL '1 minute', now()) - INTERVAL '10 seconds' - step * INTERVAL '1 minute', now(), kind,
    'client''' || step % 7, CASE step % 7 WHEN 1 THEN 'NO' END, CASE host_id WHEN 2 THEN 'www.example.org:443' END,
    method, section || '/page', 'HTTP/1.1', section, CASE WHEN method IS NULL THEN 'nonsense' END, status, bytes,
    'https://example.org/', 'curl/8'
FROM hosts, generate_series(0, 719) AS step,
    LATERAL (
        VALUES
        (1, 'GET', '/api', 200, 1000),
        (2, 'HEAD', '/section-' || step % 12, 304, NULL),
        (3, 'POST', '/login', 404, 100),
        (4, NULL, NULL, 400, 226),
        (5, 'GET', '/api', 500, 50)
    ) AS requests (kind, method, section, status, bytes)
WHERE host_id < 3 AND (kind < 4 OR (kind = 4 AND step % 60 = 0) OR (kind = 5 AND step % 10 = 0));

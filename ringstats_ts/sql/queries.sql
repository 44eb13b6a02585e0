-- Every statement that the program sends. Read by ringstats_ts.sql; parameters are %(name)s.

-- name: lock_reporters
-- Documents of one host are stored one after the other: these locks are held to the end. Always in
-- the same order, so that no two transactions wait for each other.
SELECT
FROM hosts
WHERE identity = ANY(%(identities)s::text[])
ORDER BY identity
FOR UPDATE;

-- name: add_reporters
INSERT INTO hosts (identity, name, tailnet, stable_id, first_seen, last_seen)
SELECT r.identity, r.name, r.tailnet, r.stable_id, r.time, r.time
FROM jsonb_to_recordset(%(rows)s) AS r (
    identity text, name text, tailnet text, stable_id text, time timestamptz
)
ORDER BY r.identity
ON CONFLICT (identity) DO NOTHING
RETURNING identity;

-- name: touch_host
UPDATE hosts
SET
    name = CASE WHEN heard.is_latest THEN %(name)s ELSE name END,
    tailnet = CASE WHEN heard.is_latest AND %(tailnet)s <> '' THEN %(tailnet)s ELSE tailnet END,
    stable_id = CASE WHEN heard.is_latest THEN coalesce(%(stable_id)s, stable_id) ELSE stable_id END,
    first_seen = least(first_seen, %(first)s),
    last_seen = CASE WHEN heard.is_latest THEN %(last)s ELSE last_seen END,
    changes_digests = %(changes_digests)s
FROM (
    -- More than an hour from now is what a wrong clock said: the next sample takes its place.
    SELECT %(last)s >= h.last_seen OR h.last_seen > now() + INTERVAL '1 hour' AS is_latest
    FROM hosts AS h
    WHERE h.host_id = %(host_id)s
) AS heard
WHERE host_id = %(host_id)s;

-- name: find_documents
-- The hosts of these documents where they are known, and the receipt of each one's repetition: the
-- same key, or for a live document the same content lately. A statement of its own behind
-- lock_reporters, so that it sees what the transaction before committed.
SELECT
    t.number, h.host_id, h.last_seen, h.changes_digests,
    now(), r.receipt_id, r.key, r.digest, r.time, r.row_count, r.short_rows
FROM unnest(
    %(identities)s::text[], %(sources)s::text[], %(keys)s::text[], %(digests)s::bytea[],
    %(received_at)s::timestamptz[], %(live)s::boolean[]
) WITH ORDINALITY AS t (identity, source, key, digest, received_at, live, number)
INNER JOIN hosts AS h ON h.identity = t.identity
LEFT JOIN LATERAL (
    SELECT found.*
    FROM (
        SELECT k.*
        FROM receipts AS k
        WHERE k.host_id = h.host_id AND k.source = t.source AND k.key = t.key
        UNION ALL
        SELECT l.*
        FROM receipts AS l
        WHERE
            t.live AND l.digest = t.digest
            -- Not =, for which the planner may read all receipts of the host by the index of their keys.
            AND (l.host_id, l.source) IS NOT DISTINCT FROM (h.host_id, t.source)
            AND left(l.key, 5) <> 'time:'
            AND l.received_at > t.received_at - INTERVAL '30 seconds'
            AND l.received_at <= t.received_at + INTERVAL '30 seconds'
    ) AS found
    ORDER BY found.key = t.key DESC, found.received_at DESC
    LIMIT 1
) AS r ON TRUE
WHERE h.identity = ANY(%(identities)s::text[]);

-- name: find_own_receipt
-- That of a task whose answer was lost, by its id: it may have been stored under another key than is
-- looked for.
SELECT receipt_id, key, digest, time, row_count, short_rows
FROM receipts
WHERE receipt_id = %(receipt_id)s;

-- name: drop_receipts_at
-- A correction takes the place of what was taken for this host and time. Receipts of Idempotency-Keys
-- stay: a late retry of an earlier correction must not take the place of this one.
-- The one that was stored in part is taken away with its key.
DELETE FROM receipts
WHERE
    host_id = %(host_id)s AND source = %(source)s AND time = %(time)s
    AND (left(key, 4) <> 'key:' OR receipt_id = %(instead_of)s::uuid);

-- name: find_attributes
SELECT digest, attribute_id
FROM attributes
WHERE digest = ANY(%(digests)s::bytea[]);

-- name: add_attributes
-- Those that are not among the answers another transaction just committed: find_attributes sees them.
INSERT INTO attributes (digest, document)
SELECT decode(r.digest, 'hex'), r.document
FROM jsonb_to_recordset(%(rows)s) AS r (digest text, document jsonb)
ORDER BY r.digest
ON CONFLICT (digest) DO NOTHING
RETURNING digest, attribute_id;

-- name: add_drift
-- No more than so many of a source, and of one host: what is new in every document is not worth a row.
WITH fresh AS (
    SELECT f.path
    FROM unnest(%(paths)s::text[]) AS f (path)
    WHERE NOT EXISTS (SELECT 1 FROM drift AS d WHERE d.source = %(source)s AND d.path = f.path)
)

INSERT INTO drift (source, path, host_id, first_seen)
SELECT %(source)s, fresh.path, %(host_id)s, %(time)s
FROM fresh
ORDER BY fresh.path
-- Counted only where there is any.
LIMIT CASE
    WHEN EXISTS (SELECT 1 FROM fresh AS f) THEN (
        SELECT greatest(0, least(
            %(most)s - count(*),
            %(most_of_host)s - count(*) FILTER (WHERE d.host_id = %(host_id)s)
        ))
        FROM drift AS d
        WHERE d.source = %(source)s
    )
    ELSE 0
END
ON CONFLICT (source, path) DO NOTHING;

-- name: add_late_window
-- Takes the place of windows that a refresh would join with it, so that there are no more than days.
-- The row is a new one: a refresh that runs deletes those that it has seen. It waits for nobody.
WITH near AS (
    SELECT w.late_window_id
    FROM late_windows AS w
    WHERE
        w.source = %(source)s
        AND w.since <= %(until)s::timestamptz + INTERVAL '1 day'
        AND w.until >= %(since)s::timestamptz - INTERVAL '1 day'
    FOR UPDATE SKIP LOCKED
),

joined AS (
    DELETE FROM late_windows AS w USING near
    WHERE w.late_window_id = near.late_window_id
    RETURNING w.since, w.until
)

INSERT INTO late_windows (source, since, until)
SELECT %(source)s, least(%(since)s, min(j.since)), greatest(%(until)s, max(j.until))
FROM joined AS j;

-- name: horizon
-- Raw rows older than this are dropped; a document from before would roll up to wrong totals.
SELECT min((config ->> 'drop_after')::interval)
FROM timescaledb_information.jobs
WHERE proc_name = 'policy_retention' AND hypertable_name = ANY(%(tables)s::text[]);

-- Change tables: %(table)s is the table, %(entity)s the column beside host_id that its rows are
-- about (host_id again where they are about the host), %(next)s the function that finds the times of
-- the samples after one, entity by entity.

-- name: differing_changes
-- Which rows of this sample differ from the sample before: their numbers, from 1.
SELECT i.ordinality
FROM jsonb_populate_recordset(NULL::%(table)s, %(rows)s) WITH ORDINALITY AS i
LEFT JOIN LATERAL (
    SELECT c.digest
    FROM %(table)s AS c
    WHERE c.host_id = i.host_id AND c.%(entity)s = i.%(entity)s AND c.time < i.time
    ORDER BY c.time DESC
    LIMIT 1
) AS before ON TRUE
WHERE before.digest IS DISTINCT FROM i.digest;

-- name: changed_entities
-- What the changes at one time of a host are about.
SELECT c.%(entity)s
FROM %(table)s AS c
WHERE c.host_id = %(host_id)s AND c.time = %(time)s;

-- name: forget_changes
-- A sample is taken away for its correction: what changed at it changed at the sample after it,
-- unless that one is as before.
WITH gone AS (
    SELECT c.host_id, c.%(entity)s AS entity_id, c.digest, n.time AS next_time,
        before.digest AS digest_before, after.digest AS digest_after
    FROM %(table)s AS c
    LEFT JOIN %(next)s(
        %(host_id)s,
        %(time)s,
        (SELECT array_agg(e.%(entity)s) FROM %(table)s AS e WHERE e.host_id = %(host_id)s AND e.time = %(time)s)
    ) AS n ON n.entity_id = c.%(entity)s
    LEFT JOIN LATERAL (
        SELECT p.digest
        FROM %(table)s AS p
        WHERE p.host_id = c.host_id AND p.%(entity)s = c.%(entity)s AND p.time < c.time
        ORDER BY p.time DESC
        LIMIT 1
    ) AS before ON TRUE
    LEFT JOIN %(table)s AS after
        ON after.host_id = c.host_id AND after.%(entity)s = c.%(entity)s AND after.time = n.time
    WHERE c.host_id = %(host_id)s AND c.time = %(time)s
),

moved AS (
    UPDATE %(table)s AS c
    SET time = g.next_time
    FROM gone AS g
    WHERE
        c.host_id = g.host_id AND c.%(entity)s = g.entity_id AND c.time = %(time)s
        AND g.next_time IS NOT NULL AND g.digest_after IS NULL
)

DELETE FROM %(table)s AS c
USING gone AS g
WHERE
    c.host_id = g.host_id AND c.%(entity)s = g.entity_id
    AND (
        (c.time = %(time)s AND (g.next_time IS NULL OR g.digest_after IS NOT NULL))
        OR (c.time = g.next_time AND c.digest = g.digest_before)
    );

-- name: settle_changes
-- Before a late sample is recorded: the sample after it is a change exactly where it differs
-- from the late one.
WITH late AS (
    SELECT *
    FROM jsonb_populate_recordset(NULL::%(table)s, %(rows)s)
),

following AS (
    SELECT i.host_id, i.%(entity)s AS entity_id, i.digest AS late_digest, n.time AS next_time, v.version
    FROM (SELECT host_id, time, array_agg(%(entity)s) AS entity_ids FROM late GROUP BY host_id, time) AS s
    CROSS JOIN LATERAL %(next)s(s.host_id, s.time, s.entity_ids) AS n
    INNER JOIN late AS i ON i.host_id = s.host_id AND i.%(entity)s = n.entity_id
    CROSS JOIN LATERAL (
        SELECT c AS version
        FROM %(table)s AS c
        WHERE c.host_id = i.host_id AND c.%(entity)s = i.%(entity)s AND c.time <= n.time
        ORDER BY c.time DESC
        LIMIT 1
    ) AS v
),

kept AS (
    INSERT INTO %(table)s
    SELECT (jsonb_populate_record(f.version, jsonb_build_object('time', f.next_time))).*
    FROM following AS f
    WHERE (f.version).digest <> f.late_digest
    ON CONFLICT DO NOTHING
)

DELETE FROM %(table)s AS c
USING following AS f
WHERE
    c.host_id = f.host_id AND c.%(entity)s = f.entity_id AND c.time = f.next_time
    AND c.digest = f.late_digest;

-- name: record_changes
INSERT INTO %(table)s
SELECT i.*
FROM jsonb_populate_recordset(NULL::%(table)s, %(rows)s) AS i
LEFT JOIN LATERAL (
    SELECT c.digest
    FROM %(table)s AS c
    WHERE c.host_id = i.host_id AND c.%(entity)s = i.%(entity)s AND c.time < i.time
    ORDER BY c.time DESC
    LIMIT 1
) AS before ON TRUE
WHERE before.digest IS DISTINCT FROM i.digest;

-- Source: tailscale

-- name: find_tailscale_nodes
SELECT n.scope, n.stable_id, n.node_id
FROM jsonb_array_elements(%(keys)s) AS k (key)
INNER JOIN tailscale_nodes AS n ON n.scope = k.key ->> 0 AND n.stable_id = k.key ->> 1;

-- name: add_tailscale_nodes
INSERT INTO tailscale_nodes (scope, stable_id, tailnet, name, first_seen, changed_at)
SELECT r.key ->> 0, r.key ->> 1, coalesce(r.tailnet, ''), coalesce(r.name, ''), %(time)s, %(time)s
FROM jsonb_to_recordset(%(rows)s) AS r (key jsonb, tailnet text, name text)
ORDER BY 1, 2
ON CONFLICT (scope, stable_id) DO NOTHING
RETURNING scope, stable_id, node_id;

-- name: lock_for_tailscale_node_changes
-- In the same order always, and in a statement before the one that looks at them: it sees what the
-- transaction before committed.
SELECT
FROM tailscale_nodes
WHERE node_id = ANY(%(entity_ids)s::integer[])
ORDER BY node_id
FOR UPDATE;

-- name: apply_tailscale_node_changes
-- The nodes as this reporter's newest sample shows them, where its word counts: it stands already;
-- nobody's does; the reporter is the node, and no other host was that reports; or who spoke for
-- the node was not heard for a day before this sample, or is another node now. Whoever was
-- another node before (only of itself a host knows the version) gets none that others speak for. A sample of more than an hour from now is a wrong
-- clock's. A version is only known of reporters, a login name only where the document lists the users.
WITH newest AS (
    SELECT DISTINCT ON (c.node_id) c.*
    FROM tailscale_node_changes AS c
    WHERE
        c.host_id = %(host_id)s AND c.node_id = ANY(%(entity_ids)s::integer[])
        AND c.time <= now() + INTERVAL '1 hour'
    ORDER BY c.node_id, c.time DESC
),

judged AS (
    SELECT
        n.node_id,
        n.said_by IS NULL AS is_free,
        n.said_by = %(host_id)s AND n.said_as <> 'listing' AS is_teller,
        EXISTS (
            SELECT 1
            FROM hosts AS t
            WHERE
                t.host_id = n.said_by
                AND t.last_seen >= %(time)s - INTERVAL '1 day' AND t.last_seen <= now() + INTERVAL '1 hour'
                AND (n.said_as <> 'own' OR (t.stable_id = n.stable_id AND n.scope IN ('', t.tailnet)))
        ) AS stands,
        coalesce(n.said_as = 'own', false) AS is_own,
        n.node_id = %(own_id)s AND (
            n.said_by IS NULL
            OR NOT EXISTS (
                SELECT 1
                FROM tailscale_node_changes AS o
                WHERE o.host_id = %(host_id)s AND o.node_id <> n.node_id AND o.version IS NOT NULL
            )
        ) AS may_own
    FROM tailscale_nodes AS n
    WHERE n.node_id = ANY(%(entity_ids)s::integer[])
),

applied AS (
    SELECT
        v.*,
        coalesce(j.may_own, false) OR (j.is_teller AND j.is_own AND n.node_id = %(own_id)s) AS as_own
    FROM newest AS v
    INNER JOIN judged AS j USING (node_id)
    INNER JOIN tailscale_nodes AS n USING (node_id)
    WHERE
        (%(current)s OR n.public_key IS NULL)
        AND (j.is_free OR j.is_teller OR NOT j.stands OR (j.may_own AND NOT j.is_own))
),

earlier AS (
    UPDATE tailscale_nodes AS n
    SET first_seen = %(time)s
    WHERE
        n.node_id = ANY(%(entity_ids)s::integer[]) AND n.first_seen > %(time)s
        AND coalesce(n.said_by = %(host_id)s, true)
        AND NOT EXISTS (SELECT 1 FROM applied AS v WHERE v.node_id = n.node_id)
)

UPDATE tailscale_nodes AS n
SET
    tailnet = coalesce(nullif(%(tailnet)s, ''), n.tailnet),
    name = coalesce(nullif(split_part(v.dns_name, '.', 1), ''), v.host_name, n.stable_id),
    host_name = v.host_name,
    dns_name = v.dns_name,
    os = v.os,
    version = coalesce(v.version, n.version),
    user_id = v.user_id,
    user_name = coalesce(v.user_name, n.user_name),
    tags = v.tags,
    public_key = v.public_key,
    key_expiry = v.key_expiry,
    expired = v.expired,
    exit_node_option = v.exit_node_option,
    tailscale_ips = v.tailscale_ips,
    allowed_ips = v.allowed_ips,
    primary_routes = v.primary_routes,
    first_seen = least(n.first_seen, %(time)s),
    changed_at = v.time,
    said_by = v.host_id,
    said_as = CASE WHEN v.as_own THEN 'own' ELSE 'peer' END
FROM applied AS v
WHERE n.node_id = v.node_id;

-- name: apply_listing
-- The nodes as a listing of the API shows them, where its word counts: nobody's stands, or that of a
-- peer, or an earlier one of the same host; or who spoke was not heard for a day before the listing.
-- The owner of a node with tags is who added it, which is not who owns it.
WITH told AS (
    SELECT *
    FROM jsonb_to_recordset(%(rows)s) AS r (
        node_id integer, host_name text, dns_name text, os text, version text, user_name text, tags text[],
        public_key text, key_expiry timestamptz, tailscale_ips text[]
    )
)

UPDATE tailscale_nodes AS n
SET
    tailnet = coalesce(nullif(%(tailnet)s, ''), n.tailnet),
    name = coalesce(nullif(split_part(v.dns_name, '.', 1), ''), v.host_name, n.stable_id),
    host_name = v.host_name,
    dns_name = v.dns_name,
    os = v.os,
    version = coalesce(v.version, n.version),
    user_name = CASE WHEN v.tags IS NULL THEN coalesce(v.user_name, n.user_name) ELSE n.user_name END,
    tags = v.tags,
    public_key = coalesce(v.public_key, n.public_key),
    key_expiry = v.key_expiry,
    tailscale_ips = v.tailscale_ips,
    first_seen = least(n.first_seen, %(time)s),
    changed_at = %(time)s,
    said_by = %(host_id)s,
    said_as = 'listing'
FROM told AS v
WHERE
    n.node_id = v.node_id
    AND (
        n.said_by IS NULL
        OR n.said_as = 'peer'
        OR (n.said_as = 'listing' AND n.said_by = %(host_id)s AND n.changed_at <= %(time)s)
        OR NOT EXISTS (
            SELECT 1
            FROM hosts AS t
            WHERE
                t.host_id = n.said_by
                AND t.last_seen >= %(time)s - INTERVAL '1 day' AND t.last_seen <= now() + INTERVAL '1 hour'
                AND (n.said_as <> 'own' OR (t.stable_id = n.stable_id AND n.scope IN ('', t.tailnet)))
        )
    )
    AND (n.said_as, n.host_name, n.dns_name, n.os, n.tags, n.public_key, n.key_expiry, n.tailscale_ips)
    IS DISTINCT FROM (
        'listing', v.host_name, v.dns_name, v.os, v.tags, coalesce(v.public_key, n.public_key), v.key_expiry,
        v.tailscale_ips
    );

-- name: nodes_to_settle
-- The nodes that another host is to speak for, and who, as no sample of that host may come that
-- changes anything: their own host where it is heard, else, where who spoke is not, the host that is
-- known longest of those that tell of them.
WITH heard AS (
    SELECT h.*
    FROM hosts AS h
    WHERE h.last_seen >= now() - INTERVAL '1 day' AND h.last_seen <= now() + INTERVAL '1 hour'
),

open AS (
    SELECT n.*
    FROM tailscale_nodes AS n
    LEFT JOIN heard AS t ON t.host_id = n.said_by
    WHERE
        n.said_by IS NOT NULL
        AND (
            t.host_id IS NULL
            OR (n.said_as = 'own' AND NOT (t.stable_id IS NOT DISTINCT FROM n.stable_id AND n.scope IN ('', t.tailnet)))
        )
),

heirs AS (
    SELECT n.node_id, h.host_id, h.tailnet, TRUE AS own
    FROM heard AS h
    INNER JOIN tailscale_nodes AS n ON n.stable_id = h.stable_id AND n.scope IN ('', h.tailnet)
    WHERE
        (n.said_as <> 'own' OR n.node_id IN (SELECT o.node_id FROM open AS o))
        AND NOT EXISTS (
            SELECT 1
            FROM tailscale_node_changes AS o
            WHERE o.host_id = h.host_id AND o.node_id <> n.node_id AND o.version IS NOT NULL
        )
    UNION ALL
    SELECT o.node_id, h.host_id, h.tailnet, FALSE
    FROM open AS o
    INNER JOIN tailscale_node_changes AS c ON c.node_id = o.node_id
    INNER JOIN heard AS h ON h.host_id = c.host_id
)

SELECT DISTINCT ON (r.node_id) r.node_id, r.host_id, r.tailnet, r.own, now()
FROM heirs AS r
WHERE EXISTS (
    SELECT 1
    FROM tailscale_node_changes AS c
    WHERE c.node_id = r.node_id AND c.host_id = r.host_id AND c.time <= now() + INTERVAL '1 hour'
)
ORDER BY r.node_id, r.own DESC, r.host_id;

-- Sources: host, pattoo, json

-- name: find_series
SELECT s.source, s.name, s.labels_key, s.series_id
FROM jsonb_array_elements(%(keys)s) AS k (key)
INNER JOIN series AS s ON s.source = k.key ->> 0 AND s.name = k.key ->> 1 AND s.labels_key = k.key ->> 2;

-- name: add_series
-- The kind is not in the key: the first document tells it.
INSERT INTO series (source, name, labels_key, labels, kind, unit, first_seen)
SELECT r.key ->> 0, r.key ->> 1, r.key ->> 2, (r.key ->> 2)::jsonb, r.kind, r.unit, %(time)s
FROM jsonb_to_recordset(%(rows)s) AS r (key jsonb, kind text, unit text)
ORDER BY 1, 2, 3
ON CONFLICT (source, name, labels_key) DO NOTHING
RETURNING source, name, labels_key, series_id;

-- Schema, policies and upkeep

-- name: server
SELECT
    current_setting('server_version_num')::integer AS number,
    current_setting('server_version') AS version,
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS extension,
    EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb') AS available,
    current_setting('timescaledb.license', TRUE) AS edition;

-- name: has_migrations
SELECT to_regclass('_yoyo_migration') IS NOT NULL, to_regclass('_yoyo_digest') IS NOT NULL;

-- name: applied_migrations
SELECT m.migration_id, d.digest
FROM _yoyo_migration AS m
LEFT JOIN _yoyo_digest AS d ON d.migration_id = m.migration_id
ORDER BY m.migration_id;

-- name: applied_without_digests
SELECT migration_id, NULL AS digest
FROM _yoyo_migration
ORDER BY migration_id;

-- name: note_digest
INSERT INTO _yoyo_digest (migration_id, digest)
VALUES (%(name)s, %(digest)s)
ON CONFLICT (migration_id) DO UPDATE SET digest = excluded.digest;

-- name: query
SELECT fields, names, types
FROM tsstats_query(%(query)s, %(max_rows)s, %(max_bytes)s, documents => FALSE);

-- name: login
-- Whether the login that we make is there, and whether the current role is a superuser or may create it.
SELECT
    EXISTS (SELECT 1 FROM pg_roles AS l WHERE l.rolname = %(login)s) AS made,
    r.rolsuper,
    r.rolcreaterole
FROM pg_roles AS r
WHERE r.rolname = current_user;

-- name: server_identifier
SELECT system_identifier
FROM pg_control_system();

-- name: is_reader
SELECT count(*) = 1
FROM pg_roles
WHERE rolname = 'tsstats_reader' AND pg_has_role(oid, 'USAGE');

-- name: may_do_more
-- Whether the role may do more than a member of tsstats_reader.
SELECT
    r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
    OR EXISTS (
        SELECT 1 FROM pg_roles AS other
        WHERE other.rolname NOT IN (r.rolname, 'tsstats_reader') AND pg_has_role(other.oid, 'MEMBER')
    )
    OR EXISTS (
        SELECT 1 FROM pg_class AS c
        WHERE
            c.relkind IN ('r', 'v') AND c.relnamespace = 'public'::regnamespace
            AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
    )
FROM pg_roles AS r
WHERE r.rolname = current_user;

-- name: open_privileges
-- What PUBLIC may do besides reading, and whether the current role may revoke it. The name of a
-- routine is looked for after its extension, or its schema where it belongs to none.
WITH routines AS (
    SELECT
        coalesce(e.extname, n.nspname) || '.' || p.proname AS name,
        format('EXECUTE ON ROUTINE %%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS privilege,
        p.provolatile = 'v' OR p.prosecdef AS suspect,
        p.proowner,
        coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
    FROM pg_proc AS p
    INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
    LEFT JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    LEFT JOIN pg_extension AS e ON e.oid = d.refobjid
    -- What takes or gives one of these cannot be called in a query.
    WHERE
        NOT ('internal'::regtype = ANY (p.proargtypes::oid[]) OR p.prorettype IN (
            'internal'::regtype, 'trigger'::regtype, 'event_trigger'::regtype, 'language_handler'::regtype
        ))
)

SELECT privilege, pg_has_role(proowner, 'USAGE') AS revocable
FROM routines
WHERE
    ((suspect AND name !~ %(harmless)s) OR name ~ %(acting)s)
    AND EXISTS (SELECT 1 FROM aclexplode(acl) AS a WHERE a.grantee = 0)
UNION ALL
SELECT format('%%s ON DATABASE %%I', a.privilege_type, d.datname), pg_has_role(d.datdba, 'USAGE')
FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
WHERE d.datname = current_database() AND a.grantee = 0 AND a.privilege_type <> 'CONNECT'
UNION ALL
SELECT format('%%s ON SCHEMA %%I', a.privilege_type, n.nspname), pg_has_role(n.nspowner, 'USAGE')
FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
WHERE a.grantee = 0 AND a.privilege_type <> 'USAGE'
UNION ALL
SELECT
    format(
        '%%s ON %%s %%I.%%I', a.privilege_type, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
        c.relnamespace::regnamespace, c.relname
    ),
    pg_has_role(c.relowner, 'USAGE')
FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE a.grantee = 0 AND a.privilege_type <> 'SELECT'
ORDER BY 1;

-- name: is_shared
-- Whether there are relations that are neither ours, an extension's nor the system's, or roles
-- other than ours and superusers that own something.
SELECT EXISTS (
    SELECT 1
    FROM pg_class AS c
    INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE
        c.relkind IN ('r', 'v', 'm', 'p', 'f')
        AND n.nspname !~ '^(pg_|information_schema$|_?timescaledb_)' AND NOT n.nspname = ANY(%(schemas)s)
        AND NOT (n.nspname = 'public' AND c.relname = ANY (%(relations)s))
        AND NOT EXISTS (
            SELECT 1 FROM pg_depend AS d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
        )
) OR EXISTS (
    SELECT 1
    FROM pg_shdepend AS d
    INNER JOIN pg_database AS b ON b.oid = d.dbid AND b.datname = current_database()
    INNER JOIN pg_roles AS r ON r.oid = d.refobjid
    WHERE
        d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND NOT r.rolsuper
        AND r.rolname <> 'tsstats_query' AND r.oid NOT IN (
            SELECT c.relowner FROM pg_class AS c WHERE c.oid = to_regclass('public.receipts')
            UNION ALL
            SELECT b.datdba
        )
);

-- name: writers
-- Roles that write to our tables, but for superusers, who need no privilege.
SELECT r.rolname
FROM pg_class AS c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
INNER JOIN pg_roles AS r ON r.oid = a.grantee
WHERE c.oid = to_regclass('public.receipts') AND a.privilege_type = 'INSERT' AND NOT r.rolsuper
ORDER BY 1;

-- name: create_digests
-- yoyo keeps what was applied, and not its text.
CREATE TABLE IF NOT EXISTS _yoyo_digest (
    migration_id text PRIMARY KEY,
    digest text NOT NULL
);

-- name: policies
SELECT relation, kind, source, level, after, until, every
FROM policies
ORDER BY kind <> 'refresh', level, relation, kind;

-- name: registered_policies
SELECT
    CASE j.proc_name
        WHEN 'policy_refresh_continuous_aggregate' THEN 'refresh'
        WHEN 'policy_compression' THEN 'columnstore'
        ELSE 'retention'
    END AS kind,
    j.hypertable_name AS relation,
    coalesce(
        j.config ->> 'start_offset', j.config ->> 'compress_after', j.config ->> 'drop_after'
    )::interval AS after,
    (j.config ->> 'end_offset')::interval AS until,
    j.schedule_interval AS every
FROM timescaledb_information.jobs AS j
WHERE j.proc_name IN ('policy_refresh_continuous_aggregate', 'policy_compression', 'policy_retention');

-- name: remove_refresh_policy
SELECT remove_continuous_aggregate_policy(%(relation)s::regclass, if_exists => TRUE);

-- name: add_refresh_policy
SELECT add_continuous_aggregate_policy(
    %(relation)s::regclass,
    start_offset => %(after)s::interval,
    end_offset => %(until)s::interval,
    schedule_interval => %(every)s::interval,
    buckets_per_batch => %(buckets_per_batch)s
);

-- name: remove_columnstore_policy
CALL remove_columnstore_policy(%(relation)s::regclass, if_exists => TRUE);

-- name: add_columnstore_policy
CALL add_columnstore_policy(
    %(relation)s::regclass, after => %(after)s::interval, schedule_interval => %(every)s::interval
);

-- name: remove_retention_policy
SELECT remove_retention_policy(%(relation)s::regclass, if_exists => TRUE);

-- name: add_retention_policy
SELECT add_retention_policy(
    %(relation)s::regclass, drop_after => %(after)s::interval, schedule_interval => %(every)s::interval
);

-- name: late_windows
SELECT late_window_id, source, since, until
FROM late_windows
ORDER BY late_window_id;

-- name: drop_late_windows
DELETE FROM late_windows
WHERE late_window_id = ANY(%(late_window_ids)s::bigint[]);

-- name: note_missed_windows
-- What came while no refresh ran, where that is longer than late samples are noted for: from a
-- sample that was just not late at the last run, to where the policy looks back again.
WITH lowest AS (
    SELECT DISTINCT ON (p.source)
        p.source,
        p.after,
        greatest(
            (
                SELECT r.finished_at
                FROM job_runs AS r
                WHERE r.job = 'policy_refresh_continuous_aggregate ' || p.relation AND r.error IS NULL
            ),
            (
                SELECT max(s.last_successful_finish)
                FROM timescaledb_information.jobs AS j
                INNER JOIN timescaledb_information.job_stats AS s USING (job_id)
                WHERE
                    j.proc_name = 'policy_refresh_continuous_aggregate' AND j.hypertable_name = p.relation
                    AND s.last_successful_finish > '-infinity'
            )
        ) AS last_run
    FROM policies AS p
    WHERE p.kind = 'refresh'
    ORDER BY p.source, p.level
),

missed AS (
    SELECT
        l.source,
        greatest(l.last_run - %(late)s::interval, (SELECT min(h.first_seen) FROM hosts AS h)) AS since,
        now() - l.after + %(late)s::interval AS until
    FROM lowest AS l
    WHERE coalesce(l.last_run, '-infinity') < now() - l.after + %(late)s::interval
)

INSERT INTO late_windows (source, since, until)
SELECT source, since, until
FROM missed
WHERE since < until
RETURNING late_window_id;

-- name: oldest_sample
-- From where on the lowest aggregate of a source can be computed again: raw rows before are dropped.
SELECT min(k.range_start)
FROM policies AS p
INNER JOIN timescaledb_information.continuous_aggregates AS a ON a.view_name = p.relation
INNER JOIN timescaledb_information.chunks AS k
    ON k.hypertable_schema = a.hypertable_schema AND k.hypertable_name = a.hypertable_name
WHERE
    p.kind = 'refresh' AND p.source = %(source)s
    AND p.level = (SELECT min(q.level) FROM policies AS q WHERE q.kind = 'refresh' AND q.source = p.source);

-- name: due_jobs
-- Aggregates bottom-up, then columnstore, then retention, then the user's own.
SELECT
    j.job_id,
    j.proc_name || coalesce(' ' || j.hypertable_name, '') AS name,
    j.schedule_interval
FROM timescaledb_information.jobs AS j
LEFT JOIN policies AS p ON p.relation = j.hypertable_name AND p.kind = 'refresh'
WHERE
    j.job_id >= 1000 AND j.scheduled
    AND (j.next_start IS NULL OR j.next_start <= now())
ORDER BY
    CASE j.proc_name
        WHEN 'policy_refresh_continuous_aggregate' THEN 1
        WHEN 'policy_compression' THEN 2
        WHEN 'policy_retention' THEN 3
        ELSE 4
    END,
    p.level,
    j.job_id;

-- name: schedule_job
SELECT alter_job(%(job_id)s, next_start => now() + %(every)s::interval);

-- name: start_job_run
INSERT INTO job_runs (job, started_at)
VALUES (%(job)s, now())
ON CONFLICT (job) DO UPDATE SET started_at = excluded.started_at, finished_at = NULL, error = NULL;

-- name: finish_job_run
UPDATE job_runs
SET
    finished_at = clock_timestamp(),
    runs = runs + 1,
    failures = failures + CASE WHEN %(error)s::text IS NULL THEN 0 ELSE 1 END,
    error = %(error)s
WHERE job = %(job)s;

-- name: prune_receipts
DELETE FROM receipts
WHERE received_at < now() - %(keep)s::interval;

-- Export

-- name: export_chunk_days
-- UTC days that a hypertable's chunks cover within the range. No row is read for it.
SELECT DISTINCT date_trunc('day', day)
FROM timescaledb_information.chunks AS chunk
CROSS JOIN LATERAL generate_series(
    date_trunc('day', greatest(chunk.range_start, %(since)s::timestamptz)),
    least(chunk.range_end, %(until)s::timestamptz) - INTERVAL '1 microsecond',
    INTERVAL '1 day'
) AS days (day)
WHERE chunk.hypertable_schema = 'public' AND chunk.hypertable_name = %(table)s
ORDER BY 1;

-- name: export_comments
-- COMMENT ON of the columns that a statement's result comes from.
SELECT objoid::integer, objsubid, description
FROM pg_description
WHERE classoid = 'pg_class'::regclass AND objsubid > 0 AND objoid = ANY(%(tables)s::oid[]);

-- name: export_attributes
-- Documents of attributes by id.
SELECT attribute_id, document::text
FROM attributes
WHERE attribute_id = ANY(%(attribute_ids)s::bigint[]);

-- name: export_hosts_tailscale
-- Hosts that sent status documents: those of that name or identity, or all.
SELECT
    host_id,
    name
FROM hosts
WHERE
    (%(host)s::text IS NULL OR name = %(host)s OR identity = %(host)s)
    AND EXISTS (SELECT FROM tailscale_status WHERE tailscale_status.host_id = hosts.host_id)
ORDER BY host_id;

-- name: export_tailscale_status
-- A page of status documents after a key, the page cut before names are joined.
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.time,
    page.received_at,
    page.node_id,
    self.stable_id,
    self.tailnet,
    self.os,
    page.backend_state,
    page.version,
    page.online,
    page.health,
    page.exit_node_id,
    exit_node.stable_id AS exit_node_stable_id,
    exit_node.name AS exit_node,
    page.relay,
    page.addrs,
    page.peers,
    page.peers_online,
    page.peers_active,
    page.peers_direct,
    page.peers_derp,
    page.peers_peer_relay,
    page.attribute_id
FROM (
    SELECT *
    FROM tailscale_status
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id, time) > (%(after_host_id)s::integer, %(after_time)s::timestamptz)
            )
        )
    ORDER BY host_id, time
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
LEFT JOIN tailscale_nodes AS self USING (node_id)
LEFT JOIN tailscale_nodes AS exit_node ON page.exit_node_id = exit_node.node_id
ORDER BY page.host_id, page.time;

-- name: export_tailscale_peers
-- A page of peers after a key. The conditions on single columns of the key let TimescaleDB
-- skip compressed batches; the comparison of rows alone would decompress the chunk for each page.
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.node_id,
    node.stable_id,
    node.name AS peer,
    node.tailnet,
    node.os,
    node.user_name,
    node.tags,
    page.time,
    page.received_at,
    page.rx_bytes,
    page.tx_bytes,
    page.online,
    page.active,
    page.path,
    page.relay,
    page.peer_relay,
    page.cur_addr,
    page.last_handshake,
    page.last_write,
    page.last_seen,
    page.in_engine,
    page.exit_node,
    page.key_epoch,
    page.attribute_id
FROM (
    SELECT *
    FROM tailscale_peers
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id > %(after_host_id)s::integer OR node_id >= %(after_node_id)s::integer)
                AND (host_id, node_id, time)
                > (%(after_host_id)s::integer, %(after_node_id)s::integer, %(after_time)s::timestamptz)
            )
        )
    ORDER BY host_id, node_id, time
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
LEFT JOIN tailscale_nodes AS node USING (node_id)
ORDER BY page.host_id, page.node_id, page.time;

-- name: export_tailscale_node_changes
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.node_id,
    node.stable_id,
    node.tailnet,
    page.time,
    page.host_name,
    page.dns_name,
    page.os,
    page.version,
    page.user_id,
    page.user_name,
    page.tags,
    page.public_key,
    page.key_expiry,
    page.expired,
    page.exit_node_option,
    page.tailscale_ips,
    page.allowed_ips,
    page.primary_routes
FROM (
    SELECT *
    FROM tailscale_node_changes
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (host_id, node_id, time)
            > (%(after_host_id)s::integer, %(after_node_id)s::integer, %(after_time)s::timestamptz)
        )
    ORDER BY host_id, node_id, time
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
LEFT JOIN tailscale_nodes AS node USING (node_id)
ORDER BY page.host_id, page.node_id, page.time;

-- name: export_days_tailscale_node_changes
-- A plain table has no chunks to tell its days.
SELECT DISTINCT date_trunc('day', time)
FROM tailscale_node_changes
WHERE time >= %(since)s::timestamptz AND time < %(until)s::timestamptz
ORDER BY 1;

-- name: export_tailscale_status_changes
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.time,
    page.backend_state,
    page.version,
    page.health,
    page.exit_node_id,
    exit_node.stable_id AS exit_node_stable_id,
    exit_node.name AS exit_node
FROM (
    SELECT *
    FROM tailscale_status_changes
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (host_id, time) > (%(after_host_id)s::integer, %(after_time)s::timestamptz)
        )
    ORDER BY host_id, time
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
LEFT JOIN tailscale_nodes AS exit_node ON page.exit_node_id = exit_node.node_id
ORDER BY page.host_id, page.time;

-- name: export_days_tailscale_status_changes
SELECT DISTINCT date_trunc('day', time)
FROM tailscale_status_changes
WHERE time >= %(since)s::timestamptz AND time < %(until)s::timestamptz
ORDER BY 1;

-- name: export_documents_tailscale
-- A page of status documents as they were received.
SELECT
    page.host_id,
    page.time,
    tailscale_document(page.host_id, page.time) AS document
FROM (
    SELECT
        host_id,
        time
    FROM tailscale_status
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id, time) > (%(after_host_id)s::integer, %(after_time)s::timestamptz)
            )
        )
    ORDER BY host_id, time
    LIMIT %(page)s
) AS page
ORDER BY page.host_id, page.time;

-- name: export_hosts_ringserver
-- Ringservers: those of that name or identity, or all.
SELECT
    host_id,
    name
FROM hosts
WHERE
    (%(host)s::text IS NULL OR name = %(host)s OR identity = %(host)s)
    AND (
        EXISTS (SELECT FROM ringserver_sessions WHERE ringserver_sessions.host_id = hosts.host_id)
        OR EXISTS (SELECT FROM ringserver_access WHERE ringserver_access.host_id = hosts.host_id)
    )
ORDER BY host_id;

-- name: export_ringserver_transfers
-- A page of transfers after a key, as export_tailscale_peers. In the order of the primary key.
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.time,
    page.received_at,
    page.transfer_id,
    page.stream_id,
    page.network,
    page.station,
    page.location,
    page.channel,
    page.label,
    page.format,
    page.extended_network,
    page.direction,
    page.bytes,
    page.packets,
    page.connect_time,
    page.client,
    page.agent,
    page.country,
    page.city,
    page.latitude,
    page.longitude,
    page.geohash
FROM (
    SELECT *
    FROM ringserver_transfers
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id > %(after_host_id)s::integer OR time >= %(after_time)s::timestamptz)
                AND (host_id, time, transfer_id, stream_id)
                > (
                    %(after_host_id)s::integer,
                    %(after_time)s::timestamptz,
                    %(after_transfer_id)s::bigint,
                    %(after_stream_id)s::text
                )
            )
        )
    ORDER BY host_id, time, transfer_id, stream_id
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
ORDER BY page.host_id, page.time, page.transfer_id, page.stream_id;

-- name: export_ringserver_sessions
-- A page of sessions after a key.
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.time,
    page.received_at,
    page.transfer_id,
    page.direction,
    page.start_time,
    page.connect_time,
    page.client,
    page.client_name,
    page.agent,
    page.protocol,
    page.protocol_version,
    page.tls,
    page.websocket,
    page.server_port,
    page.auth_method,
    page.username,
    page.service,
    page.service_version,
    page.streams,
    page.bytes,
    page.packets,
    page.total_bytes,
    page.country,
    page.city,
    page.latitude,
    page.longitude,
    page.geohash,
    page.attribute_id
FROM (
    SELECT *
    FROM ringserver_sessions
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id > %(after_host_id)s::integer OR time >= %(after_time)s::timestamptz)
                AND (host_id, time, transfer_id)
                > (%(after_host_id)s::integer, %(after_time)s::timestamptz, %(after_transfer_id)s::bigint)
            )
        )
    ORDER BY host_id, time, transfer_id
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
ORDER BY page.host_id, page.time, page.transfer_id;

-- name: export_ringserver_access
-- A page of the access log after a key.
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.time,
    page.received_at,
    page.event_id,
    page.event,
    page.command,
    page.detail,
    page.match,
    page.reject,
    page.connect_time,
    page.client,
    page.client_name,
    page.agent,
    page.protocol,
    page.protocol_version,
    page.tls,
    page.websocket,
    page.server_port,
    page.auth_method,
    page.username,
    page.service,
    page.service_version,
    page.attribute_id
FROM (
    SELECT *
    FROM ringserver_access
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id > %(after_host_id)s::integer OR time >= %(after_time)s::timestamptz)
                AND (host_id, time, event_id)
                > (%(after_host_id)s::integer, %(after_time)s::timestamptz, %(after_event_id)s::bigint)
            )
        )
    ORDER BY host_id, time, event_id
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
ORDER BY page.host_id, page.time, page.event_id;

-- name: export_hosts_accesslog
-- Hosts that sent access logs: those of that name or identity, or all.
SELECT
    host_id,
    name
FROM hosts
WHERE
    (%(host)s::text IS NULL OR name = %(host)s OR identity = %(host)s)
    AND EXISTS (SELECT FROM http_requests WHERE http_requests.host_id = hosts.host_id)
ORDER BY host_id;

-- name: export_http_requests
-- A page of requests after a key. The conditions on single columns of the key let TimescaleDB
-- skip compressed batches; the comparison of rows alone would decompress the chunk for each page.
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.time,
    page.received_at,
    page.request_id,
    page.client,
    page.country,
    page.city,
    page.ident,
    page.username,
    page.virtual_host,
    page.method,
    page.path,
    page.query,
    page.protocol,
    page.section,
    page.request,
    page.status,
    page.bytes,
    page.referer,
    page.agent,
    page.rest
FROM (
    SELECT *
    FROM http_requests
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id > %(after_host_id)s::integer OR time >= %(after_time)s::timestamptz)
                AND (host_id, time, request_id)
                > (%(after_host_id)s::integer, %(after_time)s::timestamptz, %(after_request_id)s::bigint)
            )
        )
    ORDER BY host_id, time, request_id
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
ORDER BY page.host_id, page.time, page.request_id;

-- name: export_hosts_devices
-- Hosts with listings of devices, which may be empty, or with devices alone, whoever wrote them: those of
-- that name or identity, or all. The two sources share their tables, so an export of one must not take the
-- place of the other's files.
SELECT
    host_id,
    name
FROM hosts
WHERE
    (%(host)s::text IS NULL OR name = %(host)s OR identity = %(host)s)
    AND (
        EXISTS (SELECT FROM tailscale_device_lists WHERE tailscale_device_lists.host_id = hosts.host_id)
        OR EXISTS (SELECT FROM tailscale_devices WHERE tailscale_devices.host_id = hosts.host_id)
    )
ORDER BY host_id;

-- name: export_hosts_headscale
-- As export_hosts_devices.
SELECT
    host_id,
    name
FROM hosts
WHERE
    (%(host)s::text IS NULL OR name = %(host)s OR identity = %(host)s)
    AND (
        EXISTS (SELECT FROM tailscale_device_lists WHERE tailscale_device_lists.host_id = hosts.host_id)
        OR EXISTS (SELECT FROM tailscale_devices WHERE tailscale_devices.host_id = hosts.host_id)
    )
ORDER BY host_id;

-- name: export_tailscale_devices
-- A page of devices after a key, as export_tailscale_peers. In the order of the primary key.
SELECT
    page.host_id,
    hosts.name AS host,
    hosts.tailnet,
    page.time,
    page.received_at,
    page.device_id,
    page.kind,
    page.node_id,
    node.name AS node,
    page.name,
    page.hostname,
    page.user_name,
    page.os,
    page.client_version,
    page.update_available,
    page.connected,
    page.last_seen,
    page.created,
    page.expires,
    page.key_expiry_disabled,
    page.authorized,
    page.external,
    page.ephemeral,
    page.blocks_incoming,
    page.ssh_enabled,
    page.addresses,
    page.tags,
    page.advertised_routes,
    page.enabled_routes,
    page.derp,
    page.latency_seconds,
    page.multiple_connections,
    page.node_key,
    page.machine_key,
    page.tailnet_lock_error,
    page.attribute_id
FROM (
    SELECT *
    FROM tailscale_devices
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id > %(after_host_id)s::integer OR time >= %(after_time)s::timestamptz)
                AND (host_id, time, device_id)
                > (%(after_host_id)s::integer, %(after_time)s::timestamptz, %(after_device_id)s::text)
            )
        )
    ORDER BY host_id, time, device_id
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
LEFT JOIN tailscale_nodes AS node USING (node_id)
ORDER BY page.host_id, page.time, page.device_id;

-- name: export_tailscale_device_lists
-- A page of listings after a key.
SELECT
    page.host_id,
    hosts.name AS host,
    hosts.tailnet,
    page.time,
    page.received_at,
    page.kind,
    page.devices,
    page.connected,
    page.external,
    page.attribute_id
FROM (
    SELECT *
    FROM tailscale_device_lists
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND (
            %(after_host_id)s::integer IS NULL
            OR (host_id, time, kind)
            > (%(after_host_id)s::integer, %(after_time)s::timestamptz, %(after_kind)s::text)
        )
    ORDER BY host_id, time, kind
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
ORDER BY page.host_id, page.time, page.kind;

-- name: export_hosts_host
-- Hosts that sent status documents of our own kind: those of that name or identity, or all.
SELECT
    host_id,
    name
FROM hosts
WHERE
    (%(host)s::text IS NULL OR name = %(host)s OR identity = %(host)s)
    AND EXISTS (SELECT FROM documents WHERE documents.host_id = hosts.host_id AND documents.source = 'host')
ORDER BY host_id;

-- name: export_hosts_pattoo
-- Hosts that pattoo agents reported: those of that name or identity, or all.
SELECT
    host_id,
    name
FROM hosts
WHERE
    (%(host)s::text IS NULL OR name = %(host)s OR identity = %(host)s)
    AND EXISTS (SELECT FROM documents WHERE documents.host_id = hosts.host_id AND documents.source = 'pattoo')
ORDER BY host_id;

-- name: export_hosts_json
-- Hosts that sent other JSON objects: those of that name or identity, or all.
SELECT
    host_id,
    name
FROM hosts
WHERE
    (%(host)s::text IS NULL OR name = %(host)s OR identity = %(host)s)
    AND EXISTS (SELECT FROM documents WHERE documents.host_id = hosts.host_id AND documents.source = 'json')
ORDER BY host_id;

-- name: export_samples
-- A page of samples after a key, as that of peers. A double precision holds 15 digits, a bigint
-- whole numbers of 64 bits: one of the two is exact but for what neither holds.
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.series_id,
    page.source,
    series.name,
    series.labels::text AS labels,
    series.kind,
    series.unit,
    page.time,
    page.received_at,
    page.value::double precision AS value,
    CASE
        WHEN page.value = trunc(page.value) AND page.value BETWEEN -9223372036854775808 AND 9223372036854775807
            THEN page.value::bigint
    END AS integer
FROM (
    SELECT *
    FROM samples
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND source = %(source)s::text
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id > %(after_host_id)s::integer OR series_id >= %(after_series_id)s::integer)
                AND (host_id, series_id, time)
                > (%(after_host_id)s::integer, %(after_series_id)s::integer, %(after_time)s::timestamptz)
            )
        )
    ORDER BY host_id, series_id, time
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
LEFT JOIN series USING (series_id)
ORDER BY page.host_id, page.series_id, page.time;

-- name: export_documents
SELECT
    page.host_id,
    hosts.name AS reporter,
    page.time,
    page.received_at,
    page.source,
    page.agent,
    page.samples,
    page.attribute_id
FROM (
    SELECT *
    FROM documents
    WHERE
        time >= %(since)s::timestamptz
        AND time < %(until)s::timestamptz
        AND host_id = ANY(%(host_ids)s::integer[])
        AND source = %(source)s::text
        AND (
            %(after_host_id)s::integer IS NULL
            OR (
                host_id >= %(after_host_id)s::integer
                AND (host_id, time, agent)
                > (%(after_host_id)s::integer, %(after_time)s::timestamptz, %(after_agent)s::text)
            )
        )
    ORDER BY host_id, time, agent
    LIMIT %(page)s
) AS page
LEFT JOIN hosts USING (host_id)
ORDER BY page.host_id, page.time, page.agent;

-- name: overview_hosts
SELECT
    count(*),
    count(*) FILTER (WHERE last_seen < %(silent)s OR last_seen > now() + INTERVAL '1 hour')
FROM hosts;

-- name: overview_reporters
-- State and version come from the changes, a small table; counts only of those heard lately.
-- Silent reporters and the others are bounded each for themselves: none pushes the other out.
SELECT
    h.name,
    coalesce(h.stable_id, h.identity),
    h.tailnet,
    h.last_seen,
    h.silent,
    c.backend_state,
    c.version,
    s.peers,
    s.peers_online
FROM (
    SELECT
        heard.*,
        row_number() OVER (PARTITION BY heard.silent ORDER BY heard.last_seen DESC, heard.host_id) AS place
    FROM (
        -- One that was heard in more than an hour from now was so by a wrong clock.
        SELECT *, last_seen < %(silent)s OR last_seen > now() + INTERVAL '1 hour' AS silent
        FROM hosts
    ) AS heard
) AS h
LEFT JOIN LATERAL (
    SELECT backend_state, version
    FROM tailscale_status_changes
    WHERE tailscale_status_changes.host_id = h.host_id AND time <= now() + INTERVAL '1 hour'
    ORDER BY time DESC
    LIMIT 1
) AS c ON true
LEFT JOIN LATERAL (
    SELECT peers, peers_online
    FROM tailscale_status
    WHERE tailscale_status.host_id = h.host_id AND time >= %(silent)s AND time <= now() + INTERVAL '1 hour'
    ORDER BY time DESC
    LIMIT 1
) AS s ON true
WHERE h.place <= %(shown)s
ORDER BY h.silent DESC, h.place;

-- name: overview_nodes
-- A tailnet counts as the reporter sees it that sees most of it.
SELECT
    sum(tailnets.online)::bigint,
    sum(tailnets.nodes)::bigint
FROM (
    SELECT
        max(latest.online) AS online,
        max(latest.nodes) AS nodes
    FROM (
        SELECT DISTINCT ON (s.host_id)
            h.tailnet,
            coalesce(s.peers_online, 0) + (s.online IS true)::integer AS online,
            coalesce(s.peers, 0) + (s.node_id IS NOT NULL)::integer AS nodes
        FROM tailscale_status AS s
        INNER JOIN hosts AS h ON h.host_id = s.host_id
        WHERE s.time >= %(silent)s AND s.time <= now() + INTERVAL '1 hour'
        ORDER BY s.host_id, s.time DESC
    ) AS latest
    GROUP BY latest.tailnet
) AS tailnets;

-- name: overview_health
SELECT
    m.message,
    (array_agg(h.name ORDER BY h.name))[1:20]
FROM hosts AS h
CROSS JOIN LATERAL (
    SELECT health
    FROM tailscale_status_changes
    WHERE tailscale_status_changes.host_id = h.host_id AND time <= now() + INTERVAL '1 hour'
    ORDER BY time DESC
    LIMIT 1
) AS c
CROSS JOIN LATERAL (SELECT DISTINCT message FROM unnest(c.health) AS message) AS m
WHERE h.last_seen >= %(silent)s AND h.last_seen <= now() + INTERVAL '1 hour'
GROUP BY m.message
ORDER BY count(*) DESC, m.message
LIMIT 20;

-- name: overview_traffic
WITH traffic AS MATERIALIZED (
    SELECT host_id, node_id, reporter, peer, rx_bytes, tx_bytes
    FROM tailscale_traffic(%(since)s, %(until)s, INTERVAL '24 hours')
)

(
    SELECT
        'reporter' AS kind,
        reporter,
        (SELECT coalesce(stable_id, identity) FROM hosts WHERE hosts.host_id = traffic.host_id) AS id,
        counter_total(sum(rx_bytes)) AS rx,
        counter_total(sum(tx_bytes)) AS tx
    FROM traffic
    GROUP BY host_id, reporter
    HAVING sum(rx_bytes) + sum(tx_bytes) > 0
    ORDER BY sum(rx_bytes) + sum(tx_bytes) DESC, reporter, host_id
    LIMIT %(shown)s
)
UNION ALL
(
    SELECT
        'peer',
        peer,
        (SELECT stable_id FROM tailscale_nodes WHERE tailscale_nodes.node_id = traffic.node_id),
        counter_total(sum(rx_bytes)),
        counter_total(sum(tx_bytes))
    FROM traffic
    GROUP BY node_id, peer
    HAVING sum(rx_bytes) + sum(tx_bytes) > 0
    ORDER BY sum(rx_bytes) + sum(tx_bytes) DESC, peer, node_id
    LIMIT %(shown)s
);

-- name: client_keys
-- The fingerprint of the key that ids of events are made with; the first that comes is kept.
WITH first AS (
    INSERT INTO client_keys (fingerprint)
    VALUES (%(fingerprint)s)
    ON CONFLICT (single) DO NOTHING
    RETURNING fingerprint
)

SELECT fingerprint FROM first
UNION ALL
SELECT fingerprint FROM client_keys;

-- name: check_writable
-- Takes the way of a document through the tables that all need, and takes it back. Its ids are those
-- of this session alone, so that it waits for nobody and nobody for it; it makes no chunk and uses no
-- sequence. The first page of each table is read, too. The message is what makes the commit wait for
-- the disk.
DO $$
DECLARE
    own integer := -pg_backend_pid();
    at timestamptz := clock_timestamp();
    relation text;
    has_chunk boolean;
BEGIN
    BEGIN
        INSERT INTO hosts (host_id, identity, name, first_seen, last_seen)
        OVERRIDING SYSTEM VALUE VALUES (own, 'ready:' || own, 'ready', at, at);
        INSERT INTO receipts (receipt_id, host_id, source, key, digest, time, received_at, row_count)
        VALUES (gen_random_uuid(), own, 'ready', 'ready', int4send(own), at, at, 0);
        INSERT INTO attributes (attribute_id, digest, document)
        OVERRIDING SYSTEM VALUE VALUES (own, int4send(own), '{}');
        INSERT INTO series (series_id, source, name, labels_key, labels, kind, first_seen)
        OVERRIDING SYSTEM VALUE VALUES (own, 'ready', 'ready', own::text, '{}', 'gauge', at);
        INSERT INTO tailscale_nodes (node_id, scope, stable_id, first_seen, changed_at)
        OVERRIDING SYSTEM VALUE VALUES (own, 'ready', own::text, at, at);
        FOREACH relation IN ARRAY ARRAY['samples', 'tailscale_peers'] LOOP
            SELECT EXISTS (
                SELECT
                FROM _timescaledb_catalog.hypertable AS h
                INNER JOIN _timescaledb_catalog.dimension AS d ON h.id = d.hypertable_id
                INNER JOIN _timescaledb_catalog.dimension_slice AS s ON d.id = s.dimension_id
                WHERE
                    h.schema_name = 'public' AND h.table_name = relation
                    AND (extract(EPOCH FROM at) * 1000000)::bigint BETWEEN s.range_start AND s.range_end - 1
            ) INTO has_chunk;
            IF has_chunk AND relation = 'samples' THEN
                INSERT INTO samples (host_id, time, received_at, source, series_id, value)
                VALUES (own, at, at, 'ready', own, 0);
            ELSIF has_chunk THEN
                INSERT INTO tailscale_peers (host_id, node_id, time, received_at, key_epoch, attribute_id)
                VALUES (own, own, at, at, 0, own);
            END IF;
        END LOOP;
        PERFORM FROM receipts WHERE host_id = own AND source = 'ready' AND key = 'ready';
        IF NOT FOUND THEN
            RAISE data_corrupted USING MESSAGE = 'a receipt that was written cannot be read';
        END IF;
        FOREACH relation IN ARRAY ARRAY['hosts', 'receipts', 'attributes', 'series', 'tailscale_nodes'] LOOP
            EXECUTE format('SELECT FROM %I WHERE ctid = ''(0,1)''', relation);
        END LOOP;
        RAISE SQLSTATE 'TS000';
    EXCEPTION
        WHEN SQLSTATE 'TS000' THEN NULL;
    END;
    PERFORM pg_logical_emit_message(true, 'tsstats', 'ready');
END $$;

-- name: kept_client_key
SELECT fingerprint FROM client_keys;

-- Reading for the command line

-- name: hosts_named
SELECT host_id, identity, name
FROM hosts
WHERE name = %(name)s OR identity = %(name)s
ORDER BY last_seen DESC, host_id;

-- name: find_document
SELECT s.time, tailscale_document(s.host_id, s.time)
FROM tailscale_status AS s
WHERE s.host_id = %(host_id)s AND (%(at)s::timestamptz IS NULL OR s.time <= %(at)s)
ORDER BY s.time DESC
LIMIT 1;

-- name: failing_jobs
-- Jobs whose last run failed: by the server's own statistics, or by ours on the embedded database.
SELECT
    j.proc_name || coalesce(' ' || j.hypertable_name, '') AS job,
    'see timescaledb_information.job_errors' AS error
FROM timescaledb_information.jobs AS j
INNER JOIN timescaledb_information.job_stats AS s USING (job_id)
WHERE j.job_id >= 1000 AND s.last_run_status = 'Failed'
UNION ALL
SELECT job, error
FROM job_runs
WHERE error IS NOT NULL;

-- name: overdue_jobs
SELECT
    j.proc_name || coalesce(' ' || j.hypertable_name, '') AS job,
    j.next_start
FROM timescaledb_information.jobs AS j
WHERE
    j.job_id >= 1000 AND j.scheduled AND j.next_start < now() - %(overdue)s::interval
    AND NOT EXISTS (
        SELECT 1
        FROM timescaledb_information.job_stats AS s
        WHERE s.job_id = j.job_id AND s.job_status = 'Running'
    )
ORDER BY j.next_start;

-- name: clock
SELECT clock_timestamp();

-- name: note_clock
INSERT INTO clocks (machine, ahead, seen_at)
VALUES (%(machine)s, %(ahead)s, now())
ON CONFLICT (machine) DO UPDATE
SET ahead = excluded.ahead, seen_at = excluded.seen_at;

-- name: forget_clock
-- Those of machines that are gone too.
DELETE FROM clocks
WHERE machine = %(machine)s OR seen_at < now() - INTERVAL '1 day';

-- name: wrong_clocks
SELECT machine, ahead, seen_at
FROM clocks
WHERE seen_at > now() - INTERVAL '1 day'
ORDER BY machine;

-- name: count_late_windows
SELECT count(*)
FROM late_windows;

-- name: database_size
SELECT pg_database_size(current_database());

-- name: drift
SELECT source, path
FROM drift
ORDER BY first_seen DESC, source, path;

-- name: count_reporters
-- One that was heard in more than an hour from now was so by a wrong clock.
SELECT
    count(*),
    count(*) FILTER (WHERE last_seen < now() - INTERVAL '1 hour' OR last_seen > now() + INTERVAL '1 hour')
FROM hosts;

-- name: count_rejects
SELECT count(*), (array_agg(reason ORDER BY received_at DESC))[1]
FROM rejects
WHERE received_at > now() - INTERVAL '1 day';

-- Budgets, chunks and rejects

-- name: lock_budgets
-- What was spent today (UTC). The rows stay locked until the transaction ends: two that spend at once
-- cannot overshoot. The widest first, always, so that no two transactions wait for each other.
INSERT INTO budgets AS spent (level, sender, host, day)
SELECT l.level, l.sender, l.host, (now() AT TIME ZONE 'UTC')::date
FROM (
    VALUES (1, 'all', '', ''), (2, 'sender', %(sender)s, ''), (3, 'host', %(sender)s, %(host)s)
) AS l (place, level, sender, host)
ORDER BY l.place
ON CONFLICT (level, sender, host) DO UPDATE
SET
    day = excluded.day,
    hosts = CASE WHEN spent.day = excluded.day THEN spent.hosts ELSE 0 END,
    series = CASE WHEN spent.day = excluded.day THEN spent.series ELSE 0 END,
    attribute_bytes = CASE WHEN spent.day = excluded.day THEN spent.attribute_bytes ELSE 0 END,
    short_hosts = CASE WHEN spent.day = excluded.day THEN spent.short_hosts ELSE 0 END,
    short_series = CASE WHEN spent.day = excluded.day THEN spent.short_series ELSE 0 END,
    short_attributes = CASE WHEN spent.day = excluded.day THEN spent.short_attributes ELSE 0 END
RETURNING level, hosts, series, attribute_bytes;

-- name: spend_budgets
UPDATE budgets
SET
    hosts = hosts + %(hosts)s,
    series = series + %(series)s,
    attribute_bytes = attribute_bytes + %(attribute_bytes)s
WHERE
    (level, sender, host) IN (
        ('all', '', ''), ('sender', %(sender)s, ''), ('host', %(sender)s, %(host)s)
    );

-- name: note_shortage
UPDATE budgets
SET
    short_hosts = short_hosts + %(short_hosts)s,
    short_series = short_series + %(short_series)s,
    short_attributes = short_attributes + %(short_attribute_bytes)s
WHERE
    level = %(level)s
    AND sender = CASE WHEN %(level)s = 'all' THEN '' ELSE %(sender)s END
    AND host = CASE WHEN %(level)s = 'host' THEN %(host)s ELSE '' END;

-- name: spent_budgets
-- Who ran out today (UTC), the widest level first.
SELECT level, sender, host, short_hosts, short_series, short_attributes
FROM budgets
WHERE
    day = (now() AT TIME ZONE 'UTC')::date
    AND short_hosts + short_series + short_attributes > 0
ORDER BY array_position(ARRAY['all', 'sender', 'host'], level), sender, host;

-- name: count_hosts
-- A statement of its own behind the lock on the budget of all, so that it sees what the one before
-- committed.
SELECT count(*)
FROM (SELECT FROM hosts LIMIT %(limit)s) AS known;

-- name: prune_budgets
DELETE FROM budgets
WHERE day < (now() AT TIME ZONE 'UTC')::date - 7;

-- Tokens

-- name: find_token
SELECT token_id, key_id, digest, hosts, scopes, created_at, expires_at, last_used_at, revoked_at
FROM tokens
WHERE key_id = %(key_id)s;

-- name: list_tokens
SELECT token_id, key_id, digest, hosts, scopes, created_at, expires_at, last_used_at, revoked_at
FROM tokens
ORDER BY created_at, token_id;

-- name: lock_tokens
-- Two that make tokens for one host at once count each other's.
LOCK TABLE tokens IN SHARE ROW EXCLUSIVE MODE;

-- name: find_live_tokens
SELECT key_id
FROM tokens
WHERE
    hosts = %(hosts)s AND scopes = %(scopes)s::text[]
    AND revoked_at IS NULL AND coalesce(expires_at, 'infinity') > now()
ORDER BY created_at, token_id;

-- name: add_token
INSERT INTO tokens (key_id, digest, hosts, scopes, expires_at)
VALUES (%(key_id)s, %(digest)s, %(hosts)s, %(scopes)s::text[], %(expires_at)s)
RETURNING token_id, key_id, digest, hosts, scopes, created_at, expires_at, last_used_at, revoked_at;

-- name: touch_token
-- At most one write an hour, whichever of the processes is first.
UPDATE tokens
SET last_used_at = now()
WHERE token_id = %(token_id)s AND coalesce(last_used_at, '-infinity') <= now() - INTERVAL '1 hour';

-- name: revoke_tokens
UPDATE tokens
SET revoked_at = coalesce(revoked_at, now())
WHERE key_id = ANY(%(key_ids)s::text[])
RETURNING key_id;

-- name: chunks_to_make
-- Chunks that rows of now and of a while ahead would need, and that are not there. Where another
-- chunk reaches into the range, the interval was changed: the first row makes a chunk that fits.
SELECT
    format('%%I.%%I', d.hypertable_schema, d.hypertable_name) AS hypertable,
    jsonb_build_object(d.column_name, jsonb_build_array(w.since, w.until)) AS slices
FROM timescaledb_information.dimensions AS d
CROSS JOIN LATERAL (SELECT (extract(EPOCH FROM d.time_interval) * 1000000)::bigint AS width) AS i
CROSS JOIN LATERAL (
    SELECT DISTINCT
        at - at %% i.width AS since,
        at - at %% i.width + i.width AS until
    FROM unnest(ARRAY[now(), now() + %(ahead)s::interval]) AS needed
    CROSS JOIN LATERAL (SELECT (extract(EPOCH FROM needed) * 1000000)::bigint AS at) AS t
) AS w
WHERE
    d.hypertable_schema = 'public' AND d.dimension_number = 1
    AND NOT EXISTS (
        SELECT 1
        FROM timescaledb_information.chunks AS c
        WHERE
            c.hypertable_schema = d.hypertable_schema AND c.hypertable_name = d.hypertable_name
            AND c.range_start < to_timestamp(w.until / 1000000.0)
            AND c.range_end > to_timestamp(w.since / 1000000.0)
    )
ORDER BY w.since, 1;

-- name: make_chunk
SELECT created
FROM _timescaledb_functions.create_chunk(%(hypertable)s::regclass, %(slices)s::jsonb);

-- name: add_reject
-- Counted and kept in one statement, or neither where there are too many already.
WITH room AS (
    INSERT INTO rejects_kept AS kept (rejects, bytes)
    VALUES (1, %(kept_bytes)s)
    ON CONFLICT (total) DO UPDATE
    SET rejects = kept.rejects + 1, bytes = kept.bytes + excluded.bytes
    WHERE kept.rejects < %(max_rejects)s AND kept.bytes < %(max_bytes)s
    RETURNING total
)

INSERT INTO rejects (
    received_at, source, host, time, key, replace, partial, sender, origin, token_id,
    reason, detail, pointer, line, size_bytes, payload
)
SELECT
    %(received_at)s, %(source)s, %(host)s, %(time)s, %(key)s, %(replace)s, %(partial)s, %(sender)s, %(origin)s,
    %(token_id)s,
    %(reason)s, %(detail)s, %(pointer)s, %(line)s, %(size_bytes)s, %(payload)s
FROM room
RETURNING reject_id;

-- name: add_bad_lines
-- Those that are kept already are left out: the log came before, and has grown. How many were not,
-- and how many of these were kept.
WITH fresh AS (
    SELECT l.*
    FROM unnest(
        %(lines)s::integer[], %(details)s::text[], %(sizes)s::bigint[], %(payloads)s::bytea[],
        %(equal_before)s::integer[]
    ) AS l (line, detail, size_bytes, payload, equal_before)
    WHERE NOT EXISTS (
        SELECT
        FROM rejects AS r
        WHERE
            r.reason = 'bad-line' AND r.source = %(source)s AND r.line = l.line
            AND (r.host, r.origin, r.token_id) IS NOT DISTINCT FROM (%(host)s, %(origin)s, %(token_id)s::integer)
            AND r.payload IS NOT DISTINCT FROM l.payload
    )
),

room AS (
    INSERT INTO rejects_kept AS kept (rejects, bytes)
    SELECT count(*), coalesce(sum(octet_length(payload)), 0)
    FROM fresh
    ON CONFLICT (total) DO UPDATE
    SET rejects = kept.rejects + excluded.rejects, bytes = kept.bytes + excluded.bytes
    WHERE kept.rejects < %(max_rejects)s AND kept.bytes < %(max_bytes)s
    RETURNING total
),

added AS (
    INSERT INTO rejects (
        received_at, source, host, time, replace, partial, sender, origin, token_id,
        reason, detail, line, size_bytes, payload, equal_before
    )
    SELECT
        %(received_at)s, %(source)s, %(host)s, %(time)s, %(replace)s, %(partial)s, %(sender)s, %(origin)s,
        %(token_id)s,
        'bad-line', f.detail, f.line, f.size_bytes, f.payload, f.equal_before
    FROM room
    CROSS JOIN fresh AS f
    ORDER BY f.line
    RETURNING reject_id
)

SELECT (SELECT count(*) FROM fresh), (SELECT count(*) FROM added);

-- name: list_rejects
-- The length of a payload is known without reading it.
SELECT
    r.reject_id, r.reason, r.detail, r.pointer, r.line, r.size_bytes, octet_length(r.payload),
    r.retries, r.retried_at,
    r.received_at, r.source, r.host, r.time, r.key, r.replace, r.partial, r.sender, r.origin, r.equal_before,
    r.token_id, t.key_id, t.hosts, t.scopes
FROM rejects AS r
LEFT JOIN tokens AS t USING (token_id)
WHERE
    (%(since)s::timestamptz IS NULL OR r.received_at >= %(since)s)
    AND (%(reason)s::text IS NULL OR r.reason = %(reason)s)
    AND (%(host)s::text IS NULL OR r.host = %(host)s OR r.sender = %(host)s)
ORDER BY r.received_at, r.reject_id;

-- name: find_reject
SELECT
    r.reject_id, r.reason, r.detail, r.pointer, r.line, r.size_bytes, octet_length(r.payload),
    r.retries, r.retried_at,
    r.received_at, r.source, r.host, r.time, r.key, r.replace, r.partial, r.sender, r.origin, r.equal_before,
    r.token_id, t.key_id, t.hosts, t.scopes,
    r.payload
FROM rejects AS r
LEFT JOIN tokens AS t USING (token_id)
WHERE r.reject_id = %(reject_id)s;

-- name: drop_rejects
DELETE FROM rejects
WHERE reject_id = ANY(%(reject_ids)s::bigint[])
RETURNING reject_id;

-- name: note_retry
UPDATE rejects
SET
    reason = %(reason)s,
    detail = %(detail)s,
    pointer = %(pointer)s,
    line = %(line)s,
    retries = retries + 1,
    retried_at = now()
WHERE reject_id = %(reject_id)s;

-- name: prune_rejects
DELETE FROM rejects
WHERE received_at < now() - %(keep)s::interval;

-- name: rejects_over
SELECT total
FROM rejects_kept
WHERE rejects > %(max_rejects)s OR bytes > %(max_bytes)s;

-- name: lock_rejects
SELECT total
FROM rejects_kept
FOR UPDATE;

-- name: prune_oldest_rejects
DELETE FROM rejects
WHERE reject_id IN (
    SELECT newest.reject_id
    FROM (
        SELECT
            r.reject_id,
            row_number() OVER w AS rejects,
            sum(octet_length(r.payload)) OVER w AS bytes
        FROM rejects AS r
        WINDOW w AS (ORDER BY r.received_at DESC, r.reject_id DESC)
    ) AS newest
    WHERE newest.rejects > %(max_rejects)s OR newest.bytes > %(max_bytes)s
)
RETURNING reject_id;

-- name: count_rejects_anew
UPDATE rejects_kept
SET (rejects, bytes) = (SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM rejects);

-- name: canary_markers
SELECT s.time
FROM tailscale_status AS s
INNER JOIN hosts AS h USING (host_id)
WHERE h.name = %(host)s AND s.time >= %(since)s
ORDER BY s.time;

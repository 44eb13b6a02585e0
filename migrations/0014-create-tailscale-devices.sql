-- Create the tables of the devices and headscale sources: devices, their listings, and the latest of each.

CREATE TABLE tailscale_devices (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    device_id text NOT NULL,
    kind text NOT NULL,
    node_id integer,
    name text,
    hostname text,
    user_name text,
    os text,
    client_version text,
    update_available boolean,
    connected boolean,
    last_seen timestamptz,
    created timestamptz,
    expires timestamptz,
    key_expiry_disabled boolean,
    authorized boolean,
    external boolean,
    ephemeral boolean,
    blocks_incoming boolean,
    ssh_enabled boolean,
    addresses text[],
    tags text[],
    advertised_routes text[],
    enabled_routes text[],
    derp text,
    latency_seconds double precision,
    multiple_connections boolean,
    node_key text,
    machine_key text,
    tailnet_lock_error text,
    attribute_id bigint NOT NULL,
    PRIMARY KEY (host_id, time, device_id)
);

SELECT create_hypertable(
    'tailscale_devices',
    by_range('time', INTERVAL '7 days'),
    create_default_indexes => false
);

ALTER TABLE tailscale_devices SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'time DESC'
);

CREATE TABLE tailscale_device_lists (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    kind text NOT NULL,
    devices integer NOT NULL,
    connected integer,
    external integer,
    attribute_id bigint NOT NULL,
    PRIMARY KEY (host_id, time, kind)
);

SELECT create_hypertable(
    'tailscale_device_lists',
    by_range('time', INTERVAL '30 days'),
    create_default_indexes => false
);

ALTER TABLE tailscale_device_lists SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'time DESC'
);

CREATE VIEW tailscale_devices_latest AS
WITH latest AS (
    -- Their times alone first: whole rows of 90 days would be sorted for the few that are shown.
    SELECT
        host_id,
        kind,
        device_id,
        max(time) AS time
    FROM tailscale_devices
    WHERE time > now() - INTERVAL '90 days'
    GROUP BY 1, 2, 3
),
keys AS (
    SELECT DISTINCT ON (n.public_key) n.*
    FROM tailscale_nodes AS n
    WHERE n.public_key IS NOT NULL
    ORDER BY n.public_key, n.changed_at DESC
)
SELECT
    h.name AS host,
    h.tailnet,
    d.kind,
    d.device_id,
    coalesce(d.name, d.hostname, d.device_id) AS device,
    d.hostname,
    d.user_name,
    d.os,
    d.client_version,
    coalesce(n.version, k.version) AS status_version,
    d.update_available,
    d.connected,
    d.last_seen,
    d.created,
    d.expires,
    d.key_expiry_disabled,
    d.authorized,
    d.external,
    d.ephemeral,
    d.blocks_incoming,
    d.ssh_enabled,
    d.addresses,
    d.tags,
    d.advertised_routes,
    d.enabled_routes,
    d.derp,
    d.latency_seconds,
    d.multiple_connections,
    d.tailnet_lock_error,
    coalesce(n.name, k.name) AS node,
    coalesce(n.first_seen, k.first_seen) AS first_seen,
    d.time,
    d.host_id,
    coalesce(n.node_id, k.node_id) AS node_id,
    d.attribute_id
FROM latest
CROSS JOIN LATERAL (
    SELECT *
    FROM tailscale_devices AS r
    WHERE r.host_id = latest.host_id AND r.time = latest.time AND r.device_id = latest.device_id
    LIMIT 1
) AS d
INNER JOIN hosts AS h ON h.host_id = d.host_id
LEFT JOIN tailscale_nodes AS n ON n.node_id = d.node_id
LEFT JOIN keys AS k ON d.node_id IS NULL AND k.public_key = d.node_key;

INSERT INTO policies (relation, kind, source, level, after, until, every) VALUES
('tailscale_devices', 'columnstore', 'devices', 0, INTERVAL '30 days', NULL, INTERVAL '1 day'),
('tailscale_devices', 'retention', 'devices', 0, INTERVAL '730 days', NULL, INTERVAL '1 day'),
('tailscale_device_lists', 'columnstore', 'devices', 0, INTERVAL '30 days', NULL, INTERVAL '1 day'),
('tailscale_device_lists', 'retention', 'devices', 0, INTERVAL '730 days', NULL, INTERVAL '1 day');

DO $$
BEGIN
    COMMENT ON TABLE tailscale_devices IS 'One device as the control server told of it at one time, in a listing or alone: a device of the Tailscale API, or a node of Headscale. NULL is what it did not tell, or left empty.';
    COMMENT ON COLUMN tailscale_devices.host_id IS 'Host that it is known under (hosts): the tailnet, or what the sender named.';
    COMMENT ON COLUMN tailscale_devices.time IS 'Time of the listing. Of a device alone whose time is known, with some microseconds of its own.';
    COMMENT ON COLUMN tailscale_devices.received_at IS 'Time of arrival.';
    COMMENT ON COLUMN tailscale_devices.device_id IS 'Its id (nodeId, else id; Headscale id). With a number added where a listing has it twice.';
    COMMENT ON COLUMN tailscale_devices.kind IS 'tailscale or headscale: which server told of it.';
    COMMENT ON COLUMN tailscale_devices.node_id IS 'The node that status documents tell of (tailscale_nodes), by nodeId; NULL for Headscale.';
    COMMENT ON COLUMN tailscale_devices.name IS 'Name in MagicDNS (name; Headscale givenName, its first label alone).';
    COMMENT ON COLUMN tailscale_devices.hostname IS 'Name that the machine gives itself (hostname; Headscale name).';
    COMMENT ON COLUMN tailscale_devices.user_name IS 'Owner (user; Headscale user.name, or namespace.name before 0.19).';
    COMMENT ON COLUMN tailscale_devices.os IS 'Operating system (os).';
    COMMENT ON COLUMN tailscale_devices.client_version IS 'Version of the client; NULL for devices shared in from elsewhere (clientVersion).';
    COMMENT ON COLUMN tailscale_devices.update_available IS 'Whether there is a newer version of the client (updateAvailable).';
    COMMENT ON COLUMN tailscale_devices.connected IS 'Whether it is connected to the control server (connectedToControl; Headscale online).';
    COMMENT ON COLUMN tailscale_devices.last_seen IS 'When it was last connected; the Tailscale API leaves it out while it is (lastSeen).';
    COMMENT ON COLUMN tailscale_devices.created IS 'When it was added; NULL for devices shared in from elsewhere (created; Headscale createdAt).';
    COMMENT ON COLUMN tailscale_devices.expires IS 'When its key expires, which does not count where key_expiry_disabled; NULL for never (expires; Headscale expiry).';
    COMMENT ON COLUMN tailscale_devices.key_expiry_disabled IS 'Whether its key never expires (keyExpiryDisabled).';
    COMMENT ON COLUMN tailscale_devices.authorized IS 'Whether it may join the tailnet (authorized).';
    COMMENT ON COLUMN tailscale_devices.external IS 'Whether it is shared in from another tailnet (isExternal).';
    COMMENT ON COLUMN tailscale_devices.ephemeral IS 'Whether it is removed when it goes offline (isEphemeral; Headscale preAuthKey.ephemeral).';
    COMMENT ON COLUMN tailscale_devices.blocks_incoming IS 'Whether it takes no connections (blocksIncomingConnections).';
    COMMENT ON COLUMN tailscale_devices.ssh_enabled IS 'Whether Tailscale SSH is on; with fields=all (sshEnabled).';
    COMMENT ON COLUMN tailscale_devices.addresses IS 'Its addresses in the tailnet (addresses; Headscale ipAddresses).';
    COMMENT ON COLUMN tailscale_devices.tags IS 'ACL tags (tags; Headscale before 0.28 forcedTags and validTags, sorted).';
    COMMENT ON COLUMN tailscale_devices.advertised_routes IS 'Routes that it offers; with fields=all (advertisedRoutes; Headscale availableRoutes).';
    COMMENT ON COLUMN tailscale_devices.enabled_routes IS 'Routes that were approved; with fields=all (enabledRoutes; Headscale approvedRoutes).';
    COMMENT ON COLUMN tailscale_devices.derp IS 'Home DERP region; with fields=all (clientConnectivity.derp, else the preferred of clientConnectivity.latency).';
    COMMENT ON COLUMN tailscale_devices.latency_seconds IS 'Latency to the preferred DERP region; with fields=all [seconds] (clientConnectivity.latency.*.latencyMs).';
    COMMENT ON COLUMN tailscale_devices.multiple_connections IS 'Whether several clients are connected with its key (multipleConnections).';
    COMMENT ON COLUMN tailscale_devices.node_key IS 'Node key, a public one (nodeKey).';
    COMMENT ON COLUMN tailscale_devices.machine_key IS 'Machine key, a public one; NULL for devices shared in from elsewhere (machineKey).';
    COMMENT ON COLUMN tailscale_devices.tailnet_lock_error IS 'What is wrong with its signature, with tailnet lock (tailnetLockError).';
    COMMENT ON COLUMN tailscale_devices.attribute_id IS 'All other fields of the device; of one alone, also what is in the document beside it (attributes).';

    COMMENT ON TABLE tailscale_device_lists IS 'One listing of devices, which may be empty. A device or node that was sent alone is none.';
    COMMENT ON COLUMN tailscale_device_lists.host_id IS 'Host that it is known under (hosts).';
    COMMENT ON COLUMN tailscale_device_lists.time IS 'Time of the listing.';
    COMMENT ON COLUMN tailscale_device_lists.received_at IS 'Time of arrival.';
    COMMENT ON COLUMN tailscale_device_lists.kind IS 'tailscale or headscale: which server listed them.';
    COMMENT ON COLUMN tailscale_device_lists.devices IS 'Devices in it.';
    COMMENT ON COLUMN tailscale_device_lists.connected IS 'Devices that are connected to the control server; NULL where it does not say so of any.';
    COMMENT ON COLUMN tailscale_device_lists.external IS 'Devices that are shared in from elsewhere; NULL where it does not say so of any.';
    COMMENT ON COLUMN tailscale_device_lists.attribute_id IS 'All that is in the document beside the devices (attributes).';

    COMMENT ON VIEW tailscale_devices_latest IS 'Each device as the control server last told of it under each host, in a listing or alone, in the last 90 days; time tells when. A device that was removed stays until then.';
    COMMENT ON COLUMN tailscale_devices_latest.host IS 'Host that it is known under (hosts.name).';
    COMMENT ON COLUMN tailscale_devices_latest.tailnet IS 'Tailnet of the host; empty where it is unknown, as with Headscale.';
    COMMENT ON COLUMN tailscale_devices_latest.kind IS 'tailscale or headscale.';
    COMMENT ON COLUMN tailscale_devices_latest.device_id IS 'Its id.';
    COMMENT ON COLUMN tailscale_devices_latest.device IS 'Name to show: name, else hostname, else device_id.';
    COMMENT ON COLUMN tailscale_devices_latest.hostname IS 'Name that the machine gives itself.';
    COMMENT ON COLUMN tailscale_devices_latest.user_name IS 'Owner.';
    COMMENT ON COLUMN tailscale_devices_latest.os IS 'Operating system.';
    COMMENT ON COLUMN tailscale_devices_latest.client_version IS 'Version of the client, as the control server knows it.';
    COMMENT ON COLUMN tailscale_devices_latest.status_version IS 'Version of the daemon, as its own status documents told it (tailscale_nodes.version).';
    COMMENT ON COLUMN tailscale_devices_latest.update_available IS 'Whether there is a newer version of the client.';
    COMMENT ON COLUMN tailscale_devices_latest.connected IS 'Whether it was connected to the control server.';
    COMMENT ON COLUMN tailscale_devices_latest.last_seen IS 'When it was last connected; NULL while it is, with the Tailscale API.';
    COMMENT ON COLUMN tailscale_devices_latest.created IS 'When it was added.';
    COMMENT ON COLUMN tailscale_devices_latest.expires IS 'When its key expires, which does not count where key_expiry_disabled.';
    COMMENT ON COLUMN tailscale_devices_latest.key_expiry_disabled IS 'Whether its key never expires.';
    COMMENT ON COLUMN tailscale_devices_latest.authorized IS 'Whether it may join the tailnet.';
    COMMENT ON COLUMN tailscale_devices_latest.external IS 'Whether it is shared in from another tailnet.';
    COMMENT ON COLUMN tailscale_devices_latest.ephemeral IS 'Whether it is removed when it goes offline.';
    COMMENT ON COLUMN tailscale_devices_latest.blocks_incoming IS 'Whether it takes no connections.';
    COMMENT ON COLUMN tailscale_devices_latest.ssh_enabled IS 'Whether Tailscale SSH is on.';
    COMMENT ON COLUMN tailscale_devices_latest.addresses IS 'Its addresses in the tailnet.';
    COMMENT ON COLUMN tailscale_devices_latest.tags IS 'ACL tags.';
    COMMENT ON COLUMN tailscale_devices_latest.advertised_routes IS 'Routes that it offers.';
    COMMENT ON COLUMN tailscale_devices_latest.enabled_routes IS 'Routes that were approved.';
    COMMENT ON COLUMN tailscale_devices_latest.derp IS 'Home DERP region.';
    COMMENT ON COLUMN tailscale_devices_latest.latency_seconds IS 'Latency to the preferred DERP region [seconds].';
    COMMENT ON COLUMN tailscale_devices_latest.multiple_connections IS 'Whether several clients are connected with its key.';
    COMMENT ON COLUMN tailscale_devices_latest.tailnet_lock_error IS 'What is wrong with its signature, with tailnet lock.';
    COMMENT ON COLUMN tailscale_devices_latest.node IS 'The node that status documents tell of, by nodeId, else by its key (tailscale_nodes.name).';
    COMMENT ON COLUMN tailscale_devices_latest.first_seen IS 'First sample that was received with the node (tailscale_nodes.first_seen).';
    COMMENT ON COLUMN tailscale_devices_latest.time IS 'Time of its last row (tailscale_devices.time).';
    COMMENT ON COLUMN tailscale_devices_latest.host_id IS 'Host that it is known under (hosts).';
    COMMENT ON COLUMN tailscale_devices_latest.node_id IS 'The node (tailscale_nodes).';
    COMMENT ON COLUMN tailscale_devices_latest.attribute_id IS 'All other fields of the device (attributes).';
END $$;

GRANT SELECT ON
    tailscale_devices,
    tailscale_device_lists,
    tailscale_devices_latest
TO tsstats_reader;

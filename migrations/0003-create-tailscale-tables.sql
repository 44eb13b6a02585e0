-- Create the tables of the tailscale source: status, nodes, peers and their changes.

CREATE TABLE tailscale_nodes (
    node_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope text NOT NULL,
    stable_id text NOT NULL,
    tailnet text NOT NULL DEFAULT '',
    name text NOT NULL DEFAULT '',
    host_name text,
    dns_name text,
    os text,
    version text,
    user_id bigint,
    user_name text,
    tags text[],
    public_key text,
    key_expiry timestamptz,
    expired boolean,
    exit_node_option boolean,
    tailscale_ips text[],
    allowed_ips text[],
    primary_routes text[],
    first_seen timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    said_by integer,
    said_as text CHECK (said_as IN ('own', 'listing', 'peer')),
    UNIQUE (scope, stable_id)
);

CREATE INDEX tailscale_nodes_said_by_idx ON tailscale_nodes (said_by);

CREATE TABLE tailscale_status (
    host_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    node_id integer,
    backend_state text,
    version text,
    online boolean,
    health text[],
    exit_node_id integer,
    relay text,
    addrs text[],
    peers integer,
    peers_online integer,
    peers_active integer,
    peers_direct integer,
    peers_derp integer,
    peers_peer_relay integer,
    attribute_id bigint NOT NULL,
    PRIMARY KEY (host_id, time)
);

SELECT create_hypertable(
    'tailscale_status',
    by_range('time', INTERVAL '7 days'),
    create_default_indexes => false
);

ALTER TABLE tailscale_status SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id',
    timescaledb.orderby = 'time DESC'
);

CREATE TABLE tailscale_peers (
    host_id integer NOT NULL,
    node_id integer NOT NULL,
    time timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    rx_bytes bigint,
    tx_bytes bigint,
    online boolean,
    active boolean,
    path text,
    relay text,
    peer_relay text,
    cur_addr text,
    last_handshake timestamptz,
    last_write timestamptz,
    last_seen timestamptz,
    in_engine boolean,
    exit_node boolean,
    key_epoch bigint NOT NULL,
    attribute_id bigint NOT NULL,
    PRIMARY KEY (host_id, time, node_id)
);

SELECT create_hypertable(
    'tailscale_peers',
    by_range('time', INTERVAL '1 day'),
    create_default_indexes => false
);

ALTER TABLE tailscale_peers SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'host_id, node_id',
    timescaledb.orderby = 'time DESC'
);

CREATE TABLE tailscale_node_changes (
    host_id integer NOT NULL REFERENCES hosts,
    node_id integer NOT NULL REFERENCES tailscale_nodes,
    time timestamptz NOT NULL,
    digest bytea NOT NULL,
    host_name text,
    dns_name text,
    os text,
    version text,
    user_id bigint,
    user_name text,
    tags text[],
    public_key text,
    key_expiry timestamptz,
    expired boolean,
    exit_node_option boolean,
    tailscale_ips text[],
    allowed_ips text[],
    primary_routes text[],
    PRIMARY KEY (host_id, node_id, time)
);

CREATE INDEX tailscale_node_changes_node_idx ON tailscale_node_changes (node_id, time);

CREATE TABLE tailscale_status_changes (
    host_id integer NOT NULL REFERENCES hosts,
    time timestamptz NOT NULL,
    digest bytea NOT NULL,
    backend_state text,
    version text,
    health text[],
    exit_node_id integer,
    PRIMARY KEY (host_id, time)
);

CREATE FUNCTION tailscale_node_changes_next(
    host_id integer,
    at timestamptz,
    entity_ids integer[]
) RETURNS TABLE (entity_id integer, "time" timestamptz)
LANGUAGE plpgsql STABLE ROWS 100 AS $$
DECLARE
    following CONSTANT timestamptz := (
        SELECT s.time FROM tailscale_status AS s WHERE s.host_id = $1 AND s.time > at ORDER BY s.time LIMIT 1
    );
    found integer[];
    missing integer[];
BEGIN
    found := ARRAY(
        SELECT p.node_id FROM tailscale_peers AS p
        WHERE p.host_id = $1 AND p.time = following AND p.node_id = ANY (entity_ids)
        UNION
        SELECT s.node_id FROM tailscale_status AS s
        WHERE s.host_id = $1 AND s.time = following AND s.node_id = ANY (entity_ids)
    );
    RETURN QUERY SELECT n.node_id, following FROM unnest(found) AS n (node_id);
    missing := ARRAY(SELECT unnest(entity_ids) EXCEPT SELECT unnest(found));
    IF following IS NULL OR missing = '{}' THEN
        RETURN;
    END IF;
    -- Only nodes that left are looked for further on: one scan for all of them.
    RETURN QUERY
    SELECT n.node_id, min(n.time)
    FROM (
        SELECT p.node_id, p.time FROM tailscale_peers AS p
        WHERE p.host_id = $1 AND p.time > following AND p.node_id = ANY (missing)
        UNION ALL
        SELECT s.node_id, s.time FROM tailscale_status AS s
        WHERE s.host_id = $1 AND s.time > following AND s.node_id = ANY (missing)
    ) AS n
    GROUP BY n.node_id;
END $$;

CREATE FUNCTION tailscale_status_changes_next(
    host_id integer,
    at timestamptz,
    entity_ids integer[]
) RETURNS TABLE (entity_id integer, "time" timestamptz)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT s.host_id, s.time
    FROM tailscale_status AS s
    WHERE s.host_id = $1 AND s.host_id = ANY ($3) AND s.time > $2
    ORDER BY s.time
    LIMIT 1
$$;

INSERT INTO policies (relation, kind, source, level, after, until, every) VALUES
('tailscale_peers', 'columnstore', 'tailscale', 0, INTERVAL '2 days', NULL, INTERVAL '6 hours'),
('tailscale_peers', 'retention', 'tailscale', 0, INTERVAL '730 days', NULL, INTERVAL '1 day'),
('tailscale_status', 'columnstore', 'tailscale', 0, INTERVAL '8 days', NULL, INTERVAL '12 hours'),
('tailscale_status', 'retention', 'tailscale', 0, INTERVAL '730 days', NULL, INTERVAL '1 day');

DO $$
BEGIN
    COMMENT ON TABLE tailscale_nodes IS 'A node of a tailnet: as its own host reports it, else as a listing of the API does, else as the first host that told of it, for as long as that host is heard.';
    COMMENT ON COLUMN tailscale_nodes.node_id IS 'Key of this table.';
    COMMENT ON COLUMN tailscale_nodes.scope IS 'Where stable_id is unique: empty for ids that are unique everywhere, the tailnet for the small numbers that Headscale gives.';
    COMMENT ON COLUMN tailscale_nodes.stable_id IS 'Stable node id (ID); for clients before 1.10, which give none, the public key.';
    COMMENT ON COLUMN tailscale_nodes.tailnet IS 'MagicDNS suffix of the tailnet of the reporter.';
    COMMENT ON COLUMN tailscale_nodes.name IS 'Name to show: the first label of dns_name, else host_name, else stable_id.';
    COMMENT ON COLUMN tailscale_nodes.host_name IS 'Host name by the operating system, not unique (HostName).';
    COMMENT ON COLUMN tailscale_nodes.dns_name IS 'MagicDNS name with a trailing dot (DNSName).';
    COMMENT ON COLUMN tailscale_nodes.os IS 'Operating system (OS).';
    COMMENT ON COLUMN tailscale_nodes.version IS 'Version of the daemon (Version); only known of nodes that report themselves.';
    COMMENT ON COLUMN tailscale_nodes.user_id IS 'Owner (UserID).';
    COMMENT ON COLUMN tailscale_nodes.user_name IS 'Login name of the owner (User[].LoginName).';
    COMMENT ON COLUMN tailscale_nodes.tags IS 'ACL tags, sorted; NULL where a user owns the node (Tags).';
    COMMENT ON COLUMN tailscale_nodes.public_key IS 'Node key (PublicKey).';
    COMMENT ON COLUMN tailscale_nodes.key_expiry IS 'When the node key expires; NULL for never (KeyExpiry).';
    COMMENT ON COLUMN tailscale_nodes.expired IS 'Whether the key has expired (Expired).';
    COMMENT ON COLUMN tailscale_nodes.exit_node_option IS 'Whether it is offered and approved as exit node (ExitNodeOption).';
    COMMENT ON COLUMN tailscale_nodes.tailscale_ips IS 'Its addresses in the tailnet (TailscaleIPs; TailAddr before 1.8).';
    COMMENT ON COLUMN tailscale_nodes.allowed_ips IS 'Own addresses and approved routes, sorted (AllowedIPs).';
    COMMENT ON COLUMN tailscale_nodes.primary_routes IS 'Routes it is the current primary router for, sorted (PrimaryRoutes).';
    COMMENT ON COLUMN tailscale_nodes.first_seen IS 'Time of the earliest sample with it, of the hosts whose word stood.';
    COMMENT ON COLUMN tailscale_nodes.changed_at IS 'Time of the sample that these fields are from.';
    COMMENT ON COLUMN tailscale_nodes.said_by IS 'Host whose word stands (hosts). Another takes over when that host was not heard for a day before its sample; the node''s own host at once, a listing at once where a peer told. NULL before anybody told more than its id.';
    COMMENT ON COLUMN tailscale_nodes.said_as IS 'own: that host is the node (Self); listing: it brings the listing of the API; peer: it has the node as a peer.';

    COMMENT ON TABLE tailscale_status IS 'One status document: the reporter''s own state.';
    COMMENT ON COLUMN tailscale_status.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN tailscale_status.time IS 'Time of the observation.';
    COMMENT ON COLUMN tailscale_status.received_at IS 'Time of arrival.';
    COMMENT ON COLUMN tailscale_status.node_id IS 'The reporter as a node (tailscale_nodes); NULL before login.';
    COMMENT ON COLUMN tailscale_status.backend_state IS 'NoState, NeedsLogin, NeedsMachineAuth, Stopped, Starting, Running or InUseOtherUser; NULL where it is empty or absent (BackendState).';
    COMMENT ON COLUMN tailscale_status.version IS 'Version of the daemon (Version).';
    COMMENT ON COLUMN tailscale_status.online IS 'Whether the reporter is connected to the control plane (Self.Online).';
    COMMENT ON COLUMN tailscale_status.health IS 'Health messages as they were sent; their order carries no meaning (Health).';
    COMMENT ON COLUMN tailscale_status.exit_node_id IS 'Exit node in use (tailscale_nodes); NULL where none is or the state is not Running.';
    COMMENT ON COLUMN tailscale_status.relay IS 'Home DERP region (Self.Relay).';
    COMMENT ON COLUMN tailscale_status.addrs IS 'Endpoints of the reporter (Self.Addrs).';
    COMMENT ON COLUMN tailscale_status.peers IS 'Peers in the document.';
    COMMENT ON COLUMN tailscale_status.peers_online IS 'Peers that are online; see tailscale_peers.online.';
    COMMENT ON COLUMN tailscale_status.peers_active IS 'Peers that are active.';
    COMMENT ON COLUMN tailscale_status.peers_direct IS 'Active peers on a direct path.';
    COMMENT ON COLUMN tailscale_status.peers_derp IS 'Active peers relayed by DERP.';
    COMMENT ON COLUMN tailscale_status.peers_peer_relay IS 'Active peers relayed by a peer.';
    COMMENT ON COLUMN tailscale_status.attribute_id IS 'All other fields of the document but Peer (attributes).';

    COMMENT ON TABLE tailscale_peers IS 'One peer as one reporter saw it at one time.';
    COMMENT ON COLUMN tailscale_peers.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN tailscale_peers.node_id IS 'The peer (tailscale_nodes).';
    COMMENT ON COLUMN tailscale_peers.time IS 'Time of the observation.';
    COMMENT ON COLUMN tailscale_peers.received_at IS 'Time of arrival.';
    COMMENT ON COLUMN tailscale_peers.rx_bytes IS 'Counter: bytes that the reporter received from the peer in this WireGuard session [bytes] (RxBytes).';
    COMMENT ON COLUMN tailscale_peers.tx_bytes IS 'Counter: bytes that the reporter sent to the peer in this WireGuard session, handshake attempts included [bytes] (TxBytes).';
    COMMENT ON COLUMN tailscale_peers.online IS 'Whether the peer is connected to the control plane (Online); false where the reporter is not Running, NULL where the reporter is cut off from control or its version does not say.';
    COMMENT ON COLUMN tailscale_peers.active IS 'Whether the reporter sent to the peer lately, 45 s (Active).';
    COMMENT ON COLUMN tailscale_peers.path IS 'direct, peer_relay, derp, idle or offline, as `tailscale status` classifies it; NULL where the version does not say.';
    COMMENT ON COLUMN tailscale_peers.relay IS 'Home DERP region of the peer, not proof of relaying (Relay).';
    COMMENT ON COLUMN tailscale_peers.peer_relay IS 'Peer relay in use, ip:port:vni (PeerRelay).';
    COMMENT ON COLUMN tailscale_peers.cur_addr IS 'Direct address in use, ip:port (CurAddr).';
    COMMENT ON COLUMN tailscale_peers.last_handshake IS 'Last WireGuard handshake; NULL for never (LastHandshake).';
    COMMENT ON COLUMN tailscale_peers.last_write IS 'Last packet sent to the peer; stands still while the reporter sleeps (LastWrite).';
    COMMENT ON COLUMN tailscale_peers.last_seen IS 'Last time control saw the peer; of use only while it is offline (LastSeen).';
    COMMENT ON COLUMN tailscale_peers.in_engine IS 'Whether WireGuard holds a peer object; without one the counters are zero (InEngine).';
    COMMENT ON COLUMN tailscale_peers.exit_node IS 'Whether the reporter uses the peer as exit node (ExitNode).';
    COMMENT ON COLUMN tailscale_peers.key_epoch IS 'Number derived from the node key: counters start anew when it changes (PublicKey).';
    COMMENT ON COLUMN tailscale_peers.attribute_id IS 'All other fields of the peer (attributes).';

    COMMENT ON TABLE tailscale_node_changes IS 'How a node looked to a reporter from this time on; a row only where it differs from that reporter''s sample before.';
    COMMENT ON COLUMN tailscale_node_changes.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN tailscale_node_changes.node_id IS 'The node (tailscale_nodes).';
    COMMENT ON COLUMN tailscale_node_changes.time IS 'First sample that shows it so.';
    COMMENT ON COLUMN tailscale_node_changes.digest IS 'Hash of the fields that follow.';
    COMMENT ON COLUMN tailscale_node_changes.host_name IS 'HostName.';
    COMMENT ON COLUMN tailscale_node_changes.dns_name IS 'DNSName.';
    COMMENT ON COLUMN tailscale_node_changes.os IS 'OS.';
    COMMENT ON COLUMN tailscale_node_changes.version IS 'Version; only of the reporter itself.';
    COMMENT ON COLUMN tailscale_node_changes.user_id IS 'UserID.';
    COMMENT ON COLUMN tailscale_node_changes.user_name IS 'Login name of the user.';
    COMMENT ON COLUMN tailscale_node_changes.tags IS 'Tags, sorted.';
    COMMENT ON COLUMN tailscale_node_changes.public_key IS 'PublicKey.';
    COMMENT ON COLUMN tailscale_node_changes.key_expiry IS 'KeyExpiry; NULL for never.';
    COMMENT ON COLUMN tailscale_node_changes.expired IS 'Expired.';
    COMMENT ON COLUMN tailscale_node_changes.exit_node_option IS 'ExitNodeOption.';
    COMMENT ON COLUMN tailscale_node_changes.tailscale_ips IS 'TailscaleIPs, or TailAddr.';
    COMMENT ON COLUMN tailscale_node_changes.allowed_ips IS 'AllowedIPs, sorted.';
    COMMENT ON COLUMN tailscale_node_changes.primary_routes IS 'PrimaryRoutes, sorted.';

    COMMENT ON TABLE tailscale_status_changes IS 'How a reporter was from this time on; a row only where it differs from the sample before.';
    COMMENT ON COLUMN tailscale_status_changes.host_id IS 'Host that reported (hosts).';
    COMMENT ON COLUMN tailscale_status_changes.time IS 'First sample that shows it so.';
    COMMENT ON COLUMN tailscale_status_changes.digest IS 'Hash of the fields that follow.';
    COMMENT ON COLUMN tailscale_status_changes.backend_state IS 'BackendState.';
    COMMENT ON COLUMN tailscale_status_changes.version IS 'Version.';
    COMMENT ON COLUMN tailscale_status_changes.health IS 'Health messages as a set, sorted.';
    COMMENT ON COLUMN tailscale_status_changes.exit_node_id IS 'Exit node in use (tailscale_nodes).';

    COMMENT ON FUNCTION tailscale_node_changes_next(integer, timestamptz, integer[]) IS 'Time of the host''s first sample of each of these nodes after a time; no row for a node without one.';
    COMMENT ON FUNCTION tailscale_status_changes_next(integer, timestamptz, integer[]) IS 'Time of the host''s first sample after a time; its entity is the host itself.';
END $$;

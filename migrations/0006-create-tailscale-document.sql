-- Create the way back: tailscale_document gives a status document as it was received.

CREATE FUNCTION rfc3339(p_time timestamptz, p_form text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        to_char(local_time, 'YYYY-MM-DD"T"HH24:MI:SS')
        || CASE WHEN fraction = '' THEN '' ELSE '.' || fraction END
        || zone
    FROM (SELECT ltrim(p_form, '0123456') AS zone, substring(p_form FROM '^[0-6]')::integer AS digits) AS form
    CROSS JOIN LATERAL (
        SELECT p_time AT TIME ZONE 'UTC' + CASE WHEN zone ~ '^[+-]' THEN zone::interval ELSE INTERVAL '0' END AS local_time
    ) AS shifted
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN digits IS NULL THEN rtrim(to_char(local_time, 'US'), '0')
            ELSE left(to_char(local_time, 'US'), digits)
        END AS fraction
    ) AS cut
$$;

CREATE FUNCTION tailscale_fields(p_attributes jsonb, p_columns jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT
        (p_attributes - ARRAY['$absent', '$raw', '$zone', '$key'])
        || (p_columns - ARRAY(SELECT jsonb_array_elements_text(p_attributes -> '$absent')))
        || coalesce(p_attributes -> '$raw', '{}')
$$;

CREATE FUNCTION tailscale_document_peers(p_host_id integer, p_time timestamptz, p_zone text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT jsonb_object_agg(
        coalesce(document ->> '$key', document ->> 'PublicKey'),
        tailscale_fields(document, jsonb_build_object(
            'RxBytes', rx_bytes,
            'TxBytes', tx_bytes,
            'Online', online,
            'Active', active,
            'Relay', coalesce(relay, ''),
            'PeerRelay', coalesce(peer_relay, ''),
            'CurAddr', coalesce(cur_addr, ''),
            'LastHandshake', coalesce(rfc3339(last_handshake, coalesce(zone ->> 'LastHandshake', p_zone)), never),
            'LastWrite', coalesce(rfc3339(last_write, coalesce(zone ->> 'LastWrite', p_zone)), never),
            'LastSeen', coalesce(rfc3339(last_seen, coalesce(zone ->> 'LastSeen', 'Z')), never),
            'InEngine', in_engine,
            'ExitNode', exit_node
        ))
    )
    FROM tailscale_peers
    INNER JOIN attributes USING (attribute_id)
    CROSS JOIN LATERAL (SELECT document -> '$zone' AS zone, '0001-01-01T00:00:00Z' AS never) AS written
    WHERE host_id = p_host_id AND time = p_time
$$;

CREATE FUNCTION tailscale_document(p_host_id integer, p_time timestamptz) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT tailscale_fields(
        document
        || CASE
            WHEN jsonb_typeof(document -> 'Self') = 'object'
                THEN jsonb_build_object('Self', tailscale_fields(document -> 'Self', jsonb_build_object(
                    'Online', online,
                    'Relay', coalesce(relay, ''),
                    'Addrs', addrs
                )))
            ELSE '{}'
        END,
        jsonb_build_object(
            'BackendState', coalesce(backend_state, ''),
            'Version', coalesce(version, ''),
            'Health', health,
            'Peer', coalesce(tailscale_document_peers(host_id, time, coalesce(zone ->> 'Peer', 'Z')), '{}')
        )
        || CASE
            WHEN zone ->> '_timestamp' = 'unix'
                THEN jsonb_build_object('_timestamp', trim_scale(extract(EPOCH FROM time)))
            WHEN zone ->> '_timestamp' IS NOT NULL
                THEN jsonb_build_object('_timestamp', rfc3339(time, zone ->> '_timestamp'))
            ELSE '{}'
        END
    )
    FROM tailscale_status
    INNER JOIN attributes USING (attribute_id)
    CROSS JOIN LATERAL (SELECT document -> '$zone' AS zone) AS written
    WHERE host_id = p_host_id AND time = p_time
$$;

DO $$
BEGIN
    COMMENT ON FUNCTION rfc3339(timestamptz, text) IS 'Write a time as RFC 3339. The form is the zone (Z, +07:00, or nothing), with the number of digits of the fraction in front of it where these are fixed; otherwise trailing zeros are dropped.';
    COMMENT ON FUNCTION tailscale_fields(jsonb, jsonb) IS 'Put columns back into the attributes of an object, as $absent and $raw say.';
    COMMENT ON FUNCTION tailscale_document_peers(integer, timestamptz, text) IS 'The Peer map of the status document of a host and time; NULL where it has no peers. p_zone is the zone of the daemon''s local times.';
    COMMENT ON FUNCTION tailscale_document(integer, timestamptz) IS 'The status document that is stored for exactly this host and time, equal to what was sent but for secrets and digits behind the microsecond; NULL where none is.';
END $$;

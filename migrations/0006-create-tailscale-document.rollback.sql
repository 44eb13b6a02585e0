-- Undo 0006-create-tailscale-document: drop the way back.

SELECT 1;

DROP FUNCTION IF EXISTS tailscale_document(integer, timestamptz);

DROP FUNCTION IF EXISTS tailscale_document_peers(integer, timestamptz, text);

DROP FUNCTION IF EXISTS tailscale_fields(jsonb, jsonb);

DROP FUNCTION IF EXISTS rfc3339(timestamptz, text);

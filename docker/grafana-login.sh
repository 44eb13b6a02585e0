#!/usr/bin/env bash
# Runs once, when the database is made: the login that Grafana reads with. It may SELECT and nothing else,
# which `tsstats up` sees to when it migrates. See docs/security.md.
set -euo pipefail

psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password GRAFANA_DATABASE_PASSWORD
CREATE ROLE tsstats_reader NOLOGIN;
CREATE ROLE grafana LOGIN PASSWORD :'password' CONNECTION LIMIT 20 IN ROLE tsstats_reader;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
ALTER ROLE grafana SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE grafana SET temp_file_limit = '2GB';
REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;
SQL

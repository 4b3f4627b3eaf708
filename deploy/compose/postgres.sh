#!/bin/sh
# Databases, roles with as little as each needs (deploy/postgres/roles.sql), and their passwords. Repeating it changes
# nothing but what was changed by hand.
set -eu

password() { cat "/run/secrets/$1"; }

export PGHOST=postgres PGUSER=postgres PGPASSWORD="$(password superuser)"
run() { psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 "$@"; }

run --dbname postgres <<'SQL'
SELECT format('CREATE DATABASE %I', name)
  FROM unnest(ARRAY['cdds', 'cdds_sources']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec
SQL

run --dbname cdds --file /etc/cdds/roles.sql

for role in job_api_owner job_api_login scheduler_owner scheduler_login exporter_owner exporter_login \
  history_owner history_login dashboards_login; do
  run --dbname cdds --set role="$role" --set password="$(password "$role")" <<'SQL'
ALTER ROLE :"role" PASSWORD :'password';
SQL
done

run --dbname cdds_sources --set sources="$(password sources)" --set reader="$(password reader)" <<'SQL'
-- Grafana's login to history, as docs/operate/metrics.md wants it.
ALTER ROLE dashboards_login SET search_path = history;
ALTER ROLE dashboards_login SET default_transaction_read_only = on;
ALTER ROLE dashboards_login SET statement_timeout = '30s';

-- The sample source: who owns it fills it, exporter reads it.
SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['sources', 'cdds_reader']) AS name
 WHERE to_regrole(name) IS NULL
\gexec
ALTER ROLE sources PASSWORD :'sources';
ALTER ROLE cdds_reader PASSWORD :'reader';
ALTER ROLE cdds_reader SET default_transaction_read_only = on;
ALTER DATABASE cdds_sources OWNER TO sources;
REVOKE ALL ON DATABASE cdds_sources FROM PUBLIC;
GRANT CONNECT ON DATABASE cdds_sources TO cdds_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE sources GRANT USAGE ON SCHEMAS TO cdds_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE sources GRANT SELECT ON TABLES TO cdds_reader;
SQL

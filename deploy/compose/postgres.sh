#!/bin/sh
# Databases, and a login for each service and for nobody else. Repeating it changes nothing but what was changed by hand.
set -eu

password() { cat "/run/secrets/$1"; }

PGPASSWORD=$(password superuser) psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 \
  --host postgres --username postgres --dbname postgres \
  --set job_api="$(password job_api)" --set scheduler="$(password scheduler)" --set exporter="$(password exporter)" \
  --set history="$(password history)" --set sources="$(password sources)" --set reader="$(password reader)" \
  --set grafana="$(password grafana)" <<'SQL'
SELECT format('CREATE ROLE %I', name)
  FROM unnest(ARRAY['job_api', 'scheduler', 'exporter', 'history', 'history_dashboards', 'grafana', 'sources',
                    'exporter_source']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
SELECT format('CREATE DATABASE %I', name)
  FROM unnest(ARRAY['cdds', 'cdds_sources']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec

-- CREATEROLE, because a service makes the roles that it works in; it can manage no others.
ALTER ROLE job_api LOGIN CREATEROLE PASSWORD :'job_api';
ALTER ROLE scheduler LOGIN CREATEROLE PASSWORD :'scheduler';
ALTER ROLE exporter LOGIN CREATEROLE PASSWORD :'exporter';
ALTER ROLE history LOGIN CREATEROLE PASSWORD :'history';
REVOKE ALL ON DATABASE cdds FROM PUBLIC;
GRANT CONNECT, CREATE ON DATABASE cdds TO job_api, scheduler, exporter, history;

-- Grafana sees the views of history, whose migration knows the role.
ALTER ROLE grafana LOGIN PASSWORD :'grafana';
GRANT history_dashboards TO grafana;
ALTER ROLE grafana SET search_path = history;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
GRANT CONNECT ON DATABASE cdds TO history_dashboards;

-- The sample source: who owns it fills it, exporter reads it.
ALTER ROLE sources LOGIN PASSWORD :'sources';
ALTER ROLE exporter_source LOGIN PASSWORD :'reader';
ALTER ROLE exporter_source SET default_transaction_read_only = on;
ALTER DATABASE cdds_sources OWNER TO sources;
REVOKE ALL ON DATABASE cdds_sources FROM PUBLIC;
GRANT CONNECT ON DATABASE cdds_sources TO exporter_source;
\connect cdds_sources
ALTER DEFAULT PRIVILEGES FOR ROLE sources GRANT USAGE ON SCHEMAS TO exporter_source;
ALTER DEFAULT PRIVILEGES FOR ROLE sources GRANT SELECT ON TABLES TO exporter_source;
SQL

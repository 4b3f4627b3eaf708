-- The roles of CDDS, each with as little as it needs. For psql, as an administrator, once for every database:
--
--   psql -d cdds -f deploy/postgres/roles.sql
--   psql -d cdds_history -v services=history -f deploy/postgres/roles.sql     # where each service has its own
--
-- It may be repeated, also on an installation whose services owned their tables themselves: these are handed over. No
-- role gets a password here; give them theirs with \password, or let them log in with certificates.
--
--   <service>_owner   logs in for `cdds migrate`; owns the schema and all in it
--   <service>_login   logs in for the running service (MIGRATE=false); may become the next two, and nothing else
--   <service>_worker  what loops and consumers are: all tenants' rows
--   <service>_tenant  what HTTP edges are: the rows of one tenant
--   dashboards_login  logs in for Grafana; may read history's views, through history_dashboards
\set ON_ERROR_STOP on
\if :{?services}
\else
  \set services 'job_api scheduler exporter history'
\endif

BEGIN;
CREATE TEMPORARY TABLE wanted ON COMMIT DROP AS
SELECT service FROM regexp_split_to_table(trim(:'services'), '[ ,]+') AS service;
SELECT count(*) FILTER (WHERE service NOT IN ('job_api', 'scheduler', 'exporter', 'history')) > 0 AS unknown FROM wanted
\gset
\if :unknown
  \warn 'services: write some of job_api scheduler exporter history'
  ROLLBACK;
  -- psql ends with 3 for this, as for any statement that fails.
  SELECT 'services' / 0;
\endif

-- Logins may not use what their roles may unless they become them: a slip of theirs reads and writes nothing.
SELECT format('CREATE ROLE %I %s', role, kind)
FROM wanted, LATERAL (VALUES (service || '_worker', 'NOLOGIN'), (service || '_tenant', 'NOLOGIN'),
                             (service || '_owner', 'LOGIN'), (service || '_login', 'LOGIN NOINHERIT')) AS roles (role, kind)
WHERE to_regrole(role) IS NULL
\gexec
SELECT format('CREATE ROLE %I %s', role, kind)
FROM (VALUES ('history_dashboards', 'NOLOGIN'), ('dashboards_login', 'LOGIN')) AS roles (role, kind)
WHERE EXISTS (SELECT FROM wanted WHERE service = 'history') AND to_regrole(role) IS NULL
\gexec
SELECT format('GRANT %1$I_worker, %1$I_tenant TO %1$I_owner, %1$I_login', service) FROM wanted
\gexec
SELECT 'GRANT history_dashboards TO dashboards_login' FROM wanted WHERE service = 'history'
\gexec
-- Who is no superuser has to be an owner to hand something over to it.
SELECT format('GRANT %I_owner TO CURRENT_USER', service) FROM wanted
WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
\gexec

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database())
\gexec
-- A rebuild of history makes a schema beside the living one.
SELECT format('GRANT CONNECT, CREATE ON DATABASE %I TO %I_owner', current_database(), service) FROM wanted
\gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I_login', current_database(), service) FROM wanted
\gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO dashboards_login', current_database()) FROM wanted WHERE service = 'history'
\gexec

SELECT format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I', service, service || '_owner') FROM wanted
\gexec
-- What an installation has whose services logged in as somebody else.
SELECT format('ALTER SCHEMA %I OWNER TO %I', nspname, service || '_owner')
FROM wanted JOIN pg_namespace ON nspname = service WHERE pg_get_userbyid(nspowner) <> service || '_owner'
\gexec
SELECT format('ALTER %s %I.%I OWNER TO %I',
              CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
              service, relname, service || '_owner')
FROM wanted JOIN pg_class ON relnamespace = to_regnamespace(service)
WHERE relkind IN ('r', 'p', 'v', 'S') AND pg_get_userbyid(relowner) <> service || '_owner'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'i')  -- of a column, goes with its table
\gexec
SELECT format('ALTER ROUTINE %s OWNER TO %I', pg_proc.oid::regprocedure, service || '_owner')
FROM wanted JOIN pg_proc ON pronamespace = to_regnamespace(service)
WHERE pg_get_userbyid(proowner) <> service || '_owner'
\gexec
COMMIT;

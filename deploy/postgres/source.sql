-- A role that may read what the file of sources names, and nothing else. For psql, as the owner of these tables:
--
--   psql -d contact_centre -v reader=cdds_reader -v tables='ucs.interactions,ucs.contacts' -f deploy/postgres/source.sql
--
-- It may be repeated; name all tables each time, attachments' and those of queries, too. The role gets no password here.
-- It can't make anything, its transactions only read, and the exporter's own settings win over nothing of this.
\set ON_ERROR_STOP on
\if :{?reader}
\else
  \set reader cdds_reader
\endif

BEGIN;
SELECT format('CREATE ROLE %I LOGIN', :'reader') WHERE to_regrole(quote_ident(:'reader')) IS NULL
\gexec
ALTER ROLE :"reader" SET default_transaction_read_only = on;
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'reader')
\gexec
SELECT DISTINCT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, :'reader')
FROM regexp_split_to_table(trim(:'tables'), '\s*,\s*') AS name
JOIN pg_class ON pg_class.oid = name::regclass JOIN pg_namespace ON pg_namespace.oid = relnamespace
\gexec
SELECT format('GRANT SELECT ON %s TO %I', name::regclass, :'reader')
FROM regexp_split_to_table(trim(:'tables'), '\s*,\s*') AS name
\gexec
COMMIT;

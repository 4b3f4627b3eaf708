-- What takes the owner of the tables, for a login that is not: these functions make and drop months, and rebuilds can be
-- asked for by who works here. The schema is named by the caller, since a rebuild renames it.
CREATE FUNCTION make_month(schema text, parent text, month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF schema NOT IN ('history', 'history_shadow')
     OR parent NOT IN ('executions', 'artifacts', 'slots_not_run', 'events', 'statistics')
     OR month <> date_trunc('month', month) THEN
    RAISE 'no % is made of %.%', month, schema, parent;
  END IF;
  EXECUTE format('CREATE TABLE %I.%I PARTITION OF %I.%I FOR VALUES FROM (%L) TO (%L)',
                 schema, parent || to_char(month, '_YYYY_MM'), schema, parent,
                 to_char(month, 'YYYY-MM-DD"T00:00:00+00:00"'),
                 to_char(month + interval '1 month', 'YYYY-MM-DD"T00:00:00+00:00"'));
END $$;

-- Only what is over: whoever works here may not make history forget the present.
CREATE FUNCTION drop_month(schema text, parent text, month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF schema NOT IN ('history', 'history_shadow')
     OR parent NOT IN ('executions', 'artifacts', 'slots_not_run', 'events', 'statistics')
     OR month <> date_trunc('month', month) OR month + interval '1 month' > now() AT TIME ZONE 'UTC' THEN
    RAISE 'no % is dropped of %.%', month, schema, parent;
  END IF;
  EXECUTE format('DROP TABLE %I.%I', schema, parent || to_char(month, '_YYYY_MM'));
END $$;

REVOKE EXECUTE ON FUNCTION make_month, drop_month FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_month, drop_month TO history_worker;

-- requests.ask, requests.withdraw
GRANT INSERT, DELETE ON rebuilds TO history_worker;

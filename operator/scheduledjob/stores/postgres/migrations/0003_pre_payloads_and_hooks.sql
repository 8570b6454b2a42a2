-- The revision of the desired state that last set a row's payload. A run may leave another payload for the next run, in
-- the same column, but only if no client has set one since the run received its own.
--
-- Replicas and clients of version 2 read the same payload. What they write does not raise payload_revision, so while
-- they live, a run may overwrite a payload that one of them has set meanwhile, as in version 2.

ALTER TABLE scheduledjob.schedule ADD COLUMN payload_revision bigint NOT NULL DEFAULT 0;

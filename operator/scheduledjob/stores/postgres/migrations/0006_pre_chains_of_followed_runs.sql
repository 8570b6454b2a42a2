-- Chains of followed runs: the names of the jobs whose runs led to a run, one after the other. Replicas that do not know
-- the column leave it empty.

ALTER TABLE scheduledjob.history ADD COLUMN chain text NOT NULL DEFAULT '';

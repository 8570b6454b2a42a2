-- Expired history: an index by which pruning finds the records that have expired.
-- For queries with `installation - 0` only: the planner cannot use it for any other (see queries/history.sql).
CREATE INDEX history_expires ON scheduledjob.history ((installation - 0), expires);

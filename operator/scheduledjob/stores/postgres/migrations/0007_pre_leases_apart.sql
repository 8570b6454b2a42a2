-- Leases apart: of the indexes by time, a row is in those of its state only, so that a claim writes one entry in place of
-- two. A row that nobody owns is in schedule_due and schedule_tenant_due, one that a replica owns in schedule_lease.

CREATE INDEX schedule_due ON scheduledjob.schedule (installation, kind, wake_at)
    WHERE owner IS NULL AND wake_at IS NOT NULL;

-- For queries with `installation + 0` only, like history_finished.
CREATE INDEX schedule_tenant_due ON scheduledjob.schedule (
    (installation + 0), (CASE WHEN origin = 'library' THEN tenant ELSE split_part(slug, '/', 1) END), kind, wake_at
) WHERE owner IS NULL AND wake_at IS NOT NULL;

CREATE INDEX schedule_lease ON scheduledjob.schedule (installation, kind, wake_at)
    WHERE owner IS NOT NULL AND wake_at IS NOT NULL;

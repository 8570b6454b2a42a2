-- Tenants: an index by which a claim finds the due rows of each tenant.
-- Older replicas write rows without a tenant, which is that of the library's schedules. All other rows belong to the
-- namespace in their slug. So no row has to be written for this.

ALTER TABLE scheduledjob.schedule ADD COLUMN tenant text COLLATE "C" NOT NULL DEFAULT '';

-- For queries with `installation + 0` only, like history_finished.
CREATE INDEX schedule_tenant ON scheduledjob.schedule (
    (installation + 0), (CASE WHEN origin = 'library' THEN tenant ELSE split_part(slug, '/', 1) END), kind, wake_at
) WHERE wake_at IS NOT NULL;

-- Replicas, the clusters that they work for, and locks.
--
-- These tables are small (a row for each replica or lock), so any plan will do.

-- name: take_lock
-- Returns nothing if another replica has the lock.
INSERT INTO scheduledjob.lock AS l (installation, name, owner, until_at)
VALUES ($1, $2, $3, scheduledjob.clock() + $4::bigint)
ON CONFLICT (installation, name) DO UPDATE
SET owner = excluded.owner, until_at = excluded.until_at
WHERE l.owner = excluded.owner OR l.until_at <= scheduledjob.clock()
RETURNING true;

-- name: release_lock
DELETE FROM scheduledjob.lock WHERE installation = $1 AND name = $2 AND owner = $3;

-- name: upsert_presence
-- A replica that was silent for longer than its lifetime gets a new `since`.
INSERT INTO scheduledjob.presence AS p (installation, replica, cluster, namespaces, since, until_at)
VALUES ($1, $2, $3, $4, scheduledjob.clock(), scheduledjob.clock() + $5::bigint)
ON CONFLICT (installation, replica) DO UPDATE
SET cluster = excluded.cluster, namespaces = excluded.namespaces, until_at = excluded.until_at,
    since = CASE WHEN p.until_at > excluded.since THEN p.since ELSE excluded.since END;

-- name: select_others
SELECT i.name, p.replica, p.namespaces, p.since
FROM scheduledjob.presence AS p JOIN scheduledjob.installation AS i ON i.id = p.installation
WHERE p.cluster = $2 AND (p.installation <> $1 OR p.replica <> $3) AND p.until_at > scheduledjob.clock()
ORDER BY p.since, i.name, p.replica;

-- name: delete_expired_presences
-- Of all installations. SKIP LOCKED, so that two processes that do this at the same time do not wait for each other.
DELETE FROM scheduledjob.presence AS p
USING (
    SELECT installation, replica FROM scheduledjob.presence
    WHERE until_at <= scheduledjob.clock() FOR UPDATE SKIP LOCKED
) AS expired
WHERE p.installation = expired.installation AND p.replica = expired.replica;

-- name: upsert_replica
-- Waits for clients that have read the previous announcement (`latest_poll` in schedules.sql).
INSERT INTO scheduledjob.replica (installation, id, program_version, schema_version, looks_at, seen_at, details)
VALUES ($1, $2, $3, $4, $5, scheduledjob.clock(), $6::text::jsonb)
ON CONFLICT (id) DO UPDATE
SET installation = excluded.installation, program_version = excluded.program_version,
    schema_version = excluded.schema_version, seen_at = excluded.seen_at,
    -- An announcement that was delayed is older than the stored one.
    looks_at = greatest(replica.looks_at, excluded.looks_at),
    details = excluded.details;

-- name: delete_replica
-- The other replicas may have polled before this one released its rows, and these may be due before they poll again. So
-- they are notified, and poll now.
-- SKIP LOCKED, because a client may stand still that has locked the row. It is deleted later, as a dead replica's.
WITH deleted AS (
    DELETE FROM scheduledjob.replica AS r
    USING (
        SELECT id FROM scheduledjob.replica WHERE installation = $1 AND id = $2 FOR UPDATE SKIP LOCKED
    ) AS free
    WHERE r.id = free.id
), unlocked AS (
    DELETE FROM scheduledjob.lock WHERE installation = $1 AND owner = $2
), absent AS (
    DELETE FROM scheduledjob.presence WHERE installation = $1 AND replica = $2
)
SELECT pg_notify(
    'scheduledjob_' || $1::integer,
    json_build_object('due', scheduledjob.clock(), 'from', $2::text)::text
)
WHERE EXISTS (SELECT 1 FROM scheduledjob.replica AS r WHERE r.installation = $1 AND r.id <> $2);

-- name: delete_dead_replicas
-- Those that stopped without withdrawing, at least a day ago.
DELETE FROM scheduledjob.replica AS r
USING (
    SELECT id FROM scheduledjob.replica
    WHERE installation = $1 AND greatest(looks_at, seen_at) < scheduledjob.clock() - 86400000000
    FOR UPDATE SKIP LOCKED
) AS dead
WHERE r.id = dead.id;

-- name: notify
SELECT pg_notify($1, $2);

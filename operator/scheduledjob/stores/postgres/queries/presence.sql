-- What replicas hold for a while: locks, and the word that they live.

-- name: lock
INSERT INTO scheduledjob.lock AS l (installation, name, owner, until_at)
VALUES ($1, $2, $3, scheduledjob.clock() + $4::bigint)
ON CONFLICT (installation, name) DO UPDATE
SET owner = excluded.owner, until_at = excluded.until_at
WHERE l.owner = excluded.owner OR l.until_at <= scheduledjob.clock()
RETURNING true;

-- name: unlock
DELETE FROM scheduledjob.lock WHERE installation = $1 AND name = $2 AND owner = $3;

-- name: present
INSERT INTO scheduledjob.presence AS p (installation, replica, cluster, namespaces, since, until_at)
VALUES ($1, $2, $3, $4, scheduledjob.clock(), scheduledjob.clock() + $5::bigint)
ON CONFLICT (installation, replica) DO UPDATE
SET cluster = excluded.cluster, namespaces = excluded.namespaces, until_at = excluded.until_at,
    since = CASE WHEN p.until_at > excluded.since THEN p.since ELSE excluded.since END;

-- name: others
SELECT i.name, p.replica, p.namespaces, p.since
FROM scheduledjob.presence AS p JOIN scheduledjob.installation AS i ON i.id = p.installation
WHERE p.cluster = $2 AND (p.installation <> $1 OR p.replica <> $3) AND p.until_at > scheduledjob.clock()
ORDER BY p.since, i.name, p.replica;

-- name: forget_presences
-- Those that are over, of all installations. SKIP LOCKED, because two who do this may meet.
DELETE FROM scheduledjob.presence AS p
USING (
    SELECT installation, replica FROM scheduledjob.presence
    WHERE until_at <= scheduledjob.clock() FOR UPDATE SKIP LOCKED
) AS over
WHERE p.installation = over.installation AND p.replica = over.replica;

-- name: announce
INSERT INTO scheduledjob.replica (installation, id, program_version, schema_version, looks_at, seen_at, details)
VALUES ($1, $2, $3, $4, $5, scheduledjob.clock(), $6::text::jsonb)
ON CONFLICT (id) DO UPDATE
SET installation = excluded.installation, program_version = excluded.program_version,
    schema_version = excluded.schema_version, seen_at = excluded.seen_at,
    -- An announcement that was delayed is older than the stored one.
    looks_at = greatest(replica.looks_at, excluded.looks_at),
    details = excluded.details;

-- name: withdraw
-- Rows that it handed back were its own when the others last polled, and may be due before they poll again: they poll now.
WITH gone AS (
    DELETE FROM scheduledjob.replica WHERE installation = $1 AND id = $2
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

-- name: forget_replicas
-- Replicas that ended without withdrawing, a day ago.
DELETE FROM scheduledjob.replica
WHERE installation = $1 AND greatest(looks_at, seen_at) < scheduledjob.clock() - 86400000000;

-- name: notify
SELECT pg_notify($1, $2);

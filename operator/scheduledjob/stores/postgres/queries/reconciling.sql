-- How replicas write what they observe in a cluster.
--
-- Only one transaction at a time may create or delete an object's row of a slug: each first takes a transaction lock on
-- the slug. So no tombstone can be written between another transaction's read of the tombstones and its write. Row
-- locks keep out all other writers. For LATERAL and OFFSET 0 see schedules.sql, for `installation - $1 = 0` see
-- claims.sql.

-- name: find_differing
-- The positions (from 1) of the observed objects that differ from their rows. Takes no lock, because a restarted
-- operator asks this for every object.
SELECT given.place
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[])
    WITH ORDINALITY AS given (slug, uid, generation, kind, definition, acts, place)
LEFT JOIN LATERAL (
    SELECT s.uid, s.generation, s.kind, s.definition, s.acts, s.origin FROM scheduledjob.schedule AS s
    WHERE s.installation = $1 AND s.slug = given.slug OFFSET 0
) AS s ON true
WHERE (s.uid, s.generation, s.kind, s.definition, s.acts, s.origin)
    IS DISTINCT FROM (given.uid, given.generation, given.kind, given.definition, given.acts, 'cluster');

-- name: lock_slugs
-- $2 the numbers of the locks, sorted, so that two transactions that need the same locks cannot deadlock.
SELECT pg_advisory_xact_lock(hashtextextended('scheduledjob.slugs', $1) # part) FROM unnest($2::bigint[]) AS part;

-- name: select_locked_slugs
-- Locks the rows of these slugs, except those that a client has locked, and returns the slugs of these. FOR UPDATE,
-- because some of the rows are deleted.
WITH free AS MATERIALIZED (
    SELECT s.id
    FROM unnest($2::text[]) AS wanted(slug), LATERAL (
        SELECT id FROM scheduledjob.schedule
        WHERE installation = $1 AND slug = wanted.slug OFFSET 0 FOR UPDATE SKIP LOCKED
    ) AS s
)
SELECT s.slug
FROM unnest($2::text[]) AS wanted(slug), LATERAL (
    SELECT id, slug FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted.slug OFFSET 0
) AS s
WHERE s.id NOT IN (SELECT id FROM free);

-- name: lock_existing_rows
-- NO KEY UPDATE, because nothing refers to the key.
SELECT {row_columns}
FROM unnest($2::text[]) AS wanted(wanted_slug), LATERAL (
    SELECT * FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted_slug OFFSET 0 FOR NO KEY UPDATE
) AS s;

-- name: select_tombstoned
SELECT t.uid
FROM unnest($2::text[]) AS wanted(wanted_uid), LATERAL (
    SELECT uid FROM scheduledjob.tombstone
    WHERE uid = wanted_uid AND installation - $1 = 0 AND expires > scheduledjob.clock() OFFSET 0
) AS t;

-- name: insert_observed_rows
INSERT INTO scheduledjob.schedule (
    installation, {new_row_columns}, generation, acts, edited_at
)
SELECT $1, given.*, scheduledjob.clock()
FROM unnest(
    {new_row_arrays}, $14::bigint[], $15::text[]
) AS given;

-- name: update_observed_rows
UPDATE scheduledjob.schedule AS s
SET kind = given.kind, definition = given.definition, first = given.first, acts = given.acts,
    -- Within a generation, the job may have changed the payload.
    payload = CASE WHEN s.generation = given.generation THEN s.payload ELSE given.payload END,
    payload_revision = CASE WHEN s.generation = given.generation THEN s.payload_revision ELSE s.revision + 1 END,
    generation = given.generation, edited_at = scheduledjob.clock(), revision = s.revision + 1,
    -- least() ignores NULL.
    wake_at = CASE WHEN s.owner IS NULL THEN least(s.wake_at, scheduledjob.clock()) ELSE s.wake_at END
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], $8::bigint[])
    AS given (id, kind, definition, first, acts, payload, generation)
WHERE s.id = ANY(ARRAY[given.id]) AND s.installation - $1 = 0
RETURNING s.slug, s.owner IS NOT NULL AS owned, s.wake_at;

-- name: delete_rows_of_uids
-- A slug that belongs to another uid stays.
WITH found AS MATERIALIZED (
    SELECT s.id
    FROM unnest($2::text[], $3::text[]) AS wanted(slug, uid), LATERAL (
        SELECT id, uid FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted.slug OFFSET 0
    ) AS s
    WHERE s.uid = wanted.uid
)
{delete_found_rows};

-- name: upsert_tombstones
INSERT INTO scheduledjob.tombstone AS t (installation, uid, expires)
SELECT $1, given.uid, scheduledjob.clock() + given.kept
FROM unnest($2::text[], $3::bigint[]) AS given (uid, kept)
ON CONFLICT (uid, installation) DO UPDATE SET expires = greatest(t.expires, excluded.expires);

-- name: delete_tombstones
DELETE FROM scheduledjob.tombstone AS t
USING unnest($2::text[]) AS given (uid)
WHERE t.uid = ANY(ARRAY[given.uid]) AND t.installation - $1 = 0;

-- fragment: touch_found_rows
UPDATE scheduledjob.schedule AS s
SET revision = s.revision + 1,
    -- least() ignores NULL.
    wake_at = CASE WHEN s.owner IS NULL THEN least(s.wake_at, scheduledjob.clock()) ELSE s.wake_at END
FROM found
WHERE s.id = ANY(ARRAY[found.id])
RETURNING s.slug, s.owner IS NOT NULL AS owned, s.wake_at

-- name: touch_rows
-- Leaves out the rows that a client has locked.
WITH found AS MATERIALIZED (
    SELECT s.id
    FROM unnest($2::text[]) AS wanted(slug), LATERAL (
        SELECT id FROM scheduledjob.schedule
        WHERE installation = $1 AND slug = wanted.slug OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED
    ) AS s
)
{touch_found_rows};

-- name: touch_rows_waiting
WITH found AS MATERIALIZED (
    {ids_of_slugs}
)
{touch_found_rows};

-- name: delete_expired_tombstones
-- $1 installation, $2 how many at most.
-- `installation + 0` matches the index on that expression, and no other. The DELETE compares `expires` again, because
-- another transaction may have extended a tombstone meanwhile.
WITH expired AS MATERIALIZED (
    SELECT uid FROM scheduledjob.tombstone
    WHERE installation + 0 = $1 AND expires <= (SELECT scheduledjob.clock())
    ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED
)
DELETE FROM scheduledjob.tombstone AS t
USING expired
WHERE t.uid = ANY(ARRAY[expired.uid]) AND t.installation - $1 = 0 AND t.expires <= (SELECT scheduledjob.clock());

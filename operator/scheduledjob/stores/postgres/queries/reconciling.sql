-- What is asked about objects of a cluster.
--
-- Only one transaction at a time may create or end an object's row of a slug: each first takes a transaction lock on the
-- slug. So no tombstone can be written between another transaction's read of the tombstones and its write.
-- Everybody else is kept out by locks of rows.

-- name: differing
-- Places (from 1) of the sightings that are not what is there already. Nothing is locked: this is what a restart
-- asks for each object.
SELECT given.place
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[])
    WITH ORDINALITY AS given (slug, uid, generation, kind, definition, acts, place)
LEFT JOIN LATERAL (
    SELECT s.uid, s.generation, s.kind, s.definition, s.acts, s.origin FROM scheduledjob.schedule AS s
    WHERE s.installation = $1 AND s.slug = given.slug OFFSET 0
) AS s ON true
WHERE (s.uid, s.generation, s.kind, s.definition, s.acts, s.origin)
    IS DISTINCT FROM (given.uid, given.generation, given.kind, given.definition, given.acts, 'cluster');

-- name: hold
-- The parts of the installation's slugs that are given, in their order.
SELECT pg_advisory_xact_lock(hashtextextended('scheduledjob.slugs', $1) # part) FROM unnest($2::bigint[]) AS part;

-- name: standing
SELECT id, slug, uid, kind, origin, definition, revision, edited_at, first, payload, result, created_at, version,
    wake_at, state, false, owner, generation, acts
FROM unnest($2::text[]) AS wanted(wanted_slug), LATERAL (
    SELECT * FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted_slug OFFSET 0 FOR NO KEY UPDATE
) AS s;

-- name: tombstoned
SELECT t.uid
FROM unnest($2::text[]) AS wanted(wanted_uid), LATERAL (
    SELECT uid FROM scheduledjob.tombstone
    WHERE uid = wanted_uid AND installation - $1 = 0 AND expires > scheduledjob.clock() OFFSET 0
) AS t;

-- name: create_seen
INSERT INTO scheduledjob.schedule (
    installation, slug, uid, kind, origin, definition, state, wake_at, first, payload, created_at, generation, acts,
    edited_at
)
SELECT $1, given.*, scheduledjob.clock()
FROM unnest(
    $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bigint[], $9::bigint[],
    $10::bytea[], $11::bigint[], $12::bigint[], $13::text[]
) AS given;

-- name: edit_seen
UPDATE scheduledjob.schedule AS s
SET kind = given.kind, definition = given.definition, first = given.first, acts = given.acts,
    payload = CASE WHEN s.generation = given.generation THEN s.payload ELSE given.payload END,
    generation = given.generation, edited_at = scheduledjob.clock(), revision = s.revision + 1,
    -- least() passes over NULL
    wake_at = CASE WHEN s.owner IS NULL THEN least(s.wake_at, scheduledjob.clock()) ELSE s.wake_at END
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], $8::bigint[])
    AS given (id, kind, definition, first, acts, payload, generation)
WHERE s.id = ANY(ARRAY[given.id]) AND s.installation - $1 = 0
RETURNING s.slug, s.owner IS NOT NULL AS owned, s.wake_at;

-- name: end
WITH found AS MATERIALIZED (
    SELECT s.id
    FROM unnest($2::text[], $3::text[]) AS wanted(slug, uid), LATERAL (
        SELECT id, uid FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted.slug OFFSET 0
    ) AS s
    WHERE s.uid = wanted.uid
)
DELETE FROM scheduledjob.schedule AS s
USING found
WHERE s.id = ANY(ARRAY[found.id])
RETURNING s.slug, s.uid, s.definition, s.state, s.owner IS NOT NULL AS owned, scheduledjob.clock() AS now;

-- name: tombstone
INSERT INTO scheduledjob.tombstone AS t (installation, uid, expires)
SELECT $1, given.uid, scheduledjob.clock() + given.kept
FROM unnest($2::text[], $3::bigint[]) AS given (uid, kept)
ON CONFLICT (uid, installation) DO UPDATE SET expires = greatest(t.expires, excluded.expires);

-- name: touch
WITH found AS MATERIALIZED (
    SELECT s.id
    FROM unnest($2::text[]) AS wanted(slug), LATERAL (
        SELECT id FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted.slug OFFSET 0
    ) AS s
)
UPDATE scheduledjob.schedule AS s
SET revision = s.revision + 1,
    wake_at = CASE WHEN s.owner IS NULL THEN least(s.wake_at, scheduledjob.clock()) ELSE s.wake_at END
FROM found
WHERE s.id = ANY(ARRAY[found.id])
RETURNING s.slug, s.owner IS NOT NULL AS owned, s.wake_at;

-- name: forget_tombstones
-- $1 installation, $2 how many at most. A tombstone that is renewed meanwhile stays.
WITH passed AS MATERIALIZED (
    SELECT uid FROM scheduledjob.tombstone
    WHERE installation + 0 = $1 AND expires <= (SELECT scheduledjob.clock())
    ORDER BY expires LIMIT $2
)
DELETE FROM scheduledjob.tombstone AS t
USING passed
WHERE t.uid = ANY(ARRAY[passed.uid]) AND t.installation - $1 = 0 AND t.expires <= (SELECT scheduledjob.clock());

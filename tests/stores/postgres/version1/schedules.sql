-- What clients ask about schedules.
--
-- A row is looked up for each slug that is given, inside LATERAL, so that no plan of an empty table turns it round.

-- name: register_installation
WITH made AS (
    INSERT INTO scheduledjob.installation (name)
    SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM scheduledjob.installation WHERE name = $1)
    ON CONFLICT DO NOTHING RETURNING id
)
SELECT id FROM made UNION ALL SELECT id FROM scheduledjob.installation WHERE name = $1 LIMIT 1;

-- name: insert_rows
-- Fails as a whole where a slug is taken.
INSERT INTO scheduledjob.schedule (
    installation, slug, uid, kind, origin, definition, state, wake_at, first, payload, created_at, edited_at
)
SELECT $1, given.*, scheduledjob.clock()
FROM unnest(
    $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bigint[], $9::bigint[],
    $10::bytea[], $11::bigint[]
) AS given;

-- name: insert_rows_and_notify
-- The same and `tell_due` in one statement: what a lone wish waits for.
WITH made AS (
    INSERT INTO scheduledjob.schedule (
        installation, slug, uid, kind, origin, definition, state, wake_at, first, payload, created_at, edited_at
    )
    SELECT $1, given.*, scheduledjob.clock()
    FROM unnest(
        $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bigint[], $9::bigint[],
        $10::bytea[], $11::bigint[]
    ) AS given
    RETURNING wake_at
), soonest AS (
    SELECT min(wake_at) AS due FROM made
)
SELECT pg_notify('scheduledjob_' || $1::integer, json_build_object('due', due)::text)
FROM soonest
WHERE due < (
    SELECT max(looks_at) FROM (
        SELECT r.looks_at FROM scheduledjob.replica AS r WHERE r.installation = $1 FOR SHARE
    ) AS promised
);

-- name: notify_due
-- Only where a replica has promised no earlier look. The lock makes one that is announcing a later look wait for this
-- transaction, so that the look it takes after that finds what this transaction wrote.
SELECT pg_notify('scheduledjob_' || $1::integer, json_build_object('due', $2::bigint)::text)
WHERE $2::bigint < (
    SELECT max(looks_at) FROM (
        SELECT r.looks_at FROM scheduledjob.replica AS r WHERE r.installation = $1 FOR SHARE
    ) AS promised
);

-- name: upsert_rows
-- Rows that are not returned are as they were asked to be.
INSERT INTO scheduledjob.schedule AS s (
    installation, slug, uid, kind, origin, definition, state, wake_at, first, payload, created_at, edited_at
)
SELECT $1, given.*, scheduledjob.clock()
FROM unnest(
    $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bigint[], $9::bigint[],
    $10::bytea[], $11::bigint[]
) AS given
ON CONFLICT (installation, slug) DO UPDATE
SET kind = excluded.kind, origin = excluded.origin, definition = excluded.definition, payload = excluded.payload,
    first = excluded.first, edited_at = excluded.edited_at, revision = s.revision + 1,
    -- least() passes over NULL
    wake_at = CASE WHEN s.owner IS NULL THEN least(s.wake_at, excluded.edited_at) ELSE s.wake_at END
WHERE (s.kind, s.definition) <> (excluded.kind, excluded.definition)
   OR s.payload IS DISTINCT FROM excluded.payload
   OR excluded.first IS NOT NULL
RETURNING s.slug, s.revision = 1 AS created, s.owner IS NOT NULL AS owned, s.wake_at;

-- name: select_rows
SELECT id, slug, uid, kind, origin, definition, revision, edited_at, first, payload, result, created_at, version,
    wake_at, state, false, owner
FROM unnest($2::text[]) AS wanted(wanted_slug), LATERAL (
    SELECT * FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted_slug OFFSET 0
) AS s;

-- name: select_page
SELECT id, slug, uid, kind, origin, definition, revision, edited_at, first, payload, result, created_at, version,
    wake_at, state, false, owner
FROM scheduledjob.schedule
WHERE installation = $1 AND slug > $2 AND ($3::text IS NULL OR origin = $3)
ORDER BY slug LIMIT $4;

-- name: delete_rows
WITH found AS MATERIALIZED (
    SELECT s.id
    FROM unnest($2::text[]) AS wanted(slug), LATERAL (
        SELECT id FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted.slug OFFSET 0
    ) AS s
)
DELETE FROM scheduledjob.schedule AS s
USING found
WHERE s.id = ANY(ARRAY[found.id])
RETURNING s.slug, s.uid, s.definition, s.state, s.owner IS NOT NULL AS owned, scheduledjob.clock() AS now;

-- name: select_slugs
SELECT slug FROM scheduledjob.schedule
WHERE installation = $1 AND slug > $2 AND ($3::text IS NULL OR origin = $3)
ORDER BY slug LIMIT $4;

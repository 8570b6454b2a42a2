-- How clients write, delete and read schedules.
--
-- Plans are cached while the table is empty (see connections.py). So each given slug is looked up inside LATERAL, and
-- `OFFSET 0` keeps the planner from merging that subquery into a join that it could turn around into a scan of the
-- table.

-- fragment: row_columns
-- In the order of the fields of `Row`; `false` is its `recovered`, `acts` its `requests`.
id, slug, uid, kind, origin, definition, revision, edited_at, first, payload, result, created_at, version,
wake_at, state, false, owner, generation, acts, tenant, payload_revision

-- fragment: new_row_columns
slug, uid, kind, origin, definition, state, wake_at, first, payload, created_at, tenant, payload_revision

-- fragment: new_row_arrays
$2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bigint[], $9::bigint[],
$10::bytea[], $11::bigint[], $12::text[], $13::bigint[]

-- fragment: insert_new_rows
INSERT INTO scheduledjob.schedule AS s (
    installation, {new_row_columns}, edited_at
)
SELECT $1, given.*, scheduledjob.clock()
FROM unnest(
    {new_row_arrays}
) AS given

-- fragment: latest_poll
-- When the last of the replicas polls. The lock makes a replica that announces a later poll wait for this transaction,
-- so that the poll which follows its announcement finds what this transaction wrote. It never waits itself: if somebody
-- has locked a row, the result is later than any instant, so that the replica is notified in any case.
(
    SELECT CASE
        WHEN count(*) < (SELECT count(*) FROM scheduledjob.replica WHERE installation = $1) THEN 9223372036854775807
        ELSE max(looks_at)
    END
    FROM (
        SELECT r.looks_at FROM scheduledjob.replica AS r WHERE r.installation = $1 FOR SHARE SKIP LOCKED
    ) AS announced
)

-- fragment: ids_of_slugs
SELECT s.id
FROM unnest($2::text[]) AS wanted(slug), LATERAL (
    SELECT id FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted.slug OFFSET 0
) AS s

-- fragment: delete_found_rows
-- `id = ANY(ARRAY[...])`, so that each id is looked up (see claims.sql).
DELETE FROM scheduledjob.schedule AS s
USING found
WHERE s.id = ANY(ARRAY[found.id])
RETURNING s.slug, s.uid, s.definition, s.state, s.owner IS NOT NULL AS owned, scheduledjob.clock() AS now

-- name: register_installation
-- Returns nothing if another transaction is registering the same name. Without the NOT EXISTS, each call would use up
-- an id, conflict or not.
WITH made AS (
    INSERT INTO scheduledjob.installation (name)
    SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM scheduledjob.installation WHERE name = $1)
    ON CONFLICT DO NOTHING RETURNING id
)
SELECT id FROM made UNION ALL SELECT id FROM scheduledjob.installation WHERE name = $1 LIMIT 1;

-- name: insert_rows_and_notify
-- Fails as a whole if a slug is taken. One statement with `notify_due`, so that scheduling takes one round trip.
WITH made AS (
    {insert_new_rows}
    RETURNING wake_at
), soonest AS (
    SELECT min(wake_at) AS due FROM made
)
SELECT pg_notify('scheduledjob_' || $1::integer, json_build_object('due', due)::text)
FROM soonest
WHERE due < {latest_poll};

-- name: notify_due
-- Notifies no replica if every replica polls before the row is due.
SELECT pg_notify('scheduledjob_' || $1::integer, json_build_object('due', $2::bigint)::text)
WHERE $2::bigint < {latest_poll};

-- fragment: differs
(
    (s.kind, s.definition, s.tenant) <> (excluded.kind, excluded.definition, excluded.tenant)
    OR (excluded.payload_revision > 0 AND s.payload IS DISTINCT FROM excluded.payload)
    OR excluded.first IS NOT NULL
)

-- name: upsert_rows
-- Does not return rows that are unchanged. A given payload_revision of 0 means that an existing row keeps its payload.
-- An owned library schedule gets a new revision even if it does not differ (see `Store.put`).
{insert_new_rows}
ON CONFLICT (installation, slug) DO UPDATE
SET kind = excluded.kind, origin = excluded.origin, definition = excluded.definition,
    payload = CASE WHEN excluded.payload_revision = 0 THEN s.payload ELSE excluded.payload END,
    payload_revision = CASE WHEN excluded.payload_revision = 0 THEN s.payload_revision ELSE s.revision + 1 END,
    first = CASE WHEN {differs} THEN excluded.first ELSE s.first END,
    edited_at = CASE WHEN {differs} THEN excluded.edited_at ELSE s.edited_at END,
    tenant = excluded.tenant, generation = 0, acts = '', revision = s.revision + 1,
    -- least() ignores NULL.
    wake_at = CASE WHEN s.owner IS NULL THEN least(s.wake_at, excluded.edited_at) ELSE s.wake_at END
WHERE {differs} OR (s.owner IS NOT NULL AND excluded.origin = 'library')
RETURNING s.slug, s.revision = 1 AS created, s.owner IS NOT NULL AS owned, s.wake_at;

-- name: select_rows
SELECT {row_columns}
FROM unnest($2::text[]) AS wanted(wanted_slug), LATERAL (
    SELECT * FROM scheduledjob.schedule WHERE installation = $1 AND slug = wanted_slug OFFSET 0
) AS s;

-- name: select_page
SELECT {row_columns}
FROM scheduledjob.schedule
WHERE installation = $1 AND slug > $2 AND ($3::text IS NULL OR origin = $3)
ORDER BY slug LIMIT $4;

-- name: select_slugs
SELECT slug FROM scheduledjob.schedule
WHERE installation = $1 AND slug > $2 AND ($3::text IS NULL OR origin = $3)
ORDER BY slug LIMIT $4;

-- name: delete_rows
WITH found AS MATERIALIZED (
    {ids_of_slugs}
)
{delete_found_rows};

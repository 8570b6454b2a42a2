-- Reading, writing and pruning the history of ended runs.
--
-- Plans are cached while the table is empty (see connections.py), when every index costs the same. So each query is
-- written to match exactly one index: by run `installation - $1 = 0`, by time `installation + 0 = $1`, by expiry
-- `installation - 0 = $1`.

-- fragment: record_columns
-- In the order of the fields of `RunRecord`.
run_id, uid, slug, slot, started, finished, attempt, outcome,
reason, code, replica, output, keep, expires, manual, chain

-- name: insert_records
INSERT INTO scheduledjob.history (installation, {record_columns})
SELECT $1, given.* FROM unnest(
    $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::integer[], $9::text[],
    $10::text[], $11::integer[], $12::text[], $13::bytea[], $14::integer[], $15::bigint[], $16::boolean[], $17::text[]
) AS given
ON CONFLICT DO NOTHING;

-- name: select_history
SELECT {record_columns}
FROM scheduledjob.history
WHERE installation + 0 = $1 AND finished < $2
ORDER BY finished DESC LIMIT $3;

-- name: select_history_of_slug
SELECT {record_columns}
FROM scheduledjob.history
WHERE installation = $1 AND finished < $2 AND slug = $4 AND ($5::text IS NULL OR uid = $5)
ORDER BY finished DESC LIMIT $3;

-- name: select_recorded
-- For LATERAL and OFFSET 0 see schedules.sql.
SELECT h.run_id
FROM unnest($2::text[]) AS wanted(run_id), LATERAL (
    SELECT run_id FROM scheduledjob.history WHERE run_id = wanted.run_id AND installation - $1 = 0 OFFSET 0
) AS h;

-- fragment: drop_free_surplus
-- Leaves out what a client has locked; a later call drops it.
free AS MATERIALIZED (
    SELECT h.run_id
    FROM surplus, LATERAL (
        SELECT run_id FROM scheduledjob.history
        WHERE run_id = surplus.run_id AND installation - $1 = 0 OFFSET 0 FOR UPDATE SKIP LOCKED
    ) AS h
), dropped AS (
    DELETE FROM scheduledjob.history AS h USING free
    WHERE h.run_id = ANY(ARRAY[free.run_id]) AND h.installation - $1 = 0
    RETURNING 1
)

-- name: prune_expired
-- $1 installation, $2 how many to drop at most.
WITH expired AS MATERIALIZED (
    SELECT run_id FROM scheduledjob.history
    WHERE installation - 0 = $1 AND expires <= (SELECT scheduledjob.clock())
    ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED
), dropped AS (
    DELETE FROM scheduledjob.history AS h USING expired
    WHERE h.run_id = ANY(ARRAY[expired.run_id]) AND h.installation - $1 = 0
    RETURNING 1
)
SELECT count(*) FROM dropped;

-- name: prune_slugs
-- $1 installation, $2 the slugs, $3 how many to drop at most: what newer records of these slugs push out.
-- For LATERAL and OFFSET 0 see schedules.sql.
WITH ranked AS (
    SELECT h.run_id, h.keep,
        row_number() OVER (PARTITION BY h.slug, h.outcome = 'Succeeded' ORDER BY h.finished DESC) AS place
    FROM unnest($2::text[]) AS wanted(slug), LATERAL (
        SELECT run_id, slug, outcome, keep, finished FROM scheduledjob.history
        WHERE installation = $1 AND slug = wanted.slug OFFSET 0
    ) AS h
), surplus AS MATERIALIZED (
    SELECT run_id FROM ranked WHERE place > keep LIMIT $3
), {drop_free_surplus}
SELECT count(*) FROM dropped;

-- name: prune_history
-- $1 installation, $2 the slug to start at, $3 how many records to examine, $4 how many to drop at most.
-- A slug's newest records come last in the index, so it is read backwards, in descending order of slug.
WITH seen AS MATERIALIZED (
    SELECT slug, finished, run_id, outcome, keep, expires
    FROM scheduledjob.history
    WHERE installation = $1 AND slug <= $2
    ORDER BY slug DESC, finished DESC LIMIT $3
), ranked AS (
    SELECT run_id, keep, expires,
        row_number() OVER (PARTITION BY slug, outcome = 'Succeeded' ORDER BY finished DESC) AS place
    FROM seen
), surplus AS MATERIALIZED (
    SELECT run_id FROM ranked WHERE place > keep OR expires <= scheduledjob.clock() LIMIT $4
), {drop_free_surplus}
SELECT
    (SELECT count(*) FROM dropped) AS dropped,
    (SELECT count(*) FROM seen) AS seen,
    (SELECT min(slug) FROM seen) AS last;

-- name: try_lock_pruning
SELECT pg_try_advisory_xact_lock(hashtextextended('scheduledjob.prune', $1));

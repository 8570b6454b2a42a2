-- What replicas ask.
--
-- Each plan is to be nested loops over the indexes, from what is given to the table, whatever the statistics say (see
-- connections.py). So a row is looked up by `id = ANY(ARRAY[given.id])`: unlike `id = given.id` that cannot be turned
-- round into a walk over the whole index. `installation - $1 = 0` is there for the same reason.

-- name: claim
-- $1 installation, $2 kinds, $3 replica, $4 limit, $5 ahead, $6 lease, $7 floor, $8 floor of what was left out.
-- Between finding a row and taking it, it stands where it stood (`ctid`): looking it up by its id would pass over every
-- dead version of it. One that a client edits in that moment is missed, and told of by that client.
-- {due} is `due_of_kind` for each of the kinds, in the order of `wake_at`: read from the index one by one as needed.
WITH picked AS MATERIALIZED (
    SELECT s.ctid AS place, s.id, s.wake_at, s.owner IS NOT NULL AS taken_over
    FROM ({due}) AS due
    JOIN scheduledjob.schedule AS s ON s.ctid = due.place
    WHERE s.wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
      AND (s.owner IS NULL OR s.wake_at <= (SELECT scheduledjob.clock()))
    ORDER BY due.wake_at
    LIMIT $4
    FOR NO KEY UPDATE OF s SKIP LOCKED
), claimed AS (
    UPDATE scheduledjob.schedule AS s
    SET owner = $3, version = s.version + 1, wake_at = (SELECT scheduledjob.clock()) + $6::bigint
    FROM picked
    WHERE s.ctid = picked.place
    RETURNING picked.wake_at AS was_due, s.id, s.slug, s.uid, s.kind, s.origin, s.definition, s.revision,
        s.edited_at, s.first, s.payload, s.result, s.created_at, s.version, s.wake_at, s.state,
        picked.taken_over, s.owner
), found AS (
    SELECT count(*) AS rows, max(wake_at) AS last_due FROM picked
), meta AS (
    SELECT scheduledjob.clock() AS now, found.last_due,
        CASE WHEN found.rows < $4 THEN (
            SELECT min(soonest.wake_at)
            FROM unnest($2::text[]) AS known(kind), LATERAL ((
                -- A lease cannot be claimed ahead of its end, so it counts as that much later.
                SELECT s.wake_at + CASE WHEN s.owner IS NULL THEN 0 ELSE $5::bigint END AS wake_at
                FROM scheduledjob.schedule AS s
                WHERE s.installation = $1 AND s.kind = known.kind AND s.wake_at > (SELECT scheduledjob.clock())
                  AND (s.owner IS NOT NULL OR s.wake_at > (SELECT scheduledjob.clock()) + $5::bigint)
                ORDER BY s.wake_at LIMIT 1
            ) UNION ALL (
                -- Due, but locked: another replica is claiming it now, under a lease of much the same length.
                SELECT scheduledjob.clock() + $6::bigint + $5::bigint
                FROM scheduledjob.schedule AS s
                WHERE s.installation = $1 AND s.kind = known.kind AND s.wake_at >= $8
                  AND s.wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
                  AND (s.owner IS NULL OR s.wake_at <= (SELECT scheduledjob.clock()))
                  AND s.id NOT IN (SELECT id FROM picked)
                ORDER BY s.wake_at LIMIT 1
            )) AS soonest
        ) END AS next_wake
    FROM found
)
SELECT meta.now, meta.last_due, meta.next_wake, claimed.*
FROM meta LEFT JOIN claimed ON true
ORDER BY claimed.was_due;

-- name: select_due_of_kind
(
    SELECT ctid AS place, wake_at FROM scheduledjob.schedule
    WHERE installation = $1 AND kind = ($2::text[])[{number}]
      AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
    ORDER BY wake_at
)

-- name: settle_removed
-- A row whose wish has changed is not deleted: it goes through `settle_written` next.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $3::bigint[], $4::bigint[], $5::bigint[],
        $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::integer[], $13::text[],
        $14::text[], $15::integer[], $16::text[], $17::bytea[], $18::integer[], $19::bigint[], $20::boolean[]
    ) AS given (
        id, version, revision,
        run_id, uid, slug, slot, started, finished, attempt, outcome,
        reason, code, replica, output, keep, expires, manual
    )
), gone AS (
    DELETE FROM scheduledjob.schedule AS s
    USING given
    WHERE s.id = ANY(ARRAY[given.id]) AND s.version = given.version AND s.revision = given.revision
      AND s.owner = $2 AND s.installation - $1 = 0
    RETURNING given.*
), recorded AS (
    INSERT INTO scheduledjob.history (
        installation, run_id, uid, slug, slot, started, finished, attempt, outcome,
        reason, code, replica, output, keep, expires, manual
    )
    SELECT $1, run_id, uid, slug, slot, started, finished, attempt, outcome,
        reason, code, replica, output, keep, expires, manual
    FROM gone WHERE run_id IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT id FROM gone;

-- name: settle_written
-- Fates: 0 keep, 1 release, 2 remove (here only where the wish has changed).
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $3::bigint[], $4::bigint[], $5::bigint[],
        $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::integer[], $13::text[],
        $14::text[], $15::integer[], $16::text[], $17::bytea[], $18::integer[], $19::bigint[], $20::boolean[],
        $21::integer[], $22::bytea[], $23::bigint[], $24::bytea[], $25::bytea[]
    ) AS given (
        id, version, revision,
        run_id, uid, slug, slot, started, finished, attempt, outcome,
        reason, code, replica, output, keep, expires, manual,
        fate, state, wake_at, payload, result
    )
), written AS (
    UPDATE scheduledjob.schedule AS s
    SET state = given.state,
        payload = coalesce(given.payload, s.payload),
        result = coalesce(given.result, s.result),
        version = CASE WHEN given.fate = 0 THEN s.version + 1 ELSE s.version END,
        owner = CASE WHEN given.fate = 0 THEN s.owner END,
        wake_at = CASE
            WHEN given.fate = 0 THEN s.wake_at
            WHEN s.revision <> given.revision THEN (SELECT scheduledjob.clock())
            ELSE given.wake_at
        END
    FROM given
    WHERE s.id = ANY(ARRAY[given.id]) AND s.version = given.version AND s.owner = $2 AND s.installation - $1 = 0
      AND (given.fate <> 2 OR s.revision <> given.revision)
    RETURNING given.*, s.owner IS NULL AS released, s.revision <> given.revision AS overtaken, s.wake_at AS wakes_at
), recorded AS (
    INSERT INTO scheduledjob.history (
        installation, run_id, uid, slug, slot, started, finished, attempt, outcome,
        reason, code, replica, output, keep, expires, manual
    )
    SELECT $1, run_id, uid, slug, slot, started, finished, attempt, outcome,
        reason, code, replica, output, keep, expires, manual
    FROM written WHERE run_id IS NOT NULL
    ON CONFLICT DO NOTHING
), told AS (
    -- Work that is handed back. The replica that does so knows it, except where the wish has changed meanwhile.
    SELECT pg_notify(
        'scheduledjob_' || $1::integer,
        json_build_object('due', back.due, 'from', CASE WHEN back.overtaken THEN '' ELSE $2 END)::text
    )
    FROM (
        SELECT min(wakes_at) AS due, bool_or(overtaken) AS overtaken
        FROM written WHERE released AND wakes_at <= (SELECT scheduledjob.clock())
    ) AS back
    WHERE EXISTS (
        SELECT 1 FROM scheduledjob.replica AS r
        WHERE r.installation = $1 AND r.looks_at > back.due AND (r.id <> $2 OR back.overtaken)
    )
)
SELECT id, (SELECT count(*) FROM told) AS told FROM written;

-- name: renew
UPDATE scheduledjob.schedule AS s
SET wake_at = (SELECT scheduledjob.clock()) + $5::bigint
FROM unnest($3::bigint[], $4::bigint[]) AS held (id, version)
WHERE s.id = ANY(ARRAY[held.id]) AND s.version = held.version AND s.owner = $2 AND s.installation - $1 = 0
RETURNING s.id, s.revision;

-- name: upsert_replica
INSERT INTO scheduledjob.replica (installation, id, program_version, schema_version, looks_at, seen_at, details)
VALUES ($1, $2, $3, $4, $5, scheduledjob.clock(), $6::text::jsonb)
ON CONFLICT (id) DO UPDATE
SET installation = excluded.installation, program_version = excluded.program_version,
    schema_version = excluded.schema_version, looks_at = excluded.looks_at, seen_at = excluded.seen_at,
    details = excluded.details;

-- name: delete_replica
-- What it has handed back was its own when the others looked, and may be due before they look again: they look now.
WITH gone AS (
    DELETE FROM scheduledjob.replica WHERE installation = $1 AND id = $2
)
SELECT pg_notify(
    'scheduledjob_' || $1::integer,
    json_build_object('due', scheduledjob.clock(), 'from', $2::text)::text
)
WHERE EXISTS (SELECT 1 FROM scheduledjob.replica AS r WHERE r.installation = $1 AND r.id <> $2);

-- name: delete_dead_replicas
-- Those that ended without a word, a day ago.
DELETE FROM scheduledjob.replica
WHERE installation = $1 AND greatest(looks_at, seen_at) < scheduledjob.clock() - 86400000000;

-- name: read_clock
SELECT scheduledjob.clock();

-- name: notify
SELECT pg_notify($1, $2);

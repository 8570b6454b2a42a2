-- How a replica claims due rows and renews their leases.
--
-- Each plan must be nested loops over the indexes, from the given values to the table, whatever the statistics say (see
-- connections.py). So a row is looked up by `id = ANY(ARRAY[given.id])`: unlike `id = given.id`, that cannot be turned
-- around into a walk over the whole index. `installation - $1 = 0` has the same purpose: as an expression it matches no
-- index, so that the planner can only filter by it. `scheduledjob.clock()` is stable within a statement, so an index
-- condition may use it; `clock_timestamp()` is volatile and would turn the index scan into a sequential one.

-- name: claim
-- $1 installation, $2 kinds, $3 replica, $4 limit, $5 ahead, $6 lease, $7 watermark, $8 watermark of skipped rows,
-- $9 the latest time at which the claim may take rows.
-- NO KEY UPDATE, because nothing refers to the key; SKIP LOCKED, because another replica is claiming a locked row.
-- The row is updated where it was found (`ctid`): looking it up by its id would pass every dead version of it. A row
-- that a client edits in that moment is missed; that client notifies the replicas.
-- {due} is `select_due_of_kind` for each kind, in the order of `wake_at`, so that the index is read only as far as
-- needed; for many kinds `select_due_of_kinds`, and with quotas `select_due_of_tenants`. `claimed` returns `row_columns`
-- (schedules.sql) behind `turn`, qualified, with the real value of `recovered`, and `due_at`.
-- The first line of the answer has the columns of `meta` and `select_left`. The others have those of `claimed`.
WITH {search}picked AS MATERIALIZED (
    SELECT s.ctid AS place, s.id, s.wake_at, due.turn, s.owner IS NOT NULL AS recovered
    FROM ({due}) AS due
    JOIN scheduledjob.schedule AS s ON s.ctid = due.place
    WHERE s.wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
      AND (s.owner IS NULL OR s.wake_at <= (SELECT scheduledjob.clock()))
      AND ($9::bigint IS NULL OR (SELECT scheduledjob.clock()) <= $9::bigint)
    ORDER BY due.turn
    LIMIT $4
    FOR NO KEY UPDATE OF s SKIP LOCKED
), claimed AS (
    UPDATE scheduledjob.schedule AS s
    SET owner = $3, version = s.version + 1, wake_at = (SELECT scheduledjob.clock()) + $6::bigint
    FROM picked
    WHERE s.ctid = picked.place
    RETURNING picked.turn, s.id, s.slug, s.uid, s.kind, s.origin, s.definition, s.revision,
        s.edited_at, s.first, s.payload, s.result, s.created_at, s.version, s.wake_at, s.state,
        picked.recovered, s.owner, s.generation, s.acts, s.tenant, s.payload_revision, picked.wake_at AS due_at
), found AS (
    SELECT count(*) AS rows, max(wake_at) AS last_due FROM picked
), meta AS (
    SELECT scheduledjob.clock() AS now, found.last_due,
        CASE WHEN found.rows < $4 THEN (
            SELECT min(soonest.wake_at)
            FROM unnest($2::text[]) AS known(kind), LATERAL ((
                SELECT wake_at FROM scheduledjob.schedule
                WHERE installation = $1 AND kind = known.kind AND owner IS NULL
                  AND wake_at > (SELECT scheduledjob.clock()) + $5::bigint
                ORDER BY wake_at LIMIT 1
            ) UNION ALL (
                -- A lease cannot be claimed ahead of its end, so it counts as due later by `ahead`.
                SELECT wake_at + $5::bigint FROM scheduledjob.schedule
                WHERE installation = $1 AND kind = known.kind AND owner IS NOT NULL
                  AND wake_at > (SELECT scheduledjob.clock())
                ORDER BY wake_at LIMIT 1
            ) UNION ALL (
                -- Due but locked: another replica is claiming it now, or a client has locked it. A client whose
                -- transaction is rolled back notifies nobody, so look again within a second.
                SELECT scheduledjob.clock() + least($6::bigint, 1000000) + $5::bigint
                FROM ((
                    SELECT id FROM scheduledjob.schedule
                    WHERE installation = $1 AND kind = known.kind AND owner IS NULL AND wake_at >= $8
                      AND wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
                      AND id NOT IN (SELECT id FROM picked)
                    ORDER BY wake_at LIMIT 1
                ) UNION ALL (
                    SELECT id FROM scheduledjob.schedule
                    WHERE installation = $1 AND kind = known.kind AND owner IS NOT NULL AND wake_at >= $8
                      AND wake_at <= (SELECT scheduledjob.clock())
                      AND id NOT IN (SELECT id FROM picked)
                    ORDER BY wake_at LIMIT 1
                )) AS locked
            )) AS soonest
        ) END AS next_wake
    FROM found
)
SELECT claimed.*, meta.now, meta.last_due, meta.next_wake{left}
FROM meta LEFT JOIN claimed ON false
UNION ALL
SELECT claimed.*, NULL, NULL, NULL{nothing_left} FROM claimed
ORDER BY turn NULLS FIRST;

-- name: select_due_of_kind
(
    SELECT ctid AS place, wake_at AS turn FROM scheduledjob.schedule
    WHERE installation = $1 AND kind = ($2::text[])[{number}] AND owner IS NULL
      AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
    ORDER BY wake_at
) UNION ALL (
    SELECT ctid, wake_at FROM scheduledjob.schedule
    WHERE installation = $1 AND kind = ($2::text[])[{number}] AND owner IS NOT NULL
      AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock())
    ORDER BY wake_at
)

-- fragment: tenant
CASE WHEN origin = 'library' THEN tenant ELSE split_part(slug, '/', 1) END

-- name: count_before
-- $2 tenant, $3 kind, $4 when the row is due, $5 how many rows it counts at most.
SELECT count(*) FROM (
    SELECT 1 FROM scheduledjob.schedule
    WHERE installation + 0 = $1 AND {tenant} = $2 AND kind = $3 AND wake_at < $4 AND owner IS NULL
    ORDER BY wake_at LIMIT $5
) AS before;

-- fragment: due_of_pair
SELECT ctid AS place, wake_at, row_number() OVER (ORDER BY wake_at ROWS UNBOUNDED PRECEDING) AS number
        FROM scheduledjob.schedule
        WHERE installation + 0 = $1 AND {tenant} = wanted.tenant AND kind = wanted.kind AND owner IS NULL
          AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
        ORDER BY wake_at LIMIT wanted.most

-- name: search_tenants
-- $10 the quotas by tenant, as JSON; $11 the quota of each other tenant; $12 and $13 the tenant and kind before which
-- the search begins; $14 how many pairs of a tenant and a kind it looks at.
-- `pair` jumps from each pair to the next by the index, backwards: in front of a pair's live entries there may be many
-- dead ones. Of each pair, `seen` reads one row more than wanted, which shows whether more are due. If a tenant has
-- many kinds, it reads less of each, and sorts them. The kinds are keys of an object, so that no list is searched for
-- each pair. Leases that expired count first against the quota of their tenant. There are no more than dead replicas
-- could own, so all of them are read.
RECURSIVE expired AS MATERIALIZED (
    SELECT due.place, due.tenant, coalesce(($10::jsonb ->> due.tenant)::bigint, $11::bigint) AS quota,
        row_number() OVER (PARTITION BY due.tenant ORDER BY due.wake_at) AS turn
    FROM unnest($2::text[]) AS known(kind), LATERAL (
        SELECT ctid AS place, {tenant} AS tenant, wake_at FROM scheduledjob.schedule
        WHERE installation = $1 AND kind = known.kind AND owner IS NOT NULL
          AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock())
        ORDER BY wake_at
    ) AS due
), recovering AS MATERIALIZED (
    SELECT jsonb_object_agg(tenant, least(quota, rows)) AS rows
    FROM (SELECT tenant, quota, count(*) AS rows FROM expired GROUP BY tenant, quota) AS of_tenant
), pair AS (
    (
        SELECT {tenant} AS tenant, kind, 1 AS number FROM scheduledjob.schedule
        WHERE installation + 0 = $1 AND owner IS NULL AND wake_at IS NOT NULL
          AND ({tenant}, kind) < ($12::text, $13::text)
        ORDER BY {tenant} DESC, kind DESC, wake_at DESC LIMIT 1
    )
    UNION ALL
    SELECT following.tenant, following.kind, pair.number + 1
    FROM pair, LATERAL (
        SELECT {tenant} AS tenant, kind FROM scheduledjob.schedule
        WHERE installation + 0 = $1 AND owner IS NULL AND wake_at IS NOT NULL
          AND ({tenant}, kind) < (pair.tenant, pair.kind)
        ORDER BY {tenant} DESC, kind DESC, wake_at DESC LIMIT 1
    ) AS following
    WHERE pair.number < $14::integer
), wanted AS MATERIALIZED (
    SELECT tenant, kind, quota, kinds, least(quota, greatest(2, 4 * quota / kinds)) + 1 AS most
    FROM (
        SELECT tenant, kind,
            coalesce(($10::jsonb ->> tenant)::bigint, $11::bigint)
                - coalesce(((SELECT rows FROM recovering) ->> tenant)::bigint, 0) AS quota,
            count(*) OVER (PARTITION BY tenant) AS kinds
        FROM pair WHERE (SELECT jsonb_object($2::text[], $2::text[])) ? kind
    ) AS known
), seen AS MATERIALIZED (
    SELECT wanted.tenant, wanted.quota, due.place, due.number = wanted.most AS cut, due.number AS turn
    FROM wanted, LATERAL (
        {due_of_pair}
    ) AS due
    WHERE wanted.kinds = 1
    UNION ALL
    SELECT wanted.tenant, wanted.quota, due.place, due.number = wanted.most,
        row_number() OVER (PARTITION BY wanted.tenant ORDER BY due.wake_at)
    FROM wanted, LATERAL (
        {due_of_pair}
    ) AS due
    WHERE wanted.kinds > 1
    UNION ALL
    SELECT tenant, quota, place, false, turn FROM expired
), last_pair AS (
    SELECT ARRAY[tenant, kind] AS place FROM pair WHERE number = $14::integer
),

-- name: select_due_of_tenants
SELECT place, turn FROM seen WHERE turn <= quota

-- name: select_left
-- The tenants of which more rows are due, and where the search ended if it was cut off.
, (SELECT array_agg(DISTINCT tenant) FROM seen WHERE turn > quota OR cut), (SELECT place FROM last_pair)

-- name: select_nothing_left
, NULL::text[], NULL::text[]

-- name: select_due_of_kinds
-- For more kinds than a union of scans suits. Of each of many kinds that are due, it reads no more than its part.
WITH due_kind AS MATERIALIZED (
    SELECT known.kind
    FROM unnest($2::text[]) AS known(kind), LATERAL ((
        SELECT 1 FROM scheduledjob.schedule
        WHERE installation = $1 AND kind = known.kind AND owner IS NULL
          AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
        ORDER BY wake_at LIMIT 1
    ) UNION ALL (
        SELECT 1 FROM scheduledjob.schedule
        WHERE installation = $1 AND kind = known.kind AND owner IS NOT NULL
          AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock())
        ORDER BY wake_at LIMIT 1
    ) LIMIT 1) AS head
)
SELECT due.place, due.wake_at AS turn
FROM due_kind, LATERAL ((
    SELECT ctid AS place, wake_at FROM scheduledjob.schedule
    WHERE installation = $1 AND kind = due_kind.kind AND owner IS NULL
      AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock()) + $5::bigint
    ORDER BY wake_at LIMIT greatest(2, 4 * $4::bigint / (SELECT count(*) FROM due_kind))
) UNION ALL (
    SELECT ctid, wake_at FROM scheduledjob.schedule
    WHERE installation = $1 AND kind = due_kind.kind AND owner IS NOT NULL
      AND wake_at >= $7 AND wake_at <= (SELECT scheduledjob.clock())
    ORDER BY wake_at LIMIT greatest(2, 4 * $4::bigint / (SELECT count(*) FROM due_kind))
)) AS due

-- fragment: lease_end
-- clock_timestamp() is the time of the write itself. A renewal that a stalled server delays may be written after a
-- later one; with the time of its start, it would shorten the lease that the later one gave.
(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $5::bigint

-- fragment: owned_rows
SELECT s.id
FROM unnest($3::bigint[], $4::bigint[]) AS owned (id, version), LATERAL (
    SELECT id FROM scheduledjob.schedule
    WHERE id = owned.id AND version = owned.version AND owner = $2 AND installation - $1 = 0 OFFSET 0

-- name: renew
-- SKIP LOCKED, so that a client that has locked a row delays no other. Its row is returned without a revision: the
-- replica owned it when this statement began.
WITH free AS MATERIALIZED (
    {owned_rows}
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS s
), renewed AS (
    UPDATE scheduledjob.schedule AS s
    SET wake_at = {lease_end}
    FROM free
    WHERE s.id = ANY(ARRAY[free.id])
    RETURNING s.id, s.revision
)
SELECT id, revision FROM renewed
UNION ALL
SELECT id, NULL FROM (
    {owned_rows}
    ) AS s
) AS owned WHERE id NOT IN (SELECT id FROM free);

-- name: renew_waiting
-- Waits for locks.
UPDATE scheduledjob.schedule AS s
SET wake_at = {lease_end}
FROM unnest($3::bigint[], $4::bigint[]) AS owned (id, version)
WHERE s.id = ANY(ARRAY[owned.id]) AND s.version = owned.version AND s.owner = $2 AND s.installation - $1 = 0
RETURNING s.id, s.revision;

-- name: read_clock
SELECT scheduledjob.clock();

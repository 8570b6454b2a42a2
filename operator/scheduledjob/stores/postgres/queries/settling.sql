-- How an owner settles its rows: it writes them and their history in one statement.
--
-- Both statements share the fragments, which list the columns and parameters of a settlement. Rows are written in the
-- order of their keys, so that two writers never wait for each other. For `id = ANY(ARRAY[...])` and
-- `installation - $1 = 0` see claims.sql. {of_free} is empty, or `of_free_rows`.

-- name: of_free_rows
-- Leaves out the rows that a client has locked. This costs a lock for each row, so it is added only while clients do.
, LATERAL (
    SELECT FROM scheduledjob.schedule AS s
    WHERE s.id = given.id AND s.installation - $1 = 0 OFFSET 0 FOR UPDATE SKIP LOCKED
) AS free

-- name: select_owned
-- Those of the rows that the replica owns at the given version.
SELECT s.id
FROM unnest($3::bigint[], $4::bigint[]) AS given (id, version), LATERAL (
    SELECT id FROM scheduledjob.schedule AS s
    WHERE s.id = given.id AND s.version = given.version AND s.owner = $2 AND s.installation - $1 = 0 OFFSET 0
) AS s;

-- fragment: settled_columns
id, version, revision,
{record_columns}

-- fragment: settled_arrays
$3::bigint[], $4::bigint[], $5::bigint[],
$6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::integer[], $13::text[],
$14::text[], $15::integer[], $16::text[], $17::bytea[], $18::integer[], $19::bigint[], $20::boolean[], $21::text[]

-- fragment: settled_values
-- A column with the same value in every row is sent as an array of one (see columns.py).
id,
CASE WHEN cardinality($6::text[]) = 1 THEN ($6::text[])[1] ELSE run_id END AS run_id,
coalesce(version, ($4::bigint[])[1]) AS version,
coalesce(revision, ($5::bigint[])[1]) AS revision,
coalesce(uid, ($7::text[])[1]) AS uid,
coalesce(slug, ($8::text[])[1]) AS slug,
coalesce(slot, ($9::bigint[])[1]) AS slot,
CASE WHEN cardinality($10::bigint[]) = 1 THEN ($10::bigint[])[1] ELSE started END AS started,
coalesce(finished, ($11::bigint[])[1]) AS finished,
coalesce(attempt, ($12::integer[])[1]) AS attempt,
coalesce(outcome, ($13::text[])[1]) AS outcome,
coalesce(reason, ($14::text[])[1]) AS reason,
CASE WHEN cardinality($15::integer[]) = 1 THEN ($15::integer[])[1] ELSE code END AS code,
coalesce(replica, ($16::text[])[1]) AS replica,
coalesce(output, ($17::bytea[])[1]) AS output,
coalesce(keep, ($18::integer[])[1]) AS keep,
coalesce(expires, ($19::bigint[])[1]) AS expires,
coalesce(manual, ($20::boolean[])[1]) AS manual,
coalesce(chain, ($21::text[])[1]) AS chain

-- name: settle_removed
-- A row whose definition has changed is not deleted: it goes through `settle_written` next.
WITH given AS MATERIALIZED (
    SELECT {settled_values}
    FROM unnest(
        {settled_arrays}
    ) AS given (
        {settled_columns}
    ){of_free}
), removed AS (
    DELETE FROM scheduledjob.schedule AS s
    USING given
    WHERE s.id = ANY(ARRAY[given.id]) AND s.version = given.version AND s.revision = given.revision
      AND s.owner = $2 AND s.installation - $1 = 0
    RETURNING given.*
), recorded AS (
    INSERT INTO scheduledjob.history (installation, {record_columns})
    SELECT $1, {record_columns}
    FROM removed WHERE run_id IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT id FROM removed;

-- name: settle_written
-- Dispositions: 0 keep, 1 release, 2 remove (here only where the definition has changed).
WITH given AS MATERIALIZED (
    SELECT {settled_values},
        coalesce(disposition, ($22::integer[])[1]) AS disposition,
        coalesce(state, ($23::bytea[])[1]) AS state,
        CASE WHEN cardinality($24::bigint[]) = 1 THEN ($24::bigint[])[1] ELSE wake_at END AS wake_at,
        CASE WHEN cardinality($25::bytea[]) = 1 THEN ($25::bytea[])[1] ELSE payload END AS payload,
        CASE WHEN cardinality($26::bytea[]) = 1 THEN ($26::bytea[])[1] ELSE result END AS result,
        coalesce(payload_base, ($27::bigint[])[1]) AS payload_base
    FROM unnest(
        {settled_arrays},
        $22::integer[], $23::bytea[], $24::bigint[], $25::bytea[], $26::bytea[], $27::bigint[]
    ) AS given (
        {settled_columns},
        disposition, state, wake_at, payload, result, payload_base
    ){of_free}
), written AS (
    UPDATE scheduledjob.schedule AS s
    SET state = given.state,
        -- A payload that a client has set since stays. A base of -1 leaves the payload as it is.
        payload = CASE WHEN given.payload_base >= s.payload_revision THEN given.payload ELSE s.payload END,
        result = coalesce(given.result, s.result),
        version = CASE WHEN given.disposition = 0 THEN s.version + 1 ELSE s.version END,
        owner = CASE WHEN given.disposition = 0 THEN s.owner END,
        wake_at = CASE
            WHEN given.disposition = 0 THEN s.wake_at
            WHEN s.revision <> given.revision THEN (SELECT scheduledjob.clock())
            ELSE given.wake_at
        END
    FROM given
    WHERE s.id = ANY(ARRAY[given.id]) AND s.version = given.version AND s.owner = $2 AND s.installation - $1 = 0
      AND (given.disposition <> 2 OR s.revision <> given.revision)
    RETURNING given.*, s.owner IS NULL AS released, s.revision <> given.revision AS overtaken, s.wake_at AS wakes_at
), recorded AS (
    INSERT INTO scheduledjob.history (installation, {record_columns})
    SELECT $1, {record_columns}
    FROM written WHERE run_id IS NOT NULL
    ON CONFLICT DO NOTHING
), notified AS (
    -- For released rows that are due. The replica itself knows of them, unless the definition has changed meanwhile.
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
SELECT id, (SELECT count(*) FROM notified) AS notified FROM written;

-- The outbox of hooks: calls that are not delivered yet.
--
-- For `id = ANY(ARRAY[...])` and `installation - $1 = 0` see claims.sql.

-- name: insert_hook_calls
INSERT INTO scheduledjob.hook_call (installation, due, run_id, number, slug, uid, data)
SELECT $1, scheduledjob.clock(), given.*
FROM unnest($2::text[], $3::integer[], $4::text[], $5::text[], $6::bytea[]) AS given
ON CONFLICT DO NOTHING;

-- name: claim_hook_calls
-- $1 installation, $2 limit, $3 lease, $4 the groups whose calls stay.
WITH picked AS MATERIALIZED (
    SELECT ctid AS place FROM scheduledjob.hook_call
    WHERE installation = $1 AND due <= (SELECT scheduledjob.clock())
      AND split_part(slug, '/', 1) <> ALL ($4::text[])
    ORDER BY due LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE scheduledjob.hook_call AS c
SET due = scheduledjob.clock() + $3::bigint, attempt = c.attempt + 1
FROM picked
WHERE c.ctid = picked.place
RETURNING c.run_id, c.number, c.slug, c.uid, c.data, c.attempt;

-- name: delete_hook_calls
DELETE FROM scheduledjob.hook_call AS c
USING unnest($2::text[], $3::integer[], $4::integer[]) AS given (run_id, number, attempt)
WHERE c.run_id = ANY(ARRAY[given.run_id]) AND c.number = given.number AND c.attempt = given.attempt
  AND c.installation - $1 = 0;

-- name: delay_hook_calls
UPDATE scheduledjob.hook_call AS c
SET due = scheduledjob.clock() + given.retry_in
FROM unnest($2::text[], $3::integer[], $4::integer[], $5::bigint[]) AS given (run_id, number, attempt, retry_in)
WHERE c.run_id = ANY(ARRAY[given.run_id]) AND c.number = given.number AND c.attempt = given.attempt
  AND c.installation - $1 = 0;

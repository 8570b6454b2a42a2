-- Objects of a cluster: generation and manual requests of rows, tombstones, locks, and the presence of replicas.
-- Replicas of version 1 write rows without the new columns, and do not use the new tables.

ALTER TABLE scheduledjob.schedule
    ADD COLUMN generation bigint NOT NULL DEFAULT 0,
    ADD COLUMN acts       text COLLATE "C" NOT NULL DEFAULT '';

-- Uids of deleted objects, which are not accepted again.
CREATE TABLE scheduledjob.tombstone (
    installation integer NOT NULL,
    expires      bigint NOT NULL,
    uid          text COLLATE "C" NOT NULL,
    PRIMARY KEY (uid, installation)
);

-- For queries with `installation + 0` only, like history_finished.
CREATE INDEX tombstone_expires ON scheduledjob.tombstone ((installation + 0), expires);

CREATE TABLE scheduledjob.lock (
    installation integer NOT NULL,
    until_at     bigint NOT NULL,
    name         text COLLATE "C" NOT NULL,
    owner        text COLLATE "C" NOT NULL,
    PRIMARY KEY (installation, name)
);

CREATE TABLE scheduledjob.presence (
    installation integer NOT NULL,
    since        bigint NOT NULL,
    until_at     bigint NOT NULL,
    replica      text COLLATE "C" NOT NULL,
    cluster      text COLLATE "C" NOT NULL,
    namespaces   text[] NOT NULL,
    PRIMARY KEY (installation, replica)
);

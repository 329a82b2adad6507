CREATE TABLE memory_snapshots (
    id          TEXT PRIMARY KEY,
    status      TEXT NOT NULL,            -- making, ready, removing, detaching
    image       TEXT NOT NULL,            -- the filesystem half, an image of its own
    sandbox     TEXT NOT NULL,            -- the one that was held
    spec        TEXT NOT NULL,            -- JSON, its settings at that instant
    held        TEXT NOT NULL,            -- JSON, what else a restore needs
    created_at  TEXT NOT NULL
);

-- JSON array of digests: all layers that a sandbox stands on, uppermost first.
ALTER TABLE sandboxes ADD COLUMN layers TEXT NOT NULL DEFAULT '[]';
-- JSON, what a sandbox was played on from; absent after a cold start.
ALTER TABLE sandboxes ADD COLUMN restored TEXT;

-- A row's status is the operation log: it is written before the effect, so that a restart finishes or undoes it.
CREATE TABLE sandboxes (
    id          TEXT PRIMARY KEY,
    status      TEXT NOT NULL,            -- creating, running, stopping, stopped, failed
    image       TEXT NOT NULL,
    spec        TEXT NOT NULL,            -- JSON, as asked
    slot        INTEGER,                  -- network slot while it holds one
    created_at  TEXT NOT NULL,
    stopped_at  TEXT,
    exit_code   INTEGER,
    failure     TEXT
);

CREATE TABLE images (
    id          TEXT PRIMARY KEY,
    status      TEXT NOT NULL,            -- making, ready, removing
    origin      TEXT NOT NULL,            -- JSON
    layers      TEXT NOT NULL,            -- JSON array of digests, uppermost first
    snapshot    TEXT,                     -- the held upper, when there is one
    environment TEXT NOT NULL,            -- JSON object
    size_bytes  INTEGER NOT NULL,
    created_at  TEXT NOT NULL
);

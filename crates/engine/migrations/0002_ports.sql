-- Exposed ports of sandboxes that have not ended. The host's port is kept so that a URL outlives the daemon.
CREATE TABLE ports (
    sandbox     TEXT NOT NULL,
    port        INTEGER NOT NULL,         -- inside
    host_port   INTEGER NOT NULL,
    PRIMARY KEY (sandbox, port)
);

-- What sandboxes are made from. The same configuration may be there several times: clients may ask for a new one.
CREATE TABLE stubs (
    id TEXT PRIMARY KEY NOT NULL,
    configuration TEXT NOT NULL,
    created_at_unix_seconds INTEGER NOT NULL
) STRICT;

CREATE INDEX stubs_by_configuration ON stubs (configuration);

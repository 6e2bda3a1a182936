-- One row for each message that is not done. The row is deleted when its job is done.
CREATE TABLE IF NOT EXISTS background_jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    -- Workers can see the message from then on. All times are milliseconds since 1970.
    visible_at INTEGER NOT NULL,
    -- How many times it was read. A worker that read it earlier can not change it any more.
    read_count INTEGER NOT NULL DEFAULT 0,
    enqueued_at INTEGER NOT NULL,
    last_read_at INTEGER,
    -- The job and its headers, as JSON.
    message TEXT NOT NULL,
    headers TEXT
) STRICT;

CREATE INDEX IF NOT EXISTS background_jobs_visible ON background_jobs (queue, visible_at, id);

-- Jobs that failed for good.
CREATE TABLE IF NOT EXISTS background_jobs_archive (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    visible_at INTEGER NOT NULL,
    read_count INTEGER NOT NULL,
    enqueued_at INTEGER NOT NULL,
    last_read_at INTEGER,
    archived_at INTEGER NOT NULL,
    message TEXT NOT NULL,
    headers TEXT
) STRICT;

CREATE INDEX IF NOT EXISTS background_jobs_archived
    ON background_jobs_archive (queue, archived_at);

CREATE TABLE IF NOT EXISTS background_queues (name TEXT PRIMARY KEY) STRICT;

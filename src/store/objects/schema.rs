//! The tables of objects, of their secrets and of the audit log.
//!
//! An index whose condition is `x <> ''` is used only by a query that says so too.

/// The name of this part among the parts of the database file.
pub(super) const PART: &str = "objects";

/// The steps from an empty file to the newest form. Append only.
pub(super) const STEPS: &[&str] = &[FIRST];

const FIRST: &str = "
CREATE TABLE object (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'blocked', 'deleted')),
    account TEXT NOT NULL,
    project TEXT NOT NULL,
    user TEXT NOT NULL,
    body TEXT NOT NULL,
    revision INTEGER NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    updated_unix_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX object_name
    ON object (kind, CASE kind WHEN 'key' THEN project ELSE '' END, name)
    WHERE status <> 'deleted' AND name <> '';
CREATE INDEX object_newest ON object (kind, created_unix_ms, id);
CREATE INDEX object_account ON object (kind, account, created_unix_ms, id) WHERE account <> '';
CREATE INDEX object_project ON object (kind, project, created_unix_ms, id) WHERE project <> '';
CREATE INDEX object_user ON object (kind, user, created_unix_ms, id) WHERE user <> '';
CREATE INDEX object_status ON object (kind, status, created_unix_ms, id) WHERE status <> 'active';

CREATE TABLE secret (
    digest BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    prefix TEXT NOT NULL,
    valid_until_unix_ms INTEGER,
    FOREIGN KEY (kind, id) REFERENCES object (kind, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX secret_object ON secret (kind, id);

CREATE TABLE last_used (
    id TEXT NOT NULL PRIMARY KEY,
    unix_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: the number of a row that was forgotten is not given again, so the highest one
-- tells which rows are too many.
CREATE TABLE remembered (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    time_unix_ms INTEGER NOT NULL,
    UNIQUE (principal, key)
) STRICT;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    time_unix_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    from_address TEXT NOT NULL,
    action TEXT NOT NULL,
    object_kind TEXT NOT NULL,
    object_id TEXT NOT NULL,
    object_name TEXT NOT NULL,
    before TEXT,
    after TEXT,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- Where the log ends, apart from the log: a tail that is cut off is missed.
CREATE TABLE audit_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    count INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
INSERT INTO audit_head VALUES (1, 0, zeroblob(32));

-- Against mistakes. Whoever wants to forge the log can drop these first; the chain is for that.
CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit entries are never changed'); END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit entries are never removed'); END;
-- INSERT OR REPLACE removes without asking the trigger above.
CREATE TRIGGER audit_appended BEFORE INSERT ON audit
    WHEN NEW.seq <= (SELECT count FROM audit_head)
    BEGIN SELECT RAISE(ABORT, 'audit entries are only appended'); END;
CREATE TRIGGER audit_head_kept BEFORE DELETE ON audit_head
    BEGIN SELECT RAISE(ABORT, 'the head of the audit log is never removed'); END;
";

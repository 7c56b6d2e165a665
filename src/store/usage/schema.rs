//! The tables of the usage part.

/// The name of this part in the table of versions.
pub(super) const PART: &str = "usage";

/// Each step is applied once, in this order; a step that was released never changes again.
pub(super) const STEPS: &[&str] = &[FIRST];

/// - `usage_state`: one row: how far the journal is taken in, and what else belongs to that moment.
/// - `usage_block`: records of requests that ended: `Open` and `Settle` in turn, as frames. The times
///   are those of the earliest and the latest opening in it.
/// - `usage_open`: a log of what is open: each row adds the frames of `Open`s and takes away those
///   with the ids in `closed`. Written anew now and then.
/// - `usage_name`: what a row of sums is about, once and for all its hours.
/// - `usage_sum`: packed sums by grain (0 total, 1 day, 2 hour) and start of the span.
/// - `usage_label`: sums of a day by end user (kind 1) and tag (kind 2), and of all requests that
///   have a tag (kind 3); the name's target is empty.
/// - `usage_price`: prices that records name by their version.
const FIRST: &str = "
CREATE TABLE usage_state (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    state BLOB NOT NULL,
    kept_from_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE usage_block (
    seq INTEGER PRIMARY KEY,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    bytes BLOB NOT NULL
) STRICT;
CREATE INDEX usage_block_last ON usage_block (last_ms, first_ms);
CREATE INDEX usage_block_first ON usage_block (first_ms, last_ms);
CREATE TABLE usage_open (
    seq INTEGER PRIMARY KEY,
    frames BLOB NOT NULL,
    closed BLOB NOT NULL
) STRICT;
CREATE TABLE usage_name (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    project TEXT NOT NULL,
    user TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    target TEXT NOT NULL,
    currency TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX usage_name_all
    ON usage_name (key, account, project, user, model, target, currency);
CREATE TABLE usage_sum (
    grain INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    name INTEGER NOT NULL,
    sums BLOB NOT NULL,
    PRIMARY KEY (grain, start_ms, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE usage_label (
    start_ms INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    label TEXT NOT NULL,
    name INTEGER NOT NULL,
    sums BLOB NOT NULL,
    PRIMARY KEY (start_ms, kind, label, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE usage_price (
    version INTEGER PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;
INSERT INTO usage_state VALUES (1, x'', 0);
";

/// Kinds of label.
pub(super) const END_USER: u8 = 1;
pub(super) const TAG: u8 = 2;
pub(super) const TAGGED: u8 = 3;

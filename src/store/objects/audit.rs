//! The audit log: appended in the transaction of what it tells of, each entry chained to the one
//! before.
//!
//! `hash = SHA-256(hash of the entry before | seq | time | texts)`, the first entry after 32 zeros.
//! Numbers are 8 bytes, big end first. The texts are actor, address, action, the object's kind, id
//! and name, before, after: each as the byte 1, its length as a number and its bytes, or as the
//! byte 0 if there is none. Lengths stand first, so no two entries are the same bytes.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row};
use sha2::{Digest as _, Sha256};

use super::sqlite::{count, digest, integer};
use super::{AuditDraft, AuditRow, Head, PAGE_ROWS_MAX, Verdict};

const COLUMNS: &str = "seq, time_unix_ms, actor, from_address, action, object_kind, object_id, \
                       object_name, before, after, hash";

/// How many texts an entry has.
const TEXTS: usize = 8;

/// Where the texts begin among the columns, and where the hash stands.
const FIRST_TEXT: usize = 2;
const HASH: usize = FIRST_TEXT + TEXTS;

/// Appends entries, which is the caller's transaction to commit, and tells the new end of the log.
pub(super) fn append(transaction: &Connection, drafts: &[AuditDraft]) -> rusqlite::Result<Head> {
    let mut head = head(transaction)?;
    if drafts.is_empty() {
        return Ok(head);
    }
    let sql = format!(
        "INSERT INTO audit ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
    );
    let mut insert = transaction.prepare(&sql)?;
    for draft in drafts {
        head = Head { count: head.count + 1, hash: chained(&head, draft) };
        insert.execute((
            integer(head.count),
            integer(draft.time_unix_ms),
            &draft.actor,
            &draft.from,
            &draft.action,
            &draft.kind,
            &draft.id,
            &draft.name,
            &draft.before,
            &draft.after,
            head.hash,
        ))?;
    }
    transaction
        .execute("UPDATE audit_head SET count = ?1, hash = ?2", (integer(head.count), head.hash))?;
    Ok(head)
}

/// The hash of the entry that `draft` becomes after `head`.
fn chained(head: &Head, draft: &AuditDraft) -> [u8; 32] {
    let texts = [&draft.actor, &draft.from, &draft.action, &draft.kind, &draft.id, &draft.name];
    let mut all: [Option<&[u8]>; TEXTS] = [None; TEXTS];
    for (slot, text) in all.iter_mut().zip(texts) {
        *slot = Some(text.as_bytes());
    }
    all[6] = draft.before.as_deref().map(str::as_bytes);
    all[7] = draft.after.as_deref().map(str::as_bytes);
    hash(&head.hash, integer(head.count + 1), integer(draft.time_unix_ms), all)
}

fn hash(before: &[u8; 32], seq: i64, time_unix_ms: i64, texts: [Option<&[u8]>; TEXTS]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(seq.to_be_bytes());
    hash.update(time_unix_ms.to_be_bytes());
    for text in texts {
        match text {
            Some(text) => {
                hash.update([1]);
                hash.update((text.len() as u64).to_be_bytes());
                hash.update(text);
            }
            None => hash.update([0]),
        }
    }
    hash.finalize().into()
}

/// The end of the log, as it was written beside it.
pub(super) fn head(connection: &Connection) -> rusqlite::Result<Head> {
    connection.query_row("SELECT count, hash FROM audit_head", [], |row| {
        Ok(Head { count: count(row, 0)?, hash: digest(row, 1)? })
    })
}

/// Entries after `since`: the first ones, or the newest ones in reverse order.
pub(super) fn page(
    connection: &Connection,
    since: u64,
    limit: usize,
    ascending: bool,
) -> rusqlite::Result<Vec<AuditRow>> {
    let order = if ascending { "ASC" } else { "DESC" };
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE seq > ?1 ORDER BY seq {order} LIMIT ?2");
    let limit = limit.min(PAGE_ROWS_MAX) as i64;
    let mut statement = connection.prepare(&sql)?;
    statement.query_map((integer(since), limit), entry)?.collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        seq: count(row, 0)?,
        time_unix_ms: count(row, 1)?,
        actor: row.get(2)?,
        from: row.get(3)?,
        action: row.get(4)?,
        kind: row.get(5)?,
        id: row.get(6)?,
        name: row.get(7)?,
        before: row.get(8)?,
        after: row.get(9)?,
        hash: digest(row, HASH)?,
    })
}

/// Walks the log. The connection must be in a transaction: the log and its head are compared.
pub(super) fn verify(connection: &Connection, expected: Option<Head>) -> rusqlite::Result<Verdict> {
    let Some(head) = head(connection).optional()? else {
        let fault = Some("the head of the log was removed".to_owned());
        return Ok(Verdict { ok: false, count: 0, head: [0; 32], fault });
    };
    let fault = first_fault(connection, head, expected)?;
    Ok(Verdict { ok: fault.is_none(), count: head.count, head: head.hash, fault })
}

fn first_fault(
    connection: &Connection,
    head: Head,
    expected: Option<Head>,
) -> rusqlite::Result<Option<String>> {
    let mut reached = Head::default();
    let contradicts = |reached: Head| {
        expected.is_some_and(|it| it.count == reached.count && it.hash != reached.hash)
    };
    if contradicts(reached) {
        return Ok(Some("the given head cannot be: 0 rows have the hash 0".to_owned()));
    }
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM audit ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let next = reached.count + 1;
        let seq: i64 = row.get(0)?;
        if seq > integer(next) {
            return Ok(Some(format!("row {next} was removed")));
        }
        // Numbers below 1, which the walk meets first, and rows that the head does not count.
        if seq < integer(next) || next > head.count {
            return Ok(Some(format!("row {seq} was inserted")));
        }
        let hash = recomputed(&reached, row)?;
        if !is_stored(row, &hash)? {
            // If the row after it is the one that should be here, this one was put before it.
            let is_extra = match rows.next()? {
                Some(row) => is_stored(row, &recomputed(&reached, row)?)?,
                None => false,
            };
            let what = if is_extra { "inserted" } else { "changed" };
            return Ok(Some(format!("row {seq} was {what}")));
        }
        reached = Head { count: next, hash };
        if contradicts(reached) {
            return Ok(Some(format!(
                "row {seq} is not the one of the given head: it, or a row before it, was changed"
            )));
        }
    }
    Ok(missing_tail(reached, head, expected))
}

/// What is wrong with a log that is sound up to its last row, `reached`.
fn missing_tail(reached: Head, head: Head, expected: Option<Head>) -> Option<String> {
    let due = head.count.max(expected.map_or(0, |it| it.count));
    if due > reached.count {
        let first = reached.count + 1;
        return Some(match due - reached.count {
            1 => format!("row {first} was removed"),
            _ => format!("rows {first} to {due} were removed"),
        });
    }
    (head.hash != reached.hash).then(|| format!("row {} was changed", reached.count))
}

/// The hash that the row would have right after `reached`.
fn recomputed(reached: &Head, row: &Row<'_>) -> rusqlite::Result<[u8; 32]> {
    let mut texts = [None; TEXTS];
    for (at, slot) in texts.iter_mut().enumerate() {
        // Not as text: a forged row need not be UTF-8, and is to be named all the same.
        *slot = match row.get_ref(FIRST_TEXT + at)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
            _ => None,
        };
    }
    Ok(hash(&reached.hash, integer(reached.count + 1), row.get(1)?, texts))
}

fn is_stored(row: &Row<'_>, hash: &[u8; 32]) -> rusqlite::Result<bool> {
    Ok(matches!(row.get_ref(HASH)?, ValueRef::Blob(bytes) if bytes == hash))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::tests::act;
    use super::super::{Change, Objects, sqlite::Sqlite};
    use super::*;

    /// A log of nine entries, and a connection of somebody who may do anything to the file.
    struct Forger {
        store: Sqlite,
        connection: Connection,
        head: Head,
        _dir: tempfile::TempDir,
    }

    fn forger() -> Forger {
        let dir = tempfile::tempdir().expect("a directory");
        let path: PathBuf = dir.path().join("foretoken.db");
        let store = Sqlite::open(Some(&path)).expect("a file");
        let audit = (1..=9).map(|at| act("key.create", &format!("key_{at}"))).collect();
        let head = store.apply(&Change { audit, ..Change::default() }).expect("logged");
        let connection = Connection::open(&path).expect("opened");
        Forger { store, connection, head, _dir: dir }
    }

    impl Forger {
        /// Does it with the guards taken away.
        fn forges(self, sql: &str) -> Self {
            let guards = "DROP TRIGGER IF EXISTS audit_unchanged; DROP TRIGGER IF EXISTS audit_kept; \
                          DROP TRIGGER IF EXISTS audit_appended; \
                          DROP TRIGGER IF EXISTS audit_head_kept; \
                          PRAGMA ignore_check_constraints = ON;";
            self.connection.execute_batch(guards).expect("dropped");
            self.connection.execute_batch(sql).expect("forged");
            self
        }

        /// Gives all rows from `first` on a hash that fits, and the head, too.
        fn rehashes(self, first: u64) -> Self {
            let mut head = Head::default();
            for row in page(&self.connection, 0, 100, true).expect("rows") {
                let draft = AuditDraft {
                    time_unix_ms: row.time_unix_ms,
                    actor: row.actor,
                    from: row.from,
                    action: row.action,
                    kind: row.kind,
                    id: row.id,
                    name: row.name,
                    before: row.before,
                    after: row.after,
                };
                let fitting = chained(&head, &draft);
                head = Head { count: row.seq, hash: row.hash };
                if row.seq >= first {
                    head.hash = fitting;
                    let sql = "UPDATE audit SET hash = ?1 WHERE seq = ?2";
                    self.connection.execute(sql, (fitting, integer(row.seq))).expect("forged");
                }
            }
            let sql = "UPDATE audit_head SET count = ?1, hash = ?2";
            self.connection.execute(sql, (integer(head.count), head.hash)).expect("forged");
            self
        }

        fn fault(&self, expected: Option<Head>) -> String {
            let verdict = self.store.verify(expected).expect("walked");
            assert_eq!(verdict.ok, verdict.fault.is_none());
            verdict.fault.unwrap_or_default()
        }
    }

    #[test]
    fn the_first_row_that_was_changed_is_named() {
        let columns = "actor from_address action object_kind object_id object_name before after";
        for column in columns.split(' ') {
            let sql = format!("UPDATE audit SET {column} = 'x' WHERE seq IN (4, 6)");
            assert_eq!(forger().forges(&sql).fault(None), "row 4 was changed", "{column}");
        }
        for (sql, want) in [
            ("UPDATE audit SET time_unix_ms = time_unix_ms + 1 WHERE seq = 9", "row 9 was changed"),
            ("UPDATE audit SET time_unix_ms = -1 WHERE seq = 1", "row 1 was changed"),
            ("UPDATE audit SET hash = zeroblob(32) WHERE seq = 2", "row 2 was changed"),
            ("UPDATE audit SET hash = x'00' WHERE seq = 2", "row 2 was changed"),
            ("UPDATE audit SET after = NULL WHERE seq = 3", "row 3 was changed"),
            // What is moved from one column to the next leaves the sum of the bytes the same.
            ("UPDATE audit SET before = after, after = NULL WHERE seq = 3", "row 3 was changed"),
            (
                "UPDATE audit SET object_kind = 'ke', object_id = 'y' || object_id WHERE seq = 5",
                "row 5 was changed",
            ),
            // Bytes that are no text.
            ("UPDATE audit SET actor = CAST(x'ff' AS TEXT) WHERE seq = 5", "row 5 was changed"),
            ("UPDATE audit_head SET hash = zeroblob(32)", "row 9 was changed"),
        ] {
            assert_eq!(forger().forges(sql).fault(None), want, "{sql}");
        }
        assert_eq!(forger().fault(None), "");
    }

    #[test]
    fn rows_that_were_removed_are_named() {
        for (sql, want) in [
            ("DELETE FROM audit WHERE seq = 1", "row 1 was removed"),
            ("DELETE FROM audit WHERE seq IN (5, 7)", "row 5 was removed"),
            ("DELETE FROM audit WHERE seq = 9", "row 9 was removed"),
            ("DELETE FROM audit WHERE seq > 6", "rows 7 to 9 were removed"),
            ("DELETE FROM audit", "rows 1 to 9 were removed"),
            ("DELETE FROM audit_head", "the head of the log was removed"),
            // The rest moved up: another row stands in its place.
            (
                "DELETE FROM audit WHERE seq = 5; UPDATE audit SET seq = seq - 1 WHERE seq > 5",
                "row 5 was changed",
            ),
        ] {
            assert_eq!(forger().forges(sql).fault(None), want, "{sql}");
        }
    }

    #[test]
    fn rows_that_were_inserted_are_named() {
        let copy = |from: i64, to: i64| {
            format!(
                "INSERT INTO audit SELECT {to}, time_unix_ms, actor, from_address, action, \
                 object_kind, object_id, object_name, before, after, hash \
                 FROM audit WHERE seq = {from};"
            )
        };
        let shift = "UPDATE audit SET seq = -seq WHERE seq > 3; \
                     UPDATE audit SET seq = 1 - seq WHERE seq < 0;";
        for (sql, want) in [
            (copy(2, 10), "row 10 was inserted"),
            (copy(2, 0), "row 0 was inserted"),
            (copy(2, -3), "row -3 was inserted"),
            // The rest moved down: the row after the new one is the one that should be here.
            (format!("{shift}{}", copy(2, 4)), "row 4 was inserted"),
        ] {
            assert_eq!(forger().forges(&sql).fault(None), want, "{sql}");
        }
    }

    /// Whoever can also compute hashes is found by the head beside the log, or, if that was forged
    /// as well, by a head that was written down elsewhere.
    #[test]
    fn a_log_that_was_rewritten_is_found_by_a_head_that_was_kept() {
        let cut = "DELETE FROM audit WHERE seq > 6; UPDATE audit_head SET count = 6, \
                   hash = (SELECT hash FROM audit WHERE seq = 6)";
        let forger_who_cut = forger().forges(cut);
        assert_eq!(forger_who_cut.fault(None), "", "nothing in the file can show it");
        assert_eq!(forger_who_cut.fault(Some(forger_who_cut.head)), "rows 7 to 9 were removed");

        let edit = "UPDATE audit SET actor = 'nobody' WHERE seq = 4";
        let rewriter = forger().forges(edit).rehashes(4);
        assert_eq!(rewriter.fault(None), "", "nothing in the file can show it");
        let fault = rewriter.fault(Some(rewriter.head));
        assert!(fault.starts_with("row 9 is not the one of the given head"), "{fault}");
        // And it stays found when the log has gone on.
        let audit = vec![act("key.block", "k")];
        rewriter.store.apply(&Change { audit, ..Change::default() }).expect("logged");
        let fault = rewriter.fault(Some(rewriter.head));
        assert!(fault.starts_with("row 9 is not the one of the given head"), "{fault}");
    }

    #[test]
    fn the_tables_refuse_what_is_not_an_append() {
        let forger = forger();
        for sql in [
            "UPDATE audit SET actor = 'x' WHERE seq = 1",
            "DELETE FROM audit WHERE seq = 9",
            "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 3",
            "DELETE FROM audit_head",
        ] {
            let refused = forger.connection.execute_batch(sql).expect_err("refused").to_string();
            assert!(refused.contains("never") || refused.contains("only"), "{refused}");
        }
        assert_eq!(forger.fault(Some(forger.head)), "");
    }

    #[test]
    fn a_log_whose_end_was_forged_is_not_continued_in_silence() {
        let audit = vec![act("key.block", "k")];
        let change = Change { audit, ..Change::default() };
        for (sql, want) in [
            ("DELETE FROM audit_head", "the head of the audit log is gone"),
            (
                "INSERT INTO audit SELECT 10, time_unix_ms, actor, from_address, action, \
                 object_kind, object_id, object_name, before, after, hash FROM audit WHERE seq = 2",
                "the audit log has a row that its head does not count",
            ),
        ] {
            let forger = forger().forges(sql);
            let refused = forger.store.apply(&change).expect_err("refused").to_string();
            assert!(refused.contains(want), "{refused}");
        }
        // Rows that were cut off stay missing, whatever follows.
        let forger = forger().forges("DELETE FROM audit WHERE seq > 7");
        forger.store.apply(&change).expect("logged");
        assert_eq!(forger.fault(None), "row 8 was removed");
    }

    /// The form of the chain is a promise to whoever checks it with tools of their own. The values
    /// were computed apart from this program.
    #[test]
    fn hashes_are_as_documented() {
        let drafts = [
            act("key.create", "key_1"),
            AuditDraft { before: Some("é".to_owned()), after: None, ..act("key.block", "") },
        ];
        let mut head = Head::default();
        let mut hashes = Vec::new();
        for draft in &drafts {
            head = Head { count: head.count + 1, hash: chained(&head, draft) };
            hashes.push(head.hash.map(|byte| format!("{byte:02x}")).concat());
        }
        assert_eq!(
            hashes,
            [
                "aa60416ab41111f23873670b7148d44d96d800c991ab7a4858e0d9e6cff283b9",
                "2be2f9d5a2f841d21d9ed198541fe0ac87b633602a914d879f266e1bac4bbc1f"
            ]
        );
    }
}

//! Opening the SQLite database, for both of its parts: usage, and the objects with their audit log.
//! Each part keeps a connection of its own; write-ahead logging lets one write while others read.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StoreError;

/// How long a connection waits for another one's write.
const BUSY: Duration = Duration::from_secs(5);

/// Opens the database file, or makes it; `None` is one in memory that only this connection sees.
///
/// # Errors
/// Of the file; a file that is no database is damaged, and never treated as empty.
pub fn open(path: Option<&Path>) -> Result<Connection, StoreError> {
    let name = path.map_or(":memory:".into(), |path| path.display().to_string());
    let fault = |cause| fault(&name, cause);
    let connection = match path {
        None => Connection::open_in_memory(),
        Some(path) => Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        ),
    }
    .map_err(fault)?;
    connection.busy_timeout(BUSY).map_err(fault)?;
    // FULL: a commit that returned survives the loss of power; the journal is trimmed on its word.
    let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                   PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;";
    connection.execute_batch(pragmas).map_err(fault)?;
    Ok(connection)
}

/// Brings one part of the database to its newest form: `steps` are applied from the first that this
/// file has not seen, all in one transaction.
///
/// # Errors
/// A file of a later version, or what SQLite says.
pub(super) fn migrate(
    connection: &mut Connection,
    name: &str,
    part: &str,
    steps: &[&str],
) -> Result<(), StoreError> {
    let fault = |cause| fault(name, cause);
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(fault)?;
    transaction
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS part (name TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT",
        )
        .map_err(fault)?;
    let version: i64 = transaction
        .query_row("SELECT version FROM part WHERE name = ?1", [part], |row| row.get(0))
        .or_else(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => Ok(0),
            error => Err(fault(error)),
        })?;
    let seen = version as usize;
    if seen > steps.len() {
        return Err(StoreError::Newer { path: name.to_owned(), version: version as u16 });
    }
    for step in &steps[seen..] {
        transaction.execute_batch(step).map_err(fault)?;
    }
    transaction
        .execute("INSERT OR REPLACE INTO part VALUES (?1, ?2)", (part, steps.len() as i64))
        .map_err(fault)?;
    transaction.commit().map_err(fault)
}

/// SQLite's errors in the store's words.
pub(super) fn fault(path: &str, cause: rusqlite::Error) -> StoreError {
    let what = match cause.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "it is no database",
        Some(ErrorCode::DatabaseCorrupt) => "its pages contradict each other",
        code => {
            let kind = match code {
                Some(ErrorCode::DiskFull) => ErrorKind::StorageFull,
                Some(ErrorCode::ReadOnly) => ErrorKind::ReadOnlyFilesystem,
                Some(ErrorCode::PermissionDenied) => ErrorKind::PermissionDenied,
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    ErrorKind::ResourceBusy
                }
                _ => ErrorKind::Other,
            };
            let cause = std::io::Error::new(kind, cause);
            return StoreError::Io { path: path.to_owned(), cause };
        }
    };
    StoreError::Damaged { path: path.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_once_and_a_later_file_is_refused() {
        let mut connection = open(None).expect("in memory");
        let steps = ["CREATE TABLE a (x INTEGER) STRICT", "CREATE TABLE b (x INTEGER) STRICT"];
        migrate(&mut connection, "m", "p", &steps[..1]).expect("the first");
        migrate(&mut connection, "m", "p", &steps).expect("the second");
        migrate(&mut connection, "m", "p", &steps).expect("nothing to do");
        connection.execute("INSERT INTO b VALUES (1)", []).expect("is there");
        let newer = migrate(&mut connection, "m", "p", &steps[..1]);
        assert!(matches!(newer, Err(StoreError::Newer { version: 2, .. })), "{newer:?}");
    }

    #[test]
    fn what_is_no_database_is_never_treated_as_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        std::fs::write(&path, vec![b'x'; 8192]).expect("written");
        let error = open(Some(&path)).expect_err("no database");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("still there").len(), 8192);
    }
}

//! How a change is made: one transaction, in which everything is checked by the tables themselves.
//! A question asked before would be a race; a constraint is none.

use rusqlite::{Connection, ErrorCode, Statement, ToSql, ffi};

use super::sqlite::integer;
use super::{
    ApplyError, Change, Head, ObjectKind, Put, REMEMBERED_MS, REMEMBERED_ROWS_MAX, Remembered,
    SecretRow, audit,
};

/// How many answers that are too old are forgotten at a time. More than one, so that they become
/// fewer even while new ones come.
const FORGOTTEN_AT_ONCE: u64 = 64;

/// Why a step of a change failed.
pub(super) enum Fault {
    /// As the caller is told.
    Refused(ApplyError),
    /// As SQLite says it.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Fault::Sql(error)
    }
}

/// Does all of a change in the caller's transaction. After a fault the transaction must not be
/// committed.
pub(super) fn change(transaction: &Connection, change: &Change) -> Result<Head, Fault> {
    remove(transaction, &change.removes)?;
    remove_secrets(transaction, &change.secrets_remove)?;
    put(transaction, &change.puts)?;
    put_secrets(transaction, &change.secrets_put)?;
    if let Some(answer) = &change.remember {
        remember(transaction, answer)?;
    }
    Ok(audit::append(transaction, &change.audit)?)
}

fn remove(transaction: &Connection, removes: &[(ObjectKind, String)]) -> Result<(), Fault> {
    if removes.is_empty() {
        return Ok(());
    }
    // Their secrets follow by the foreign key.
    let mut object = transaction.prepare("DELETE FROM object WHERE kind = ?1 AND id = ?2")?;
    let mut use_note = transaction.prepare("DELETE FROM last_used WHERE id = ?1")?;
    for (kind, id) in removes {
        if object.execute((kind.name(), id))? == 0 {
            return Err(conflict(*kind, id));
        }
        if *kind == ObjectKind::Key {
            use_note.execute([id])?;
        }
    }
    Ok(())
}

fn remove_secrets(transaction: &Connection, digests: &[[u8; 32]]) -> Result<(), Fault> {
    if digests.is_empty() {
        return Ok(());
    }
    let mut secret = transaction.prepare("DELETE FROM secret WHERE digest = ?1")?;
    for digest in digests {
        secret.execute([digest])?;
    }
    Ok(())
}

const INSERT: &str = "INSERT INTO object (kind, id, name, status, account, project, user, body, \
                      revision, created_unix_ms, updated_unix_ms, created_by) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

const UPDATE: &str = "UPDATE object SET name = ?3, status = ?4, account = ?5, project = ?6, \
                      user = ?7, body = ?8, revision = ?9, created_unix_ms = ?10, \
                      updated_unix_ms = ?11, created_by = ?12 \
                      WHERE kind = ?1 AND id = ?2 AND revision = ?13";

fn put(transaction: &Connection, puts: &[Put]) -> Result<(), Fault> {
    let (mut insert, mut update) = (None, None);
    for Put { row, expect_revision } in puts {
        let (kind, status) = (row.kind.name(), row.status.name());
        let times = [row.created_unix_ms, row.updated_unix_ms].map(integer);
        let [revision, expected] = [row.revision, expect_revision.unwrap_or(0)].map(integer);
        let values: [&dyn ToSql; 13] = [
            &kind,
            &row.id,
            &row.name,
            &status,
            &row.account,
            &row.project,
            &row.user,
            &row.body,
            &revision,
            &times[0],
            &times[1],
            &row.created_by,
            &expected,
        ];
        let written = match expect_revision {
            None => prepared(transaction, &mut insert, INSERT)?.execute(&values[..12]),
            Some(_) => prepared(transaction, &mut update, UPDATE)?.execute(&values[..]),
        };
        match written {
            Ok(0) => return Err(conflict(row.kind, &row.id)),
            Ok(_) => {}
            Err(error) if broke(&error, ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => {
                return Err(conflict(row.kind, &row.id));
            }
            Err(error) if broke(&error, ffi::SQLITE_CONSTRAINT_UNIQUE) => {
                return Err(Fault::Refused(ApplyError::NameTaken));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The statement in the slot, made at its first use: making one for a table with that many indexes
/// costs more than running it.
fn prepared<'a, 'c>(
    connection: &'c Connection,
    slot: &'a mut Option<Statement<'c>>,
    sql: &str,
) -> rusqlite::Result<&'a mut Statement<'c>> {
    if slot.is_none() {
        *slot = Some(connection.prepare(sql)?);
    }
    Ok(slot.as_mut().expect("was filled above"))
}

fn put_secrets(transaction: &Connection, secrets: &[SecretRow]) -> Result<(), Fault> {
    if secrets.is_empty() {
        return Ok(());
    }
    let mut insert = transaction.prepare(
        "INSERT INTO secret (digest, kind, id, prefix, valid_until_unix_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (digest) DO UPDATE \
         SET prefix = excluded.prefix, valid_until_unix_ms = excluded.valid_until_unix_ms \
         WHERE kind = excluded.kind AND id = excluded.id",
    )?;
    for secret in secrets {
        let written = insert.execute((
            secret.digest,
            secret.kind.name(),
            &secret.id,
            &secret.prefix,
            secret.valid_until_unix_ms.map(integer),
        ));
        match written {
            // It is there, and not of this object.
            Ok(0) => return Err(Fault::Refused(ApplyError::DigestTaken)),
            Ok(_) => {}
            Err(error) if broke(&error, ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => {
                return Err(conflict(secret.kind, &secret.id));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn remember(transaction: &Connection, answer: &Remembered) -> Result<(), Fault> {
    let stale_unix_ms = integer(answer.time_unix_ms.saturating_sub(REMEMBERED_MS));
    transaction.execute(
        "DELETE FROM remembered WHERE principal = ?1 AND key = ?2 AND time_unix_ms <= ?3",
        (&answer.principal, &answer.key, stale_unix_ms),
    )?;
    let written = transaction.execute(
        "INSERT INTO remembered (principal, key, fingerprint, status, body, time_unix_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            &answer.principal,
            &answer.key,
            answer.fingerprint,
            answer.status,
            &answer.body,
            integer(answer.time_unix_ms),
        ),
    );
    match written {
        Err(error) if broke(&error, ffi::SQLITE_CONSTRAINT_UNIQUE) => {
            return Err(Fault::Refused(ApplyError::Repeated));
        }
        other => other?,
    };
    let newest = transaction.last_insert_rowid();
    transaction.execute(
        "DELETE FROM remembered WHERE seq <= ?1",
        [newest.saturating_sub(integer(REMEMBERED_ROWS_MAX))],
    )?;
    transaction.execute(
        "DELETE FROM remembered WHERE time_unix_ms <= ?1 \
         AND seq IN (SELECT seq FROM remembered ORDER BY seq LIMIT ?2)",
        (stale_unix_ms, integer(FORGOTTEN_AT_ONCE)),
    )?;
    Ok(())
}

fn conflict(kind: ObjectKind, id: &str) -> Fault {
    Fault::Refused(ApplyError::Conflict(kind, id.to_owned()))
}

/// Whether the statement failed by this kind of constraint.
fn broke(error: &rusqlite::Error, constraint: std::ffi::c_int) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
        && error.sqlite_extended_error_code() == Some(constraint)
}

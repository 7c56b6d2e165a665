//! Objects in SQLite. Every value goes in as a parameter; the text of a statement is made of
//! constants only.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension as _, Row, ToSql, TransactionBehavior};

use super::super::sqlite;
use super::write::{self, Fault};
use super::{
    ApplyError, AuditRow, Change, Head, ListQuery, ObjectKind, ObjectRow, Objects, PAGE_ROWS_MAX,
    Remembered, SecretRow, Status, StoreError, Verdict, audit, schema,
};

const OBJECT: &str = "SELECT kind, id, name, status, account, project, user, body, revision, \
                      created_unix_ms, updated_unix_ms, created_by FROM object";

const SECRET: &str = "SELECT digest, kind, id, prefix, valid_until_unix_ms FROM secret";

/// The objects of one database file.
pub(super) struct Sqlite {
    /// `None`: in memory, where nobody else sees them and one connection does everything.
    path: Option<PathBuf>,
    /// The only connection that writes. Held for as long as a change takes, the disk included.
    writer: Mutex<Connection>,
    /// Reads what was committed last, and never waits for the writer.
    reader: Option<Mutex<Connection>>,
}

impl Sqlite {
    pub(super) fn open(path: Option<&Path>) -> Result<Self, StoreError> {
        let mut writer = sqlite::open(path)?;
        sqlite::migrate(&mut writer, &shown(path), schema::PART, schema::STEPS)?;
        let reader = match path {
            Some(_) => Some(Mutex::new(sqlite::open(path)?)),
            None => None,
        };
        Ok(Sqlite { path: path.map(Path::to_owned), writer: Mutex::new(writer), reader })
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves no half of a change: the transaction was rolled back by its drop.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a short question.
    fn read<R>(
        &self,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R, StoreError> {
        let connection = self.reader.as_ref().unwrap_or(&self.writer);
        let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        ask(&connection).map_err(|cause| self.fault(cause))
    }

    /// For a long look at the whole: on a connection of its own, so that nobody waits, and all of
    /// it as of one moment.
    fn survey<R>(
        &self,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R, StoreError> {
        let in_one_moment = |connection: &Connection| {
            let transaction = connection.unchecked_transaction()?;
            ask(&transaction)
        };
        match &self.path {
            Some(path) => in_one_moment(&sqlite::open(Some(path))?),
            None => in_one_moment(&self.writer()),
        }
        .map_err(|cause| self.fault(cause))
    }

    fn fault(&self, cause: Error) -> StoreError {
        let path = shown(self.path.as_deref());
        let what = match &cause {
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => "a row holds what was never written",
            // The only row that must be there.
            Error::QueryReturnedNoRows => "the head of the audit log is gone",
            // All others have an answer of their own.
            cause if is_constraint(cause) => "the audit log has a row that its head does not count",
            _ => return sqlite::fault(&path, cause),
        };
        StoreError::Damaged { path, what }
    }
}

impl Objects for Sqlite {
    fn each(&self, kind: ObjectKind, f: &mut dyn FnMut(ObjectRow)) -> Result<(), StoreError> {
        self.survey(|connection| {
            let mut statement = connection.prepare(&format!("{OBJECT} WHERE kind = ?1"))?;
            let mut rows = statement.query([kind.name()])?;
            while let Some(row) = rows.next()? {
                f(object(row)?);
            }
            Ok(())
        })
    }

    fn each_secret(&self, f: &mut dyn FnMut(SecretRow)) -> Result<(), StoreError> {
        self.survey(|connection| {
            let mut statement = connection.prepare(SECRET)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                f(secret(row)?);
            }
            Ok(())
        })
    }

    fn get(&self, kind: ObjectKind, id: &str) -> Result<Option<ObjectRow>, StoreError> {
        self.read(|connection| {
            let sql = format!("{OBJECT} WHERE kind = ?1 AND id = ?2");
            connection.query_row(&sql, (kind.name(), id), object).optional()
        })
    }

    fn by_name(
        &self,
        kind: ObjectKind,
        project: &str,
        name: &str,
    ) -> Result<Option<ObjectRow>, StoreError> {
        let within = if kind == ObjectKind::Key { project } else { "" };
        self.read(|connection| {
            connection.query_row(&by_name(), (kind.name(), within, name), object).optional()
        })
    }

    fn list(&self, query: &ListQuery) -> Result<Vec<ObjectRow>, StoreError> {
        self.read(|connection| {
            let (sql, values) = listing(query);
            let mut statement = connection.prepare(&sql)?;
            let values: Vec<&dyn ToSql> = values.iter().map(|value| &**value).collect();
            statement.query_map(&*values, object)?.collect()
        })
    }

    fn secrets_of(&self, kind: ObjectKind, id: &str) -> Result<Vec<SecretRow>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare(&format!(
                "{SECRET} WHERE kind = ?1 AND id = ?2 ORDER BY valid_until_unix_ms DESC NULLS FIRST"
            ))?;
            statement.query_map((kind.name(), id), secret)?.collect()
        })
    }

    fn apply(&self, change: &Change) -> Result<Head, ApplyError> {
        let mut connection = self.writer();
        let made = (|| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let head = write::change(&transaction, change)?;
            transaction.commit()?;
            Ok(head)
        })();
        made.map_err(|fault| match fault {
            Fault::Refused(refused) => refused,
            Fault::Sql(cause) => ApplyError::Store(self.fault(cause)),
        })
    }

    fn remembered(&self, principal: &str, key: &str) -> Result<Option<Remembered>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT principal, key, fingerprint, status, body, time_unix_ms \
                       FROM remembered WHERE principal = ?1 AND key = ?2";
            connection.query_row(sql, (principal, key), answer).optional()
        })
    }

    fn audit(
        &self,
        since: u64,
        limit: usize,
        ascending: bool,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.read(|connection| audit::page(connection, since, limit, ascending))
    }

    fn head(&self) -> Result<Head, StoreError> {
        self.read(audit::head)
    }

    fn verify(&self, expected: Option<Head>) -> Result<Verdict, StoreError> {
        self.survey(|connection| audit::verify(connection, expected))
    }

    fn touch(&self, used: &[(String, u64)]) -> Result<(), StoreError> {
        if used.is_empty() {
            return Ok(());
        }
        let mut connection = self.writer();
        let written = (|| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut statement = transaction.prepare(
                "INSERT INTO last_used (id, unix_ms) VALUES (?1, ?2) ON CONFLICT (id) \
                 DO UPDATE SET unix_ms = excluded.unix_ms WHERE unix_ms < excluded.unix_ms",
            )?;
            for (id, unix_ms) in used {
                statement.execute((id, integer(*unix_ms)))?;
            }
            drop(statement);
            transaction.commit()
        })();
        written.map_err(|cause| self.fault(cause))
    }

    fn last_used(&self, id: &str) -> Result<Option<u64>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT unix_ms FROM last_used WHERE id = ?1";
            connection.query_row(sql, [id], |row| count(row, 0)).optional()
        })
    }
}

/// The conditions are those of the index `object_name`, word for word: else it is not used.
fn by_name() -> String {
    format!(
        "{OBJECT} WHERE kind = ?1 AND CASE kind WHEN 'key' THEN project ELSE '' END = ?2 \
         AND name = ?3 AND status <> 'deleted' AND name <> ''"
    )
}

/// The statement of a list and its values.
fn listing(query: &ListQuery) -> (String, Vec<Box<dyn ToSql + '_>>) {
    let mut sql = format!("{OBJECT} WHERE kind = ?");
    let mut values: Vec<Box<dyn ToSql + '_>> = vec![Box::new(query.kind.name())];
    let owners = [("account", &query.account), ("project", &query.project), ("user", &query.user)];
    for (column, owner) in owners {
        let Some(owner) = owner else { continue };
        sql += &format!(" AND {column} = ?");
        if !owner.is_empty() {
            sql += &format!(" AND {column} <> ''");
        }
        values.push(Box::new(owner));
    }
    if let Some(status) = query.status {
        sql += " AND status = ?";
        if status != Status::Active {
            sql += " AND status <> 'active'";
        }
        values.push(Box::new(status.name()));
    }
    if let Some(after) = &query.after {
        sql += " AND (created_unix_ms, id) < (?, ?)";
        values.push(Box::new(integer(after.created_unix_ms)));
        values.push(Box::new(&after.id));
    }
    sql += " ORDER BY created_unix_ms DESC, id DESC LIMIT ?";
    values.push(Box::new(query.limit.min(PAGE_ROWS_MAX) as i64));
    (sql, values)
}

fn object(row: &Row<'_>) -> rusqlite::Result<ObjectRow> {
    Ok(ObjectRow {
        kind: kind(row, 0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        status: Status::from_name(row.get_ref(3)?.as_str()?).ok_or_else(|| unknown(3))?,
        account: row.get(4)?,
        project: row.get(5)?,
        user: row.get(6)?,
        body: row.get(7)?,
        revision: count(row, 8)?,
        created_unix_ms: count(row, 9)?,
        updated_unix_ms: count(row, 10)?,
        created_by: row.get(11)?,
    })
}

fn secret(row: &Row<'_>) -> rusqlite::Result<SecretRow> {
    let has_end = row.get_ref(4)?.data_type() != Type::Null;
    Ok(SecretRow {
        digest: digest(row, 0)?,
        kind: kind(row, 1)?,
        id: row.get(2)?,
        prefix: row.get(3)?,
        valid_until_unix_ms: has_end.then(|| count(row, 4)).transpose()?,
    })
}

fn answer(row: &Row<'_>) -> rusqlite::Result<Remembered> {
    Ok(Remembered {
        principal: row.get(0)?,
        key: row.get(1)?,
        fingerprint: digest(row, 2)?,
        status: row.get(3)?,
        body: row.get(4)?,
        time_unix_ms: count(row, 5)?,
    })
}

fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<ObjectKind> {
    ObjectKind::from_name(row.get_ref(column)?.as_str()?).ok_or_else(|| unknown(column))
}

/// A number that is never negative.
pub(super) fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| Error::IntegralValueOutOfRange(column, value))
}

/// 32 bytes.
pub(super) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<[u8; 32]> {
    row.get_ref(column)?.as_blob()?.try_into().map_err(|_| unknown(column))
}

/// As SQLite counts. What does not fit is a time in 292 million years, and stops there.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unknown(column: usize) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, "unknown value".into())
}

fn is_constraint(cause: &Error) -> bool {
    cause.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

/// How the file is called in errors.
fn shown(path: Option<&Path>) -> String {
    path.map_or(":memory:".into(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{act, key, made, puts};
    use super::super::{Put, REMEMBERED_ROWS_MAX};
    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf, Sqlite) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("foretoken.db");
        let store = Sqlite::open(Some(&path)).expect("a file");
        (dir, path, store)
    }

    fn logged(id: &str) -> Change {
        Change { audit: vec![act("key.create", id)], ..puts([made(key(id))]) }
    }

    #[test]
    fn a_store_that_somebody_holds_refuses_in_time_and_half_of_nothing_is_done() {
        let (_dir, path, store) = file();
        store.apply(&logged("a")).expect("made");
        store.writer().busy_timeout(Duration::from_millis(10)).expect("set");
        let other = Connection::open(&path).expect("opened");
        other.execute_batch("BEGIN IMMEDIATE").expect("held");
        let refused = store.apply(&logged("b")).expect_err("held");
        assert!(matches!(refused, ApplyError::Store(StoreError::Io { .. })), "{refused}");
        assert!(refused.to_string().contains("locked"), "{refused}");
        store.touch(&[("a".to_owned(), 1)]).expect_err("held");
        // Who only looks does not wait.
        assert_eq!(store.get(ObjectKind::Key, "a").expect("read"), Some(key("a")));
        assert_eq!(store.get(ObjectKind::Key, "b").expect("read"), None);
        assert!(store.verify(None).expect("read").ok);
        other.execute_batch("COMMIT").expect("let go");
        store.apply(&logged("b")).expect("made");
        assert_eq!(store.head().expect("a head").count, 2);
    }

    #[test]
    fn a_full_disk_refuses_and_half_of_nothing_is_done() {
        let (_dir, _, store) = file();
        store.apply(&logged("a")).expect("made");
        let head = store.head().expect("a head");
        let pages = |pages: &str| {
            let sql = format!("PRAGMA max_page_count = {pages}");
            store.writer().query_row(&sql, [], |row| row.get::<_, i64>(0)).expect("set")
        };
        let unbounded = pages("1073741823");
        // SQLite takes no fewer than there are: not one page may be added.
        pages("1");
        let mut large = logged("large");
        large.puts.insert(0, made(key("small")));
        large.puts[1].row.body = "x".repeat(100_000);
        let refused = store.apply(&large).expect_err("full");
        assert!(matches!(refused, ApplyError::Store(StoreError::Io { .. })), "{refused}");
        assert!(refused.to_string().contains("full"), "{refused}");
        for id in ["small", "large"] {
            assert_eq!(store.get(ObjectKind::Key, id).expect("read"), None);
        }
        assert_eq!(store.head().expect("a head"), head);
        pages(&unbounded.to_string());
        store.apply(&large).expect("room again");
        assert_eq!(
            store.get(ObjectKind::Key, "large").expect("read"),
            Some(large.puts.remove(1).row)
        );
        assert!(store.verify(Some(head)).expect("walked").ok);
    }

    /// A change that only logs reads the head first. If it took the right to write no sooner than it
    /// writes, a commit of somebody else in between would fail it, and no waiting could help.
    #[test]
    fn who_writes_the_same_file_waits_for_each_other() {
        let (_dir, path, store) = file();
        let (changes, writers) = (40, 3);
        std::thread::scope(|scope| {
            for _ in 0..writers {
                scope.spawn(|| {
                    let store = Sqlite::open(Some(&path)).expect("opened");
                    for _ in 0..changes {
                        let audit = vec![act("denied", "k")];
                        store.apply(&Change { audit, ..Change::default() }).expect("logged");
                    }
                });
            }
        });
        let verdict = store.verify(None).expect("walked");
        assert_eq!((verdict.fault, verdict.count), (None, changes * writers));
    }

    #[test]
    fn a_long_look_sees_one_moment_and_stops_nobody() {
        let (_dir, path, store) = file();
        store.apply(&puts((0..100).map(|at| made(key(&at.to_string()))))).expect("made");
        let other = Sqlite::open(Some(&path)).expect("opened");
        let mut seen = 0;
        store
            .each(ObjectKind::Key, &mut |row| {
                let removes = vec![(ObjectKind::Key, row.id.clone())];
                let puts = vec![made(key(&format!("new {}", row.id)))];
                other.apply(&Change { removes, puts, ..Change::default() }).expect("changed");
                seen += 1;
            })
            .expect("all");
        assert_eq!(seen, 100);
        assert!(store.get(ObjectKind::Key, "new 99").expect("read").is_some());
    }

    #[test]
    fn what_was_never_written_is_damage_and_not_an_empty_answer() {
        let (_dir, path, store) = file();
        let change = Change { audit: vec![act("key.create", "k")], ..puts([made(key("k"))]) };
        store.apply(&change).expect("made");
        let connection = Connection::open(&path).expect("opened");
        for sql in [
            "UPDATE object SET status = 'strange'",
            "UPDATE object SET status = 'active', revision = -1",
            "UPDATE object SET revision = 1, body = CAST(x'ff' AS TEXT)",
        ] {
            let sql = format!("PRAGMA ignore_check_constraints = ON; {sql}");
            connection.execute_batch(&sql).expect("damaged");
            let get = store.get(ObjectKind::Key, "k").expect_err("damaged");
            let each = store.each(ObjectKind::Key, &mut |_| {}).expect_err("damaged");
            for error in [get, each] {
                assert!(matches!(error, StoreError::Damaged { .. }), "{sql}: {error}");
                assert!(error.to_string().contains("foretoken.db"), "{error}");
            }
        }
    }

    #[test]
    fn a_change_of_many_is_as_whole_as_one_of_few() {
        let store = Sqlite::open(None).expect("in memory");
        let all = || (0..5_000).map(|at| made(key(&format!("key_{at:04}"))));
        let last: Put = made(key("key_0000"));
        store.apply(&puts(all().chain([last]))).expect_err("the last one clashes");
        let count = || {
            let mut count = 0;
            store.each(ObjectKind::Key, &mut |_| count += 1).expect("all");
            count
        };
        assert_eq!(count(), 0);
        store.apply(&puts(all())).expect("made");
        assert_eq!(count(), 5_000);
    }

    #[test]
    fn remembered_answers_are_bounded() {
        let store = Sqlite::open(None).expect("in memory");
        let answer = |at: u64| Remembered {
            principal: "owner".to_owned(),
            key: at.to_string(),
            fingerprint: [0; 32],
            status: 201,
            body: "{}".to_owned(),
            time_unix_ms: 1_700_000_000_000,
        };
        // All but a few at once: what is bounded is their number, however they came.
        store
            .writer()
            .execute_batch(&format!(
                "WITH RECURSIVE n (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM n LIMIT {}) \
                 INSERT INTO remembered (principal, key, fingerprint, status, body, time_unix_ms) \
                 SELECT 'owner', n, zeroblob(32), 201, '{{}}', 1700000000000 FROM n",
                REMEMBERED_ROWS_MAX - 1
            ))
            .expect("filled");
        let is_known =
            |at: u64| store.remembered("owner", &at.to_string()).expect("read").is_some();
        for at in REMEMBERED_ROWS_MAX - 1..REMEMBERED_ROWS_MAX + 3 {
            let change = Change { remember: Some(answer(at)), ..Change::default() };
            store.apply(&change).expect("remembered");
        }
        assert_eq!([0, 1, 2, 3].map(is_known), [false, false, false, true]);
        assert!(is_known(REMEMBERED_ROWS_MAX + 2));
    }

    /// A question that walks a table of a million keys would hold everybody up.
    #[test]
    fn every_question_has_an_index() {
        let store = Sqlite::open(None).expect("in memory");
        let plan = |sql: &str, values: &[&dyn ToSql]| -> String {
            let connection = store.writer();
            let mut statement =
                connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
            let lines = statement.query_map(values, |row| row.get::<_, String>(3)).expect("asked");
            lines.map(|line| line.expect("a line") + "\n").collect()
        };
        let text = || Some("x".to_owned());
        let all = ListQuery::new(ObjectKind::Key, 10);
        let after = Some(key("x").position());
        for (query, index) in [
            (all.clone(), "object_newest"),
            (ListQuery { after: after.clone(), ..all.clone() }, "object_newest"),
            (ListQuery { account: text(), after: after.clone(), ..all.clone() }, "object_account"),
            (ListQuery { project: text(), after: after.clone(), ..all.clone() }, "object_project"),
            (ListQuery { user: text(), after: after.clone(), ..all.clone() }, "object_user"),
            (ListQuery { status: Some(Status::Blocked), after, ..all }, "object_status"),
        ] {
            let (sql, values) = listing(&query);
            let values: Vec<&dyn ToSql> = values.iter().map(|value| &**value).collect();
            let plan = plan(&sql, &values);
            assert!(plan.contains(index), "{sql}: {plan}");
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP"), "{sql}: {plan}");
        }
        let plan = plan(&by_name(), &[&"key", &"p", &"n"]);
        assert!(plan.contains("object_name (kind=? AND <expr>=? AND name=?)"), "{plan}");
    }
}

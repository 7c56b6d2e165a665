//! The database: one connection that writes, and others that read.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::commit::Writer;
use super::fault_of;
use super::records::PAGE_SCAN_MAX;
use super::rows::{Reader, ms};
use super::schema::{PART, STEPS};
use crate::ident::RequestId;
use crate::store::query::{
    Cursor, Filter, Grain, OwnedRecord, RecordQuery, Spent, SpentQuery, StoredRecord, UsageKey,
    UsageQuery, UsageRow,
};
use crate::store::sums::{RowKey, Sums};
use crate::store::{Abandoned, Batch, Covered, Store, StoreError, sqlite};

/// Records in memory take no more than this: the oldest go.
const MEMORY_BLOCKS_BYTES_MAX: usize = 64 << 20;
/// How long a commit waits for somebody else's. The flusher comes again anyway.
const BUSY: Duration = Duration::from_secs(1);
/// Connections that are kept for the next reader.
const READERS_KEPT: usize = 4;
/// Blocks that go in one transaction: commits wait for it.
const TRIM_BLOCKS: i64 = 64;

/// The usage part of a SQLite database: a [`Store`].
pub struct Database {
    name: String,
    /// `None`: in memory, where one connection does everything.
    path: Option<PathBuf>,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Connection>>,
    complete_until_unix_ms: AtomicU64,
}

impl Database {
    /// Books that end with the process. Of the records the newest are kept, up to 64 MiB.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::make(None, Some(MEMORY_BLOCKS_BYTES_MAX))
    }

    /// Books in the file `path`, which need not exist yet.
    ///
    /// # Errors
    /// A file that is no such database is refused and stays as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::make(Some(path.to_owned()), None)
    }

    fn make(path: Option<PathBuf>, blocks_bytes_max: Option<usize>) -> Result<Self, StoreError> {
        let name = path.as_ref().map_or(":memory:".into(), |path| path.display().to_string());
        let mut connection = sqlite::open(path.as_deref())?;
        connection.busy_timeout(BUSY).map_err(fault_of(&name))?;
        // A reader that takes long lets the log grow; it shrinks again.
        connection
            .execute_batch("PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -8192;")
            .map_err(fault_of(&name))?;
        sqlite::migrate(&mut connection, &name, PART, STEPS)?;
        let writer = Mutex::new(Writer::open(connection, name.clone(), blocks_bytes_max)?);
        let (readers, complete_until_unix_ms) = Default::default();
        Ok(Database { name, path, writer, readers, complete_until_unix_ms })
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic within a commit leaves the transaction to be rolled back, and the writer in doubt.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads at one moment, beside whoever writes.
    fn read<T>(
        &self,
        ask: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Some(path) = &self.path else {
            let writer = self.writer();
            return read_with(&writer.connection, &self.name, ask);
        };
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match kept {
            Some(connection) => connection,
            None => {
                let connection = sqlite::open(Some(path))?;
                connection.execute_batch("PRAGMA query_only = ON").map_err(fault_of(&self.name))?;
                connection
            }
        };
        let answer = read_with(&connection, &self.name, ask);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_KEPT && answer.is_ok() {
            readers.push(connection);
        }
        answer
    }

    /// Like [`Store::records`], with another bound.
    pub(super) fn page(
        &self,
        query: &RecordQuery,
        scan_max: usize,
        each: &mut dyn FnMut(&StoredRecord<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Cursor>, StoreError> {
        self.read(|reader| reader.records(query, scan_max, each))
    }
}

fn read_with<T>(
    connection: &Connection,
    name: &str,
    ask: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let _moment = Transaction::new_unchecked(connection, TransactionBehavior::Deferred)
        .map_err(fault_of(name))?;
    ask(&Reader { connection, name })
}

impl Store for Database {
    fn covered(&self) -> Result<Covered, StoreError> {
        self.writer().state().map(|state| state.covered.clone())
    }

    fn commit(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        self.writer().commit(batch)
    }

    fn abandon(&self) -> Result<Vec<Abandoned>, StoreError> {
        self.writer().abandon()
    }

    fn rows(&self) -> Result<Vec<(RowKey, Sums)>, StoreError> {
        let mut rows: BTreeMap<RowKey, Sums> = BTreeMap::new();
        self.visit(Grain::Total, 0, u64::MAX, &mut |name, _, sums| {
            let key = [name.key, name.model, name.target].into();
            rows.entry(key).or_default().add(sums);
        })?;
        Ok(rows.into_iter().collect())
    }

    fn orphans(&self) -> Result<u64, StoreError> {
        self.writer().state().map(|state| state.orphans)
    }

    fn visit(
        &self,
        grain: Grain,
        from_unix_ms: u64,
        to_unix_ms: u64,
        each: &mut dyn FnMut(&UsageKey<'_>, u64, &Sums),
    ) -> Result<(), StoreError> {
        let times = (from_unix_ms, to_unix_ms);
        self.read(|reader| reader.each_row(grain, times, &Filter::default(), each))
    }

    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        self.read(|reader| reader.usage(query))
    }

    fn spent(
        &self,
        query: &SpentQuery,
        each: &mut dyn FnMut(&UsageKey<'_>, &Spent),
    ) -> Result<(), StoreError> {
        self.read(|reader| reader.spent(query, each))
    }

    fn records(
        &self,
        query: &RecordQuery,
        each: &mut dyn FnMut(&StoredRecord<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Cursor>, StoreError> {
        self.page(query, PAGE_SCAN_MAX, each)
    }

    fn record(&self, id: RequestId) -> Result<Option<OwnedRecord>, StoreError> {
        self.read(|reader| reader.record(id))
    }

    fn note_complete(&self, until_unix_ms: u64) {
        self.complete_until_unix_ms.fetch_max(until_unix_ms, Ordering::Relaxed);
    }

    fn complete_until_unix_ms(&self) -> u64 {
        self.complete_until_unix_ms.load(Ordering::Relaxed)
    }

    fn keep_price(&self, version: u64, json: &str) -> Result<(), StoreError> {
        self.writer()
            .connection
            .prepare("INSERT OR IGNORE INTO usage_price VALUES (?1, ?2)")
            .and_then(|mut statement| statement.execute((version as i64, json)))
            .map(drop)
            .map_err(fault_of(&self.name))
    }

    fn price(&self, version: u64) -> Result<Option<String>, StoreError> {
        self.read(|reader| {
            reader
                .connection
                .prepare("SELECT body FROM usage_price WHERE version = ?1")
                .and_then(|mut it| it.query_row([version as i64], |row| row.get(0)).optional())
                .map_err(fault_of(&self.name))
        })
    }

    fn trim(&self, before_unix_ms: u64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let writer = self.writer();
            let (blocks, records) =
                trim_some(&writer.connection, ms(before_unix_ms)).map_err(fault_of(&self.name))?;
            forgotten += records;
            if blocks < TRIM_BLOCKS {
                return Ok(forgotten);
            }
        }
    }
}

/// Gives how many blocks went, and how many records were in them.
fn trim_some(connection: &Connection, before_ms: i64) -> rusqlite::Result<(i64, u64)> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let (blocks, records): (i64, i64) = connection
        .prepare(
            "SELECT count(*), coalesce(sum(count), 0) FROM (SELECT count FROM usage_block \
             WHERE last_ms < ?1 ORDER BY last_ms LIMIT ?2)",
        )?
        .query_row([before_ms, TRIM_BLOCKS], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if blocks > 0 {
        connection
            .prepare(
                "DELETE FROM usage_block WHERE seq IN (SELECT seq FROM usage_block \
                 WHERE last_ms < ?1 ORDER BY last_ms LIMIT ?2)",
            )?
            .execute([before_ms, TRIM_BLOCKS])?;
        connection
            .execute("UPDATE usage_state SET kept_from_ms = max(kept_from_ms, ?1)", [before_ms])?;
    }
    transaction.commit()?;
    Ok((blocks, records.max(0) as u64))
}

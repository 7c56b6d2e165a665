//! # store: what must not be lost
//!
//! In: an [`Open`] when a request is let in and a [`Settle`] when it has ended, from the worker that
//! serves it. Out: these records, and sums of them by all that they are about, exact after any end
//! of the process.
//!
//! A [`Writer`] copies records into its worker's own segment of the [`Journal`]: no lock, no system
//! call, no allocation. One thread (`keeper`) brings them to the disk and prepares segments ahead;
//! another (`flush`) moves what is written into a [`Store`] every second, and removes full segments
//! after the commit. At the start (`replay`) whatever a former process left is taken in. The store
//! is a [`Database`] (`usage/`); `query.rs` has what it can be asked, `conformance.rs` what any
//! other would have to do as well.
//!
//! This room must not know HTTP, limits, how a price is made or who asks for the sums. Start with
//! `journal.rs`; the format is in `frame.rs`.

mod codec;
mod flush;
mod frame;
mod journal;
mod keeper;
mod lock;
pub mod objects;
mod query;
mod record;
mod replay;
mod segment;
mod shared;
pub mod sqlite;
mod sums;
mod units;
mod usage;
mod writer;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub use frame::{Room, VERSION};
pub use journal::{FLUSH_DEFAULT, Fsync, Journal, OpenError, RETENTION_DEFAULT, Settings};
pub use query::{
    Cursor, DAY_MS, Filter, Grain, GroupBy, HOUR_MS, OwnedRecord, RecordQuery, SCAN_MAX, Spent,
    SpentQuery, StatusFilter, StoredRecord, TAG_SEPARATOR, TAGS_MAX, UsageKey, UsageQuery,
    UsageRow,
};
pub use record::{
    ATTEMPTS_MAX, Attempt, CANDIDATES_MAX, Candidate, Flags, List, NO_CURRENCY, Open, Record,
    Settle, State,
};
pub use replay::Report;
pub use shared::Stats;
pub use sums::{OTHER, RowKey, RowName, Sums};
pub use units::Units;
pub use usage::{Database, LABEL_ROWS_PER_DAY_MAX, MODELS_PER_KEY_MAX};
pub use writer::{JournalFull, Mark, Slot, SyncFailed, Writer};

use crate::ident::RequestId;

/// Where the journal's records end up. Called by one thread at a time, never by a worker; may be
/// slow, and may fail: the same records then come again.
pub trait Store: Send + Sync + 'static {
    /// How far the journal is taken in, as of the last commit.
    fn covered(&self) -> Result<Covered, StoreError>;

    /// Takes in the batch's records and remembers its positions, both or neither. Records below
    /// the position that is already remembered for their segment are skipped. When this returns
    /// `Ok`, both survive the loss of power.
    fn commit(&self, batch: &Batch<'_>) -> Result<(), StoreError>;

    /// Makes every request that is open unsettled, and names them. Called once at the start, when
    /// all that a former process left is committed.
    fn abandon(&self) -> Result<Vec<Abandoned>, StoreError>;

    /// All sums, in the order of their keys.
    fn rows(&self) -> Result<Vec<(RowKey, Sums)>, StoreError>;

    /// How many settled requests came without their opening: it stood in a damaged part.
    fn orphans(&self) -> Result<u64, StoreError>;

    /// Visits the sums of one grain whose spans begin in `from_unix_ms..to_unix_ms`. Each row is
    /// visited once, with the start of its span. `each` must not ask the store.
    fn visit(
        &self,
        grain: Grain,
        from_unix_ms: u64,
        to_unix_ms: u64,
        each: &mut dyn FnMut(&UsageKey<'_>, u64, &Sums),
    ) -> Result<(), StoreError>;

    /// Sums over a time, in groups, in the order of their values. Exact to the millisecond as long
    /// as the records are kept; what is older goes by whole hours, those that begin within the time.
    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError>;

    /// What was spent between the edges, for each account, project, user, key and model; `each` may
    /// be called several times for one of them and one span, and adds up. Where records are no
    /// longer kept an hour counts for the last span that it touches. `each` must not ask the store.
    fn spent(
        &self,
        query: &SpentQuery,
        each: &mut dyn FnMut(&UsageKey<'_>, &Spent),
    ) -> Result<(), StoreError>;

    /// Gives records until `each` breaks, which ends the call after that record, or until
    /// [`SCAN_MAX`] were looked at. The cursor says where to go on; `None`: there are no more.
    /// `each` must not ask the store.
    fn records(
        &self,
        query: &RecordQuery,
        each: &mut dyn FnMut(&StoredRecord<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Cursor>, StoreError>;

    /// One record, if it is still kept.
    fn record(&self, id: RequestId) -> Result<Option<OwnedRecord>, StoreError>;

    /// Told after each pass that left nothing behind: all that was written to the journal before
    /// this time is taken in.
    fn note_complete(&self, until_unix_ms: u64);

    /// The last of those times; 0 before the first.
    fn complete_until_unix_ms(&self) -> u64;

    /// Remembers the price that records name by this version. The same version is never another
    /// price, so a second time changes nothing.
    fn keep_price(&self, version: u64, json: &str) -> Result<(), StoreError>;

    /// A price that was remembered.
    fn price(&self, version: u64) -> Result<Option<String>, StoreError>;

    /// Forgets the records of requests opened before this time, in whole blocks: some may stay for
    /// a while. Sums stay. Gives how many were forgotten.
    fn trim(&self, before_unix_ms: u64) -> Result<u64, StoreError>;
}

/// A kind of store: what the shared tests run over, and what a setting can name.
pub struct StoreKind {
    pub name: &'static str,
    /// Opens the store that lives in this directory, or makes it.
    pub open: fn(&Path) -> Result<Arc<dyn Store>, StoreError>,
}

/// All kinds of store. One file and one line here add another.
pub const STORES: &[StoreKind] = &[
    StoreKind { name: "memory", open: |_| Ok(Arc::new(Database::in_memory()?)) },
    StoreKind { name: "sqlite", open: |dir| Ok(Arc::new(Database::open(&dir.join("usage.db"))?)) },
];

/// How far each segment has been taken in.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Covered {
    /// No segment had a higher number when this was written. Numbers are never used again.
    pub highest: u64,
    /// The offset reached in each segment that may still exist; no entry: nothing yet.
    pub positions: BTreeMap<u64, u64>,
}

/// Records in the order of their writing within each segment, and the positions after them.
#[derive(Debug)]
pub struct Batch<'a> {
    pub spans: Vec<Span<'a>>,
    /// Replaces what was remembered before.
    pub covered: Covered,
}

/// A run of whole, sound records as they stand in a segment: a batch is not unpacked before the
/// store asks, because that costs more than writing the records did.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The number of the segment.
    pub segment: u64,
    /// The offset of the first record.
    pub start: u64,
    pub bytes: &'a [u8],
}

impl<'a> Span<'a> {
    /// The records one by one, from the first that ends above the offset `reached`.
    pub fn entries(self, reached: u64) -> impl Iterator<Item = Entry<'a>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let frame = frame::split(&self.bytes[at..])?;
            at += frame.len();
            Some(Entry { end: self.start + at as u64, frame })
        })
        .skip_while(move |entry| entry.end <= reached)
    }
}

/// A record, still packed.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The offset after the record.
    pub end: u64,
    /// Its bytes, for a store that wants to keep all of it.
    pub frame: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The request, if this is its opening: found without unpacking.
    pub fn opens(&self) -> Option<RequestId> {
        frame::opens(self.frame)
    }

    /// The record.
    pub fn record(&self) -> Option<Record<'a>> {
        frame::decode(self.frame).ok().map(|(record, _)| record)
    }
}

/// A request that a former process opened and never settled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Abandoned {
    pub id: RequestId,
    /// When it was opened.
    pub time_unix_ms: u64,
    pub key: String,
    pub model: String,
    pub reserved_tokens: u64,
}

/// Why a store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, or the way to the store.
    #[error("{path}: {cause}")]
    Io { path: String, cause: std::io::Error },
    /// What is stored cannot be read. Never treated as empty: that would lose the books.
    #[error(
        "{path} is damaged ({what}); restore it from a backup, or move it away to start from zero"
    )]
    Damaged { path: String, what: &'static str },
    /// The question is too large to be answered.
    #[error("{what}; ask for a shorter time, or for fewer groups")]
    TooMuch { what: &'static str },
    /// Written by a later version of this program.
    #[error("{path} was written by a newer version (format {version}); start that version again")]
    Newer { path: String, version: u16 },
}

//! # store: what must not be lost
//!
//! In: an [`Open`] when a request is let in and a [`Settle`] when it has ended, from the worker that
//! serves it. Out: sums per key, model and target that are exact after any end of the process.
//!
//! A [`Writer`] copies records into its worker's own segment of the [`Journal`]: no lock, no system
//! call, no allocation. One thread (`keeper`) brings them to the disk and prepares segments ahead;
//! another (`flush`) moves full segments into a [`Store`] and removes them after the commit. At the
//! start (`replay`) whatever a former process left is taken in.
//!
//! This room must not know HTTP, prices, limits or who asks for the sums. Start with `journal.rs`;
//! the format is in `frame.rs`.

mod books;
mod codec;
mod flush;
mod frame;
mod journal;
mod keeper;
mod lock;
mod record;
mod replay;
mod segment;
mod shared;
pub mod sqlite;
mod totals;
mod units;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub use books::{OTHER, ROWS_MAX, RowKey, RowName, Sums};
pub use frame::{Room, VERSION};
pub use journal::{Fsync, Journal, OpenError, Settings};
pub use record::{
    ATTEMPTS_MAX, Attempt, CANDIDATES_MAX, Candidate, Flags, List, Open, Record, Settle, State,
};
pub use replay::Report;
pub use shared::Stats;
pub use totals::Totals;
pub use units::Units;
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
}

/// A kind of store: what the shared tests run over, and what a setting can name.
pub struct StoreKind {
    pub name: &'static str,
    /// Opens the store that lives in this directory, or makes it.
    pub open: fn(&Path) -> Result<Arc<dyn Store>, StoreError>,
}

/// All kinds of store. One file and one line here add another.
pub const STORES: &[StoreKind] = &[
    StoreKind { name: "memory", open: |_| Ok(Arc::new(Totals::in_memory())) },
    StoreKind { name: "file", open: |dir| Ok(Arc::new(Totals::open(&dir.join("totals"))?)) },
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
    /// Written by a later version of this program.
    #[error("{path} was written by a newer version (format {version}); start that version again")]
    Newer { path: String, version: u16 },
}

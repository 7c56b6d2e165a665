//! # meter: what each request used
//!
//! In: a [`Opening`] when a request is let in, then what happens to it. Out: an [`Entry`] that is
//! settled exactly once, whatever ends the request: in the journal, in the statistics, and as the
//! mark that the last bytes of the answer may have to wait for.
//!
//! Integers only. This room must not know HTTP, prices, limits, or what an upstream's usage looks
//! like. Start with `record.rs`; `counters.rs` are the statistics, `estimate.rs` what is learned
//! about models for the sake of reservations.

mod counters;
mod estimate;
mod record;

pub use counters::{Amounts, Counters, Shard};
pub use estimate::{Estimates, ModelEstimate};
pub use record::{AttemptRecord, End, Entry, Meter, Opening, Priced};

// What the rooms above use of the store, which they do not import.
pub use crate::store::{
    ATTEMPTS_MAX, CANDIDATES_MAX, Candidate, Flags, JournalFull, Mark, OTHER, Room, RowKey, State,
    Sums, SyncFailed, Units, Writer,
};

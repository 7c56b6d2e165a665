//! # usage: the books in SQLite
//!
//! In: batches of the journal's records. Out: the records themselves, and sums by hour, by day and
//! in total for each account, project, user, key, model and target. All that a batch changes is one
//! transaction together with the positions it goes up to, so a batch that comes twice counts once.
//!
//! A row for each request would cost more than serving it: records are kept packed, many in a row
//! (`usage_block`), just as they stood in the journal, and read by time. Rows of sums are few.
//! `tally.rs` makes out what a batch changes, without a database; `commit.rs` writes that;
//! `sums.rs`, `spent.rs` and `records.rs` read. Start with `schema.rs`.
//!
//! This room must not know the journal's files, prices, limits or who asks.

mod commit;
mod database;
mod groups;
mod names;
mod records;
mod rows;
mod schema;
mod spent;
mod sums;
mod tally;

#[cfg(test)]
mod tests;

pub use commit::{LABEL_ROWS_PER_DAY_MAX, MODELS_PER_KEY_MAX};
pub use database::Database;

use crate::store::StoreError;
use crate::store::sqlite;

/// What SQLite says of the database of this name.
type Fault<'a> = &'a dyn Fn(rusqlite::Error) -> StoreError;

/// Turns SQLite's errors into the store's, with the name of the database.
fn fault_of(name: &str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |cause| sqlite::fault(name, cause)
}

/// What is stored contradicts itself.
fn damaged(name: &str, what: &'static str) -> StoreError {
    StoreError::Damaged { path: name.to_owned(), what }
}

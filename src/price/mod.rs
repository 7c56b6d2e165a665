//! # price: what a unit costs
//!
//! In: price entries (from a configuration, the administrative API, or an imported price map) and
//! what a request used. Out: its cost in pico-units, exact, or `None` where a unit has no price;
//! the most that a request can cost; and the conversion of a cost into another currency.
//!
//! Integers only, and decimal text at the edges. This room must not know who pays, what a limit is,
//! or what an upstream's usage looks like. Start with `entry.rs`; `prices.rs` says which price is
//! taken where a unit has none of its own, `book.rs` which entry is valid for a model at a time.

mod book;
mod entry;
mod json;
pub mod litellm;
mod prices;
mod rates;

#[cfg(test)]
mod list_tests;

pub use book::{Book, PriceList};
pub use entry::{Ceiling, Entry, LongContext, Tier};
pub use json::{FieldFault, KEYS as ENTRY_KEYS};
pub use prices::Prices;
pub use rates::{RateRow, Rates, convert};

//! From the model name asked to candidates in order.
//!
//! In: a model name, what is known of the targets, a random source. Out: which to ask first,
//! second, third. Knows no HTTP and no sockets. Open `table.rs` first; each policy is a file in
//! `policy/` and a line in `POLICIES`.

pub mod policy;
mod table;

pub use policy::{MAX_PICKS, Order, POLICIES, Policy, View};
pub use table::{Candidate, Route, Table, TableFault, Target};

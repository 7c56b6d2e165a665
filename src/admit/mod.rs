//! # admit: may this request go on now?
//!
//! In: who asks (scopes of one account) and for how much. Out: a [`Permit`] that holds the
//! reservation, or a [`Refusal`] that says which limit of which scope has no room. The permit is
//! extended while a stream grows, settled with what was really used, and gives everything back when
//! it is dropped.
//!
//! This room must not know HTTP, models' prices or how usage is read. Start with `cell.rs`, which
//! holds all limits of one account behind one lock; `shed.rs` is the process's own protection.

mod cell;
mod limits;
mod permit;
mod shed;

pub use cell::{AccountCell, Accounts, Figures, ScopeNames, Scopes, admit};
pub use limits::{LimitKind, Limits, Refusal, Scope, ScopeKind};
pub use permit::{Ask, Permit};
pub use shed::{Budget, Taken};

//! # admit: may this request go on now?
//!
//! In: who asks (the scopes of one account) and for how much. Out: a [`Permit`] that holds the
//! reservation, or a [`Refusal`] that says which limit of which scope has no room and when it will.
//! The permit is extended while a stream grows, settled with what was really used, and gives
//! everything back when it is dropped. Who is refused may wait for its turn.
//!
//! This room must not know HTTP, models' prices or how usage is read. Start with `cell.rs`, which
//! holds all limits of one account behind one lock. What is behind it: `books.rs` takes from all
//! scopes or from none, `slot.rs` is one scope, `window.rs` counts a sliding minute or day, and
//! `budget.rs` with `calendar.rs` counts money. `queue.rs` is the fair waiting; `shed.rs` is the
//! process's own protection.

mod books;
mod budget;
mod calendar;
mod cell;
mod line;
mod permit;
mod queue;
mod refusal;
mod scope;
mod shed;
mod slot;
mod state;
mod sweep;
mod terms;
mod window;

#[cfg(test)]
mod case_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod tests;

pub use crate::limits::{BudgetLimit, LimitSet, Limits, Overrun, Period};
pub use calendar::bounds as period_bounds;
pub use cell::{AccountCell, Accounts, Scopes, admit};
pub use line::InLine;
pub use permit::{Alert, Alerts, Extended, Permit};
pub use queue::Waiting;
pub use refusal::{LimitKind, Refusal};
pub use scope::{Scope, ScopeKind, ScopeNames};
pub use shed::{Budget, Share, Taken};
pub use state::{BudgetFigures, Figures, ScopeState, Spent, Use};
pub use terms::{Actual, Ask, QueueSettings, Rate, Rates, Terms};

//! What is known of targets and credentials: how many requests they hold, when they failed, how
//! soon they speak.
//!
//! In: durations and outcomes. Out: whether a candidate should be preferred. Knows no HTTP, no
//! model names, no sockets. Open `target.rs` first.

mod credential;
mod target;

pub use credential::CredentialState;
pub use target::{Sample, Standing, TargetState, TtftSummary};

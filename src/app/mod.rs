//! Puts the rooms together: settings into tables, tables into workers, and the life of the process.
//!
//! Open `run.rs` first: start, reload, drain.

mod audit;
mod books;
mod build;
mod control;
mod descriptors;
mod governance;
mod handler;
mod reports;
mod restore;
mod run;
mod slow;
mod verify;
mod worker;

pub use build::BuildFault;
pub use descriptors::raise_limit;
pub use run::{Options, Running, StartFault, Stop, start};
pub use verify::{Trouble, verify};

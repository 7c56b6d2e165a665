//! What an operator sees: counters for Prometheus, one log line per request, and the process log.
//!
//! Numbers and short names come in, text goes out. Knows no HTTP, no keys' secrets and no prompts: what
//! is not passed in cannot leak. Nothing here may hold up a request: counters are a worker's own, log
//! lines are dropped (and counted) before they wait.
//!
//! Open `metrics.rs` first (what is counted, and where), then `access.rs` (the line of a request, with its
//! one writer thread in `writer.rs`); `encode.rs` prints what was counted, `process.rs` reads the kernel's
//! view of this process.

pub mod access;
pub mod encode;
mod json;
pub mod log;
pub mod metrics;
mod process;
mod writer;

pub use access::{Destination, Lane, Line};
pub use encode::Gauges;
pub use metrics::{Inflight, Record, Registry, Series, Shard, TargetSeries, TokenKind};
pub use writer::AccessLog;

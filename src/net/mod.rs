//! Sockets as the workers use them: plain or TLS, a timer that costs nothing while it is only
//! moved ahead, and one read buffer per thread.
//!
//! In: connected sockets. Out: bytes. Knows no HTTP. Open `io.rs` first.

mod io;
mod timer;

pub use io::{Io, Replayed, SCRATCH_BYTES, with_scratch};
pub use timer::LazyTimer;

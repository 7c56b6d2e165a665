//! The caller's side: sockets, TLS, HTTP/1.1 and HTTP/2, and their limits.
//!
//! In: addresses to listen on. Out: requests, handed to a [`Handler`] on the worker that owns the
//! connection. Knows no models, keys or upstreams. Open `connection.rs` first.

mod accept;
mod connection;
mod drain;
mod h1;
mod h1_down;
mod h2;
mod tls;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::error::Error;
use crate::exchange::Downstream;
use crate::net::LazyTimer;
use crate::wire::{HeadLimits, RequestHead};

pub use accept::{Accepted, Acceptor, WorkerPort, bind};
pub use connection::serve_connection;
pub use drain::{Drain, OpenGuard};
pub use tls::{CertificateFault, CertificatePair, ServerTls};

/// Limits and times of the caller's side.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub head: HeadLimits,
    /// Connections of the whole process.
    pub connections: usize,
    /// Concurrent HTTP/2 streams per connection.
    pub streams_per_connection: u32,
    /// From the first byte of a head to its last.
    pub header: Duration,
    /// Between requests of a connection.
    pub idle: Duration,
    /// How long the caller may take nothing of what is written.
    pub write: Duration,
    pub tls_handshake: Duration,
}

/// What is done with a request.
pub trait Handler: 'static {
    /// Answers one request through `down`. Returning without having ended the answer, or panicking,
    /// breaks the answer off.
    fn serve<D: Downstream>(
        &self,
        head: &RequestHead,
        down: &mut D,
        timer: &mut LazyTimer,
    ) -> impl Future<Output = ()>;

    /// Answers a request that could not be read. The connection is closed after it.
    fn refuse<D: Downstream>(&self, error: Error, down: &mut D) -> impl Future<Output = ()>;
}

/// How much a worker carries: connections, and streams on them. Read when a connection is handed
/// out.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct Load {
    pub connections: AtomicUsize,
    pub streams: AtomicUsize,
}

/// The load of every worker.
pub type Loads = Arc<[Load]>;

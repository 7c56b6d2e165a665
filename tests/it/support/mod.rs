//! What the tests share: a gateway in this process, upstreams, callers, and bounded waiting.
//!
//! * `gateway.rs`: [`Setup`] writes a configuration and starts a [`Gateway`] with it.
//! * `process.rs`: the built binary as a child process.
//! * `upstream.rs`: [`SimServer`], and [`Scripted`] upstreams that say exactly the bytes given.
//! * `client.rs`: HTTP/1.1 callers; `h2.rs`: HTTP/2 callers; `frames.rs`: HTTP/2 frame by frame.
//! * `tls.rs`: certificates made on the spot, and TLS callers.
//!
//! Not every test binary or topic uses every tool.
#![allow(dead_code, unused_imports)]

pub mod client;
pub mod frames;
pub mod gateway;
pub mod h2;
pub mod process;
pub mod tls;
pub mod upstream;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub use client::{Answer, Raw, chat, get, post, request};
pub use gateway::{ADMIN_TOKEN, Gateway, KEY, Setup, UPSTREAM_KEY};
pub use h2::H2;
pub use upstream::{Peer, Received, Scripted, SimServer};

/// After this long something hangs, and the test fails.
pub const WAIT: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; fails the test when it does not within [`WAIT`].
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + WAIT;
    while !condition() {
        assert!(Instant::now() < end, "did not come to pass within {WAIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// The runtime of simulated providers and HTTP/2 callers, on a thread of its own. Tests may
/// `block_on` it; it is driven all the time.
pub fn runtime() -> &'static tokio::runtime::Handle {
    static HANDLE: LazyLock<tokio::runtime::Handle> = LazyLock::new(|| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    });
    &HANDLE
}

/// Runs a future to its end, but not longer than [`WAIT`].
#[track_caller]
pub fn block_on<T>(what: &str, future: impl Future<Output = T>) -> T {
    match runtime().block_on(async { tokio::time::timeout(WAIT, future).await }) {
        Ok(value) => value,
        Err(_) => panic!("did not come to pass within {WAIT:?}: {what}"),
    }
}

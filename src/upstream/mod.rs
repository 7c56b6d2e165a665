//! Connections to upstreams: origins, warm pools per worker, and one exchange over HTTP/1.1 or
//! HTTP/2. TLS by rustls.
//!
//! In: an origin and a prepared request. Out: head and body bytes of the answer. Knows no models,
//! keys or prices. Open `exchange.rs` first, then `pool.rs`.

mod connect;
mod exchange;
mod h1;
mod h2;
mod origin;
mod pool;
mod tls;

pub use exchange::{Conn, DataEvent, Exchange, Outgoing};
pub use origin::{Credential, Origin, OriginSettings, PoolSettings, Protocol};
pub use pool::{Acquire, Pools};
pub use tls::{TlsFault, client_config};

//! One dial: name, TCP to the first address that answers, TLS, and the HTTP/2 handshake, all under
//! one deadline.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::error::{Error, Kind};
use crate::net::Io;
use crate::upstream::Protocol;
use crate::upstream::origin::Origin;

/// Pause before the next address is tried beside the one that has not answered yet (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// A connected socket and whether HTTP/2 is to be spoken on it.
pub(super) struct Dialled {
    pub io: Io,
    pub h2: bool,
}

/// Connects to `origin`, within its `connect` limit. Dropping the future abandons the dial.
///
/// # Errors
/// `Connect`, with the cause.
pub(super) async fn dial(origin: Arc<Origin>) -> Result<Dialled, Error> {
    origin.dials.fetch_add(1, Relaxed);
    let limit = origin.settings.connect;
    let outcome = match tokio::time::timeout(limit, dial_unbounded(&origin)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed(format!("no connection within {limit:?}"))),
    };
    if outcome.is_err() {
        origin.dial_failures.fetch_add(1, Relaxed);
    }
    outcome
}

pub(super) fn failed(cause: impl std::fmt::Display) -> Error {
    Error::upstream(Kind::Connect, "the upstream could not be reached").because(cause).unprocessed()
}

async fn dial_unbounded(origin: &Origin) -> Result<Dialled, Error> {
    let addresses = origin.resolve().await?;
    let tcp = connect_any(&addresses).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    // A peer that vanished without a word is noticed by the kernel.
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    let _ = socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
    let Some(config) = &origin.tls else {
        return Ok(Dialled { io: Io::Tcp(tcp), h2: origin.settings.protocol == Protocol::H2 });
    };
    let name = origin.settings.server_name.as_ref().unwrap_or(&origin.settings.host);
    let name = ServerName::try_from(name.clone()).map_err(failed)?;
    let tls = tokio_rustls::TlsConnector::from(config.clone()).connect(name, tcp).await;
    let tls = tls.map_err(|e| failed(format!("TLS: {e}")))?;
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    if !h2 && origin.settings.protocol == Protocol::H2 {
        return Err(failed("the upstream does not speak HTTP/2; set protocol = \"auto\""));
    }
    Ok(Dialled { io: Io::Client(Box::new(tls)), h2 })
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// Happy eyeballs: the next address joins after a pause, or at once when an earlier one failed.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut rest = addresses.iter().copied();
    let mut running: Vec<Connecting> = Vec::new();
    let mut last = io::Error::other("no address");
    loop {
        match rest.next() {
            Some(address) => running.push(Box::pin(TcpStream::connect(address))),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        let more = rest.len() > 0;
        let first = poll_fn(|cx| {
            for at in 0..running.len() {
                if let Poll::Ready(outcome) = running[at].as_mut().poll(cx) {
                    drop(running.swap_remove(at));
                    return Poll::Ready(outcome);
                }
            }
            Poll::Pending
        });
        let outcome = if more {
            match tokio::time::timeout(STAGGER, first).await {
                Ok(outcome) => outcome,
                Err(_) => continue,
            }
        } else {
            first.await
        };
        match outcome {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
            .block_on(future)
    }

    #[test]
    fn a_dead_address_does_not_keep_a_living_one_from_being_used() {
        block_on(async {
            let living = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let living = living.local_addr().map(|a| (a, living)).expect("address");
            let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let dead_address = dead.local_addr().expect("address");
            drop(dead);
            let tcp = connect_any(&[dead_address, living.0]).await.expect("connected");
            assert_eq!(tcp.peer_addr().expect("peer"), living.0);
            assert!(connect_any(&[dead_address]).await.is_err());
        });
    }
}

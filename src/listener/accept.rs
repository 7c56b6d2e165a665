//! Accepting: one thread takes connections and hands each to the worker that carries the least.
//! A connection never moves again.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::clock;
use crate::listener::{Loads, ServerTls};

const BACKLOG: i32 = 4096;
/// Connections taken before other tasks of the thread get their turn.
const BATCH: usize = 64;
/// Pause when the process is out of file descriptors, doubling up to the other.
const BACKOFF: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
content-length: 140\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
{\"error\":{\"message\":\"too many connections are open; try again shortly\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\",\"status\":503}}";

/// A connection on its way to a worker.
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub tls: Option<Arc<ServerTls>>,
}

/// Where to hand connections for one worker.
pub type WorkerPort = mpsc::UnboundedSender<Accepted>;

/// Opens a listening socket. An address with `[::]` also takes IPv4 callers.
///
/// # Errors
/// Those of the system, such as an address in use.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes connections from one socket.
pub struct Acceptor {
    pub listener: TcpListener,
    pub tls: Option<Arc<ServerTls>>,
    pub workers: Vec<WorkerPort>,
    pub loads: Loads,
    pub max_connections: usize,
}

impl Acceptor {
    /// Accepts until the future is dropped; the socket is closed then, after everything that had
    /// been queued in it was handed out.
    ///
    /// # Errors
    /// Only if the socket cannot be watched at all.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        // SAFETY: a `TcpListener` keeps the descriptor that it was made with until it is dropped.
        let socket = unsafe { AsyncFd::register(self.listener.try_clone()?) }?;
        let mut backoff = BACKOFF;
        let accepting = async {
            loop {
                let mut ready = match socket.readable().await {
                    Ok(ready) => ready,
                    Err(error) => return Err(error),
                };
                match self.take_batch() {
                    Ok(true) => tokio::task::yield_now().await,
                    Ok(false) => {
                        ready.clear_ready();
                        backoff = BACKOFF;
                    }
                    Err(error) => {
                        // Out of descriptors or memory: accepting again at once would only spin.
                        tracing::warn!(%error, "cannot accept connections");
                        tokio::time::sleep(backoff).await;
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                }
            }
        };
        tokio::select! {
            outcome = accepting => outcome,
            () = stop => {
                while let Ok(true) = self.take_batch() {}
                Ok(())
            }
        }
    }

    /// Whether the batch was full, so that more may wait.
    fn take_batch(&self) -> io::Result<bool> {
        for _ in 0..BATCH {
            match self.listener.accept() {
                Ok((stream, peer)) => self.hand_out(stream, peer),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(false),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    fn hand_out(&self, stream: TcpStream, peer: SocketAddr) {
        let open: usize = self.loads.iter().map(|l| l.connections.load(Relaxed)).sum();
        if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
            return;
        }
        if open >= self.max_connections {
            if self.tls.is_none() {
                let _ = (&stream).write(FULL);
            }
            return;
        }
        // An idle fat connection weighs little, a stream much; the connection count breaks ties.
        let least = (0..self.workers.len()).min_by_key(|&at| {
            let load = &self.loads[at];
            (load.streams.load(Relaxed), load.connections.load(Relaxed))
        });
        let Some(at) = least else { return };
        // Counted here, so that a burst is spread before the workers have seen any of it.
        self.loads[at].connections.fetch_add(1, Relaxed);
        let accepted = Accepted { stream, peer, tls: self.tls.clone() };
        if self.workers[at].send(accepted).is_err() {
            self.loads[at].connections.fetch_sub(1, Relaxed);
            tracing::error!(worker = at, at_ms = clock::unix_ms(), "a worker is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canned_refusal_has_the_length_it_says() {
        let text = std::str::from_utf8(FULL).expect("ascii");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}

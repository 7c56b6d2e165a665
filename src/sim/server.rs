//! Sockets: accept, tell HTTP/1, HTTP/2 and TLS apart by their first bytes, serve, stop.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::clock;
use crate::sim::behaviour::{Behaviour, Change};
use crate::sim::books::Page;
use crate::sim::service::serve;
use crate::sim::settings::Settings;
use crate::sim::state::{Received, Shared, Stats, count};
use crate::sim::wire::{Connection, Opening, Wire};

const CONNECTIONS_MAX: u64 = 65_536;
/// A peer may open a connection long before it needs it, but not for ever.
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(3600);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
const DARK_CHECK: Duration = Duration::from_millis(20);

/// A running simulated provider. Dropping it stops it too, without waiting.
pub struct Sim {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<Infallible>>,
    accepting: JoinHandle<()>,
}

/// Binds and starts serving on the current tokio runtime (any flavour, with I/O and time enabled).
/// Fails when the address cannot be bound.
pub async fn start(settings: Settings) -> io::Result<Sim> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(settings.listen),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&settings.listen.into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from_std(socket.into())?;
    let addr = listener.local_addr()?;
    let shared = Arc::new(Shared::new(settings));
    let (stop, stopped) = oneshot::channel();
    let accepting = tokio::spawn(accept(listener, shared.clone(), stopped));
    Ok(Sim { addr, shared, stop: Some(stop), accepting })
}

impl Sim {
    /// The counters now.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// What was told as usage, by model, user and key.
    pub fn books(&self) -> Vec<Page> {
        self.shared.books().pages()
    }

    /// The last `last` requests as they were received, oldest first.
    pub fn received(&self, last: usize) -> Vec<Received> {
        self.shared.received(last)
    }

    /// Merges `change` into the behaviour, or says why it is no good.
    pub fn set_behaviour(&self, change: &Change) -> Result<(), String> {
        change_behaviour(&self.shared, change).map(|_| ())
    }

    /// Ends all connections gracefully: requests finish, HTTP/2 peers get a GOAWAY.
    pub fn goaway(&self) {
        self.shared.goaway.send_modify(|number| *number += 1);
    }

    /// Counters, log and behaviour as at the start.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Stops listening and closes all connections at once.
    pub async fn shutdown(mut self) {
        self.stop = None;
        // An error means that the accept task panicked: it serves no more either way.
        let _ = (&mut self.accepting).await;
    }
}

/// Merges `change` into the behaviour of `shared`.
pub(super) fn change_behaviour(shared: &Shared, change: &Change) -> Result<Behaviour, String> {
    let next = shared.behaviour().merged(change, clock::instant())?;
    shared.set_behaviour(next.clone());
    Ok(next)
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<Infallible>,
) {
    // Dropping the set at the end aborts what is left in it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if shared.counters.open_connections.load(Ordering::Relaxed) < CONNECTIONS_MAX {
                        let open = Open::new(shared.clone());
                        connections.spawn(connection(stream, open));
                    }
                }
                // Out of file descriptors, mostly: trying at once would only spin.
                Err(_) => sleep(ACCEPT_BACKOFF).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

/// Counts a connection as open until it is dropped.
struct Open {
    shared: Arc<Shared>,
    id: u64,
}

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        count(&shared.counters.open_connections);
        count(&shared.counters.connections);
        let id = shared.next_connection();
        Open { shared, id }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.counters.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(stream: TcpStream, open: Open) {
    let shared = &open.shared;
    // Without it a token would wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(stream);
    let reset = wire.reset_switch();
    let Ok(Ok(opening)) = timeout(FIRST_BYTE_LIMIT, wire.look()).await else { return };
    let known = |tls, h2| Arc::new(Connection { id: open.id, tls, h2, reset: reset.clone() });
    match opening {
        Opening::Nothing => {}
        // Also in a black hole: `/sim/…` must be reachable. The requests themselves stay unanswered.
        Opening::Http1 => serve_http1(wire, shared, known(false, false)).await,
        Opening::Http2 if shared.settings.h2 => {
            wait_for_light(shared).await;
            serve_http2(wire, shared, known(false, true)).await;
        }
        Opening::Http2 => {}
        Opening::Tls => {
            wait_for_light(shared).await;
            let Some(tls) = shared.settings.tls.clone() else { return };
            let handshake = TlsAcceptor::from(tls).accept(wire);
            let Ok(Ok(stream)) = timeout(HANDSHAKE_LIMIT, handshake).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                serve_http2(stream, shared, known(true, true)).await;
            } else {
                serve_http1(stream, shared, known(true, false)).await;
            }
        }
    }
}

/// Returns when no black hole is on (any more).
async fn wait_for_light(shared: &Shared) {
    while shared.behaviour().dark(clock::instant()) {
        sleep(DARK_CHECK).await;
    }
}

async fn serve_http1<S>(stream: S, shared: &Arc<Shared>, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut goaway = shared.goaway.subscribe();
    let service = service_fn(|request| serve(shared.clone(), connection.clone(), request));
    let mut http = http1::Builder::new();
    // No limit on the head: it would also end idle connections, and warm ones are the point here.
    http.timer(TokioTimer::new()).header_read_timeout(None);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    loop {
        // How a connection ends is the peer's business; cancels are noticed by the exchanges.
        tokio::select! {
            _ = serving.as_mut() => return,
            _ = goaway.changed() => serving.as_mut().graceful_shutdown(),
        }
    }
}

async fn serve_http2<S>(stream: S, shared: &Arc<Shared>, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut goaway = shared.goaway.subscribe();
    let owned = shared.clone();
    let service = service_fn(move |request| serve(owned.clone(), connection.clone(), request));
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(shared.settings.max_streams)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    loop {
        tokio::select! {
            _ = serving.as_mut() => return,
            _ = goaway.changed() => serving.as_mut().graceful_shutdown(),
        }
    }
}

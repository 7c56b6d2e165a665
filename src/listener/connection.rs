//! One connection from its first byte to its last: TLS, then whichever protocol is spoken.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::listener::h1::{self, End};
use crate::listener::{Accepted, Drain, Handler, Loads, Settings, h2};
use crate::net::{Io, Replayed};

/// What a connection needs to know.
pub(super) struct Context<H> {
    pub handler: Rc<H>,
    pub settings: Rc<Settings>,
    pub drain: Rc<Drain>,
    pub loads: Loads,
    pub worker: usize,
    pub peer: SocketAddr,
}

/// Serves a connection to its end, on the worker that owns it. Dropping the future cuts it.
pub async fn serve_connection<H: Handler>(
    accepted: Accepted,
    handler: Rc<H>,
    settings: Rc<Settings>,
    drain: Rc<Drain>,
    loads: Loads,
    worker: usize,
) {
    let _open = drain.open();
    let _load = LoadGuard(loads.clone(), worker);
    let Ok(tcp) = TcpStream::from_std(accepted.stream) else { return };
    // A caller who vanished without a word is noticed by the kernel.
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let _ = socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
    let context = Context { handler, settings, drain, loads, worker, peer: accepted.peer };
    match accepted.tls {
        None => serve_h1_or_h2(Io::Tcp(tcp), context).await,
        Some(tls) => {
            let acceptor = tokio_rustls::TlsAcceptor::from(tls.config.clone());
            let limit = context.settings.tls_handshake;
            // A failed or slow handshake is the caller's affair: there is nobody to answer to.
            let Ok(Ok(stream)) = tokio::time::timeout(limit, acceptor.accept(tcp)).await else {
                return;
            };
            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let io = Io::Server(Box::new(stream));
            if is_h2 {
                h2::serve(Replayed::new(io, Vec::new()), context).await;
            } else {
                serve_h1_or_h2(io, context).await;
            }
        }
    }
}

/// The first bytes tell: HTTP/2 by prior knowledge starts with its preface.
async fn serve_h1_or_h2<H: Handler>(io: Io, context: Context<H>) {
    match h1::serve(io, &context).await {
        End::Closed => {}
        End::Preface(io, first) => h2::serve(Replayed::new(io, first), context).await,
    }
}

struct LoadGuard(Loads, usize);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0[self.1].connections.fetch_sub(1, Relaxed);
    }
}

/// Counts a stream while it lasts.
pub(super) struct StreamGuard<'a>(&'a Loads, usize);

impl<'a> StreamGuard<'a> {
    pub(super) fn new(loads: &'a Loads, worker: usize) -> Self {
        loads[worker].streams.fetch_add(1, Relaxed);
        StreamGuard(loads, worker)
    }
}

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        self.0[self.1].streams.fetch_sub(1, Relaxed);
    }
}

/// Reads and throws away what the caller still sends, so that our last words reach it: closing
/// with unread bytes would send a reset that overtakes them. Bounded in bytes and time.
pub(super) async fn linger(mut io: Io, max_bytes: usize, max_time: Duration) {
    let mut left = max_bytes;
    let reading = async {
        let shut =
            poll_fn(|cx| tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut io), cx));
        if shut.await.is_err() {
            return;
        }
        poll_fn(|cx| {
            loop {
                let outcome = crate::net::with_scratch(|scratch| io.poll_read(cx, scratch));
                match outcome {
                    Poll::Ready(Ok(read)) if read > 0 && read < left => left -= read,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    };
    let _ = tokio::time::timeout(max_time, reading).await;
}

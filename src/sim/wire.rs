//! The byte stream under a connection: it can be looked into before HTTP begins, and reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How every cleartext HTTP/2 connection begins (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TLS_HANDSHAKE: u8 = 0x16;

/// What the first bytes are the beginning of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    Http1,
    Http2,
    Tls,
    /// The peer closed without a byte.
    Nothing,
}

/// What is known of one connection.
pub(super) struct Connection {
    /// From 1.
    pub(super) id: u64,
    pub(super) tls: bool,
    pub(super) h2: bool,
    /// The socket is to be reset, not closed. Set by the task that owns the socket, before it
    /// drops it; the order needs no more than that.
    pub(super) reset: Arc<AtomicBool>,
}

/// A TCP stream whose first bytes can be read twice.
pub(super) struct Wire {
    stream: TcpStream,
    first: [u8; PREFACE.len()],
    first_len: usize,
    first_read: usize,
    reset: Arc<AtomicBool>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        let reset = Arc::default();
        Wire { stream, first: [0; PREFACE.len()], first_len: 0, first_read: 0, reset }
    }

    /// The switch that turns the close of this stream into a reset.
    pub(super) fn reset_switch(&self) -> Arc<AtomicBool> {
        self.reset.clone()
    }

    /// Reads until the kind of the connection is certain: at most 24 bytes, and for HTTP/1 two.
    /// Cancel-safe: what was read stays to be read again.
    pub(super) async fn look(&mut self) -> io::Result<Opening> {
        loop {
            let seen = &self.first[..self.first_len];
            if seen.first() == Some(&TLS_HANDSHAKE) {
                return Ok(Opening::Tls);
            }
            if seen != &PREFACE[..seen.len()] {
                return Ok(Opening::Http1);
            }
            if seen.len() == PREFACE.len() {
                return Ok(Opening::Http2);
            }
            match self.stream.read(&mut self.first[self.first_len..]).await? {
                0 if self.first_len == 0 => return Ok(Opening::Nothing),
                // An unfinished preface: the HTTP/1 parser gives the right error.
                0 => return Ok(Opening::Http1),
                len => self.first_len += len,
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // With a linger of zero the kernel sends RST instead of FIN. If the call fails the
            // peer sees an early close, which is as close as one can get.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let again = &this.first[this.first_read..this.first_len];
        if again.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let len = again.len().min(buf.remaining());
        buf.put_slice(&again[..len]);
        this.first_read += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

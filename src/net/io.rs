//! A socket, in clear or in TLS, on either side.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// The size of the read buffer of a thread: what a relay reads at a time, and thus all that a slow
/// reader can leave in memory.
pub const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// Lends the thread's read buffer. An idle connection thus needs no buffer of its own; what is not
/// used up at once must be copied out before returning. Not to be nested.
pub fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|buf| f(buf))
}

/// A connected socket.
pub enum Io {
    Tcp(TcpStream),
    /// TLS towards an upstream.
    Client(Box<client::TlsStream<TcpStream>>),
    /// TLS towards a caller.
    Server(Box<server::TlsStream<TcpStream>>),
}

impl Io {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Io::Tcp(tcp) => tcp,
            Io::Client(tls) => tls.get_ref().0,
            Io::Server(tls) => tls.get_ref().0,
        }
    }

    /// Whether the bytes are encrypted.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Io::Tcp(_))
    }

    /// Reads what is there; 0 is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(AsyncRead::poll_read(Pin::new(self), cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Reads into the spare capacity of `buf`, at most `max` bytes; 0 is the end.
    pub fn poll_read_vec(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let start = buf.len();
        let spare = buf.spare_capacity_mut();
        let room = spare.len().min(max);
        let mut into = ReadBuf::uninit(&mut spare[..room]);
        ready!(AsyncRead::poll_read(Pin::new(self), cx, &mut into))?;
        let read = into.filled().len();
        // SAFETY: the first `read` bytes of the spare capacity have just been filled.
        unsafe { buf.set_len(start + read) };
        Poll::Ready(Ok(read))
    }

    /// Writes some of the slices.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match AsyncWrite::poll_write_vectored(Pin::new(self), cx, slices) {
            Poll::Ready(Ok(0)) if slices.iter().any(|s| !s.is_empty()) => {
                Poll::Ready(Err(io::ErrorKind::WriteZero.into()))
            }
            other => other,
        }
    }

    /// Whether bytes (or the end) wait to be read, without a system call when nothing came.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        self.tcp().poll_read_ready(cx).is_ready()
    }

    /// Ends the connection with a reset instead of waiting for the peer to read.
    pub fn reset_on_close(&self) {
        let _ = socket2::SockRef::from(self.tcp()).set_linger(Some(std::time::Duration::ZERO));
    }
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Io::Tcp($io) => $call,
            Io::Client($io) => $call,
            Io::Server($io) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

/// A socket from which some bytes have been read already to find out the protocol.
pub struct Replayed {
    io: Io,
    first: Vec<u8>,
    at: usize,
}

impl Replayed {
    /// `first` is read again before the socket.
    pub fn new(io: Io, first: Vec<u8>) -> Self {
        Replayed { io, first, at: 0 }
    }
}

impl AsyncRead for Replayed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.at < this.first.len() {
            let take = buf.remaining().min(this.first.len() - this.at);
            buf.put_slice(&this.first[this.at..this.at + take]);
            this.at += take;
            if this.at == this.first.len() {
                this.first = Vec::new();
                this.at = 0;
            }
            return Poll::Ready(Ok(()));
        }
        AsyncRead::poll_read(Pin::new(&mut this.io), cx, buf)
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.get_mut().io), cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(Pin::new(&mut self.get_mut().io), cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

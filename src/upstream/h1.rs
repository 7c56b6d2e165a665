//! HTTP/1.1 towards an upstream: one connection, one exchange at a time, no task of its own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::AsyncWrite;

use crate::clock;
use crate::error::{Error, Kind};
use crate::net::{Io, with_scratch};
use crate::upstream::connect;
use crate::upstream::exchange::{DataEvent, Outgoing, write_request_head};
use crate::upstream::origin::Origin;
use crate::upstream::pool::Pool;
use crate::wire::{BodyFraming, Chunked, HeadLimits, ResponseHead, parse_response};

/// Bounds of an answer's head.
const HEAD: HeadLimits = HeadLimits { bytes: 64 * 1024, count: 256, uri: 0 };
/// Informational answers before the real one.
const MAX_INFORMATIONAL: u8 = 8;
/// Buffers above this are given back when a connection goes idle.
const KEEP_BYTES: usize = 16 * 1024;
/// Requests up to this size are put together before they go to the kernel.
const COPY_BYTES: usize = 8 * 1024;
/// Slices per write: the head and the pieces of a body with a few edits.
const MAX_SLICES: usize = 16;

/// A connection, in the pool or in use.
pub struct H1Conn {
    io: Io,
    /// The head that is being sent.
    wbuf: Vec<u8>,
    /// Bytes read but not used yet.
    rbuf: Vec<u8>,
    head: ResponseHead,
    pub(super) born: Instant,
    pub(super) idle_since: Instant,
    /// Requests carried so far.
    pub(super) uses: u32,
    idle: bool,
    origin: Arc<Origin>,
    pool: Weak<Pool>,
}

impl H1Conn {
    pub(super) fn new(io: Io, origin: Arc<Origin>, pool: Weak<Pool>) -> Box<H1Conn> {
        let now = clock::instant();
        origin.h1_busy.fetch_add(1, Relaxed);
        Box::new(H1Conn {
            io,
            wbuf: Vec::new(),
            rbuf: Vec::new(),
            head: ResponseHead::default(),
            born: now,
            idle_since: now,
            uses: 0,
            idle: false,
            origin,
            pool,
        })
    }

    /// Moves the connection between the gauges of idle and busy ones.
    pub(super) fn set_idle(&mut self, idle: bool) {
        if self.idle != idle {
            self.idle = idle;
            let by = if idle { 1 } else { -1 };
            self.origin.h1_idle.fetch_add(by, Relaxed);
            self.origin.h1_busy.fetch_sub(by, Relaxed);
        }
    }

    /// Whether an idle connection can carry a request. An upstream that closed it, or that sent
    /// something nobody asked for, has made it readable. No system call if nothing came.
    pub(super) fn usable(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if !self.io.poll_readable(&mut cx) {
            return true;
        }
        // TLS sends session tickets at any time: only a read tells.
        let mut byte = [0; 1];
        self.io.poll_read(&mut cx, &mut byte).is_pending()
    }
}

impl Drop for H1Conn {
    fn drop(&mut self) {
        let gauge = if self.idle { &self.origin.h1_idle } else { &self.origin.h1_busy };
        gauge.fetch_sub(1, Relaxed);
        if let Some(pool) = self.pool.upgrade() {
            pool.connection_closed();
        }
    }
}

#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Chunked),
    Close,
    Ended,
}

/// A request on a connection and its answer.
pub struct H1Exchange {
    /// `None` only after `finish`.
    conn: Option<Box<H1Conn>>,
    pieces: Vec<Bytes>,
    written: usize,
    total: usize,
    /// TLS still holds a part of what was written.
    unflushed: bool,
    answered: bool,
    body: Body,
    keep_alive: bool,
    informational: u8,
}

impl H1Exchange {
    pub(super) fn begin(mut conn: Box<H1Conn>, outgoing: Outgoing<'_>) -> Self {
        conn.wbuf.clear();
        write_request_head(&outgoing, &mut conn.wbuf);
        let total = conn.wbuf.len() + outgoing.body_len();
        let mut outgoing = outgoing;
        if total <= COPY_BYTES {
            // One contiguous write costs the kernel less than gathering.
            outgoing.body.drain(..).for_each(|piece| conn.wbuf.extend_from_slice(&piece));
        }
        conn.uses += 1;
        H1Exchange {
            conn: Some(conn),
            pieces: outgoing.body,
            written: 0,
            total,
            unflushed: false,
            answered: false,
            body: Body::Ended,
            keep_alive: false,
            informational: 0,
        }
    }

    fn conn(&mut self) -> &mut H1Conn {
        self.conn.as_mut().expect("the exchange is not finished")
    }

    pub(super) fn sent(&self) -> bool {
        self.written == self.total && !self.unflushed
    }

    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    pub(super) fn head(&self) -> &ResponseHead {
        &self.conn.as_ref().expect("the exchange is not finished").head
    }

    pub(super) fn ended(&self) -> bool {
        matches!(self.body, Body::Ended)
            && self.conn.as_ref().is_some_and(|conn| conn.rbuf.is_empty())
    }

    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // An upstream that refuses early closes its side while we still write: its answer counts,
        // not our failed write.
        let write_fault = if self.sent() {
            None
        } else {
            match self.poll_write(cx) {
                Poll::Ready(Err(error)) => Some(error),
                _ => None,
            }
        };
        loop {
            if let Some(outcome) = self.parse_buffered()? {
                return Poll::Ready(Ok(outcome));
            }
            match self.poll_more_head(cx) {
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    return match write_fault {
                        Some(error) => Poll::Ready(Err(self.broken(&error))),
                        None => Poll::Pending,
                    };
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.total {
            let conn = self.conn.as_mut().expect("the exchange is not finished");
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            let mut skip = self.written;
            let parts = std::iter::once(conn.wbuf.as_slice())
                .chain(self.pieces.iter().map(|piece| piece.as_ref()));
            for part in parts {
                if skip >= part.len() {
                    skip -= part.len();
                } else if count < MAX_SLICES {
                    slices[count] = IoSlice::new(&part[skip..]);
                    skip = 0;
                    count += 1;
                }
            }
            self.written += if let [one] = &slices[..count] {
                ready!(AsyncWrite::poll_write(Pin::new(&mut conn.io), cx, one))?
            } else {
                ready!(conn.io.poll_write(cx, &slices[..count]))?
            };
        }
        // The memory of a sent request is of no use while a long answer flows.
        self.pieces = Vec::new();
        let conn = self.conn.as_mut().expect("the exchange is not finished");
        if conn.wbuf.capacity() > KEEP_BYTES {
            conn.wbuf = Vec::new();
        }
        if conn.io.is_tls() {
            self.unflushed = true;
            ready!(AsyncWrite::poll_flush(Pin::new(&mut conn.io), cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Parses what an earlier read left over.
    fn parse_buffered(&mut self) -> Result<Option<()>, Error> {
        if self.conn().rbuf.is_empty() {
            return Ok(None);
        }
        let buffered = std::mem::take(&mut self.conn().rbuf);
        let outcome = self.parse(&buffered);
        let conn = self.conn();
        match outcome {
            Ok(used) => {
                conn.rbuf = buffered;
                match used {
                    Some((used, whole)) => {
                        conn.rbuf.drain(..used);
                        Ok(whole.then_some(()))
                    }
                    None => Ok(None),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Reads once; `true` when the head is whole.
    fn poll_more_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        with_scratch(|scratch| {
            let read = match ready!(self.conn().io.poll_read(cx, scratch)) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                other => other,
            };
            let read = match read {
                Ok(read) => read,
                Err(error) => return Poll::Ready(Err(self.broken(&error))),
            };
            self.answered = true;
            let new = &scratch[..read];
            if self.conn().rbuf.is_empty() {
                // The usual case: the whole head came in one read and is parsed where it lies.
                if let Some((used, whole)) = self.parse(new)? {
                    self.conn().rbuf.extend_from_slice(&new[used..]);
                    return Poll::Ready(Ok(whole));
                }
            }
            self.conn().rbuf.extend_from_slice(new);
            Poll::Ready(Ok(false))
        })
    }

    /// Parses a head at the start of `bytes`: how many bytes it takes, and whether it is the final
    /// one.
    fn parse(&mut self, bytes: &[u8]) -> Result<Option<(usize, bool)>, Error> {
        let Some(parsed) = parse_response(bytes, &HEAD, &mut self.conn().head)? else {
            return Ok(None);
        };
        let status = self.head().status;
        if status < 200 {
            self.informational += 1;
            if status == 101 || self.informational > MAX_INFORMATIONAL {
                return Err(Error::upstream(
                    Kind::ServerError,
                    "the upstream's answer could not be read",
                )
                .because(format!("unexpected status {status}")));
            }
            return Ok(Some((parsed.len, false)));
        }
        self.body = match parsed.body {
            BodyFraming::Length(0) => Body::Ended,
            BodyFraming::Length(left) => Body::Length(left),
            BodyFraming::Chunked => Body::Chunked(Chunked::default()),
            BodyFraming::Close => Body::Close,
        };
        self.keep_alive = parsed.keep_alive;
        Ok(Some((parsed.len, true)))
    }

    fn broken(&self, error: &io::Error) -> Error {
        let mut fault = if self.answered {
            // Not a server error, which would say that there is no answer: the request was worked on.
            Error::upstream(Kind::Truncated, "the upstream's answer broke off in its head")
        } else {
            Error::upstream(Kind::Connect, "the upstream closed the connection without an answer")
        };
        fault.unprocessed = !self.answered && self.written == 0;
        fault.because(error)
    }

    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<DataEvent, Error>> {
        if !self.conn().rbuf.is_empty() {
            let buffered = std::mem::take(&mut self.conn().rbuf);
            let outcome = self.decode(&buffered, sink);
            let used = outcome?;
            if used < buffered.len() {
                // Bytes after the end of the answer: nobody asked for them.
                self.keep_alive = false;
            }
            if buffered.capacity() <= KEEP_BYTES {
                let mut kept = buffered;
                kept.clear();
                self.conn().rbuf = kept;
            }
            return Poll::Ready(Ok(DataEvent::Data));
        }
        if matches!(self.body, Body::Ended) {
            return Poll::Ready(Ok(DataEvent::End));
        }
        with_scratch(|scratch| {
            let read = match ready!(self.conn().io.poll_read(cx, scratch)) {
                Ok(0) if matches!(self.body, Body::Close) => {
                    self.body = Body::Ended;
                    return Poll::Ready(Ok(DataEvent::End));
                }
                Ok(0) => return Poll::Ready(Err(truncated("the connection was closed"))),
                Ok(read) => read,
                Err(error) => return Poll::Ready(Err(truncated(error))),
            };
            if self.decode(&scratch[..read], sink)? < read {
                self.keep_alive = false;
            }
            Poll::Ready(Ok(DataEvent::Data))
        })
    }

    /// Takes the payload out of `bytes`; how many belonged to the answer.
    fn decode(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<usize, Error> {
        match &mut self.body {
            Body::Ended => Ok(0),
            Body::Close => {
                sink(bytes);
                Ok(bytes.len())
            }
            Body::Length(left) => {
                let take = (*left).min(bytes.len() as u64) as usize;
                *left -= take as u64;
                if *left == 0 {
                    self.body = Body::Ended;
                }
                sink(&bytes[..take]);
                Ok(take)
            }
            Body::Chunked(chunked) => {
                let used = chunked
                    .decode(bytes, &mut |data| sink(data))
                    .map_err(|error| truncated(error.message))?;
                if chunked.done() {
                    self.body = Body::Ended;
                }
                Ok(used)
            }
        }
    }

    /// Gives the connection back if it is in a state to be used again.
    pub(super) fn finish(mut self) {
        let clean = self.keep_alive && self.sent() && matches!(self.body, Body::Ended);
        let Some(mut conn) = self.conn.take() else { return };
        if !clean || !conn.rbuf.is_empty() {
            return;
        }
        conn.head.headers.shrink(KEEP_BYTES);
        if let Some(pool) = conn.pool.upgrade() {
            pool.give_back(conn);
        }
    }
}

fn truncated(cause: impl std::fmt::Display) -> Error {
    Error::upstream(Kind::Truncated, "the upstream's answer broke off").because(cause)
}

/// A fault for a connection that cannot be used at all.
pub(super) fn unusable() -> Error {
    connect::failed("the connection was closed while it waited")
}

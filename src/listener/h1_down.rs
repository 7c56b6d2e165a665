//! The caller's side of one HTTP/1.1 request: its body in, its answer out.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Cx, Poll, ready};

use tokio::io::AsyncWrite;

use crate::clock;
use crate::error::{Error, Kind};
use crate::exchange::{AnswerBody, Downstream, Gone};
use crate::listener::Drain;
use crate::listener::h1::{DISCARD_BYTES, KEEP_BYTES, LINGER, PIPELINE_BYTES};
use crate::net::{Io, LazyTimer, with_scratch};
use crate::wire::{
    BodyFraming, Chunked, Headers, Method, ParsedRequest, RequestHead, put_chunk_size,
};

/// Room that is made for the first read of a body.
const READ_BYTES: usize = 16 * 1024;
/// Writes up to this size are put together before they go to the kernel.
const COPY_BYTES: usize = 8 * 1024;
/// Bytes read beyond what is wanted.
pub(super) const READ_AHEAD: usize = 64;

/// What is known of the request body.
pub(super) enum Body {
    Length(u64),
    Chunked(Chunked),
    Done,
    /// Of unknown extent: the request could not be read.
    Unread,
}

/// How the end of the answer is marked.
enum Framing {
    Length(u64),
    Chunked,
    Close,
}

/// The caller's side of the request under way.
pub(super) struct H1Down {
    pub(super) io: Io,
    peer: SocketAddr,
    drain: Rc<Drain>,
    /// Read but not used yet.
    pub(super) rbuf: Vec<u8>,
    pub(super) body: Body,
    announced: Option<u64>,
    wants_continue: bool,
    /// To be written.
    pending: Vec<u8>,
    written: usize,
    framing: Framing,
    http10: bool,
    head_only: bool,
    pub(super) keep_alive: bool,
    pub(super) started: bool,
    pub(super) ended: bool,
    pub(super) aborted: bool,
    pub(super) gone: bool,
    flushing: bool,
}

impl H1Down {
    pub(super) fn new(io: Io, peer: SocketAddr, drain: Rc<Drain>) -> Self {
        H1Down {
            io,
            peer,
            drain,
            rbuf: Vec::new(),
            body: Body::Done,
            announced: None,
            wants_continue: false,
            pending: Vec::new(),
            written: 0,
            framing: Framing::Length(0),
            http10: false,
            head_only: false,
            keep_alive: false,
            started: false,
            ended: false,
            aborted: false,
            gone: false,
            flushing: false,
        }
    }

    pub(super) fn begin(&mut self, head: &RequestHead, parsed: &ParsedRequest) {
        self.announced = None;
        self.body = match parsed.body {
            BodyFraming::Length(0) | BodyFraming::Close => {
                self.announced = Some(0);
                Body::Done
            }
            BodyFraming::Length(length) => {
                self.announced = Some(length);
                Body::Length(length)
            }
            BodyFraming::Chunked => Body::Chunked(Chunked::default()),
        };
        self.wants_continue = parsed.expects_continue;
        self.keep_alive = parsed.keep_alive;
        self.http10 = head.version == crate::wire::Version::Http10;
        self.head_only = head.method == Method::Head;
    }

    pub(super) fn reset_for_next(&mut self) {
        self.started = false;
        self.ended = false;
        if self.pending.capacity() > KEEP_BYTES {
            self.pending = Vec::new();
        }
        if self.rbuf.is_empty() && self.rbuf.capacity() > KEEP_BYTES {
            self.rbuf = Vec::new();
        }
    }

    /// Reads once into `rbuf`.
    pub(super) fn poll_fill(&mut self, cx: &mut Cx<'_>, max: usize) -> Poll<io::Result<usize>> {
        if self.rbuf.len() >= max {
            return Poll::Ready(Err(io::Error::other("too many bytes in advance")));
        }
        let (io, rbuf) = (&mut self.io, &mut self.rbuf);
        with_scratch(|scratch| {
            let read = ready!(io.poll_read(cx, scratch))?;
            rbuf.extend_from_slice(&scratch[..read]);
            Poll::Ready(Ok(read))
        })
    }

    fn write_some(&mut self, cx: &mut Cx<'_>, data: &[&[u8]]) -> io::Result<()> {
        let mut done = 0;
        let total: usize = data.iter().map(|d| d.len()).sum();
        // One contiguous write costs the kernel less than gathering; copying this much costs less
        // than either.
        if total + self.pending.len() <= COPY_BYTES && !data.is_empty() {
            for part in data {
                self.pending.extend_from_slice(part);
            }
            return self.write_pending(cx);
        }
        loop {
            let mut slices = [IoSlice::new(&[]); 4];
            let mut skip = self.written + done;
            let mut count = 0;
            let parts = std::iter::once(self.pending.as_slice()).chain(data.iter().copied());
            for part in parts {
                if skip >= part.len() {
                    skip -= part.len();
                } else {
                    slices[count] = IoSlice::new(&part[skip..]);
                    skip = 0;
                    count += 1;
                }
            }
            if count == 0 {
                break;
            }
            match self.io.poll_write(cx, &slices[..count]) {
                Poll::Ready(Ok(wrote)) => done += wrote,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.keep_rest(data, self.written + done, total);
        Ok(())
    }

    fn write_pending(&mut self, cx: &mut Cx<'_>) -> io::Result<()> {
        while self.written < self.pending.len() {
            let io = Pin::new(&mut self.io);
            match AsyncWrite::poll_write(io, cx, &self.pending[self.written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(wrote)) => self.written += wrote,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        self.pending.clear();
        self.written = 0;
        self.flushing = self.io.is_tls();
        Ok(())
    }

    /// Keeps what the kernel did not take of `pending` followed by `data`.
    fn keep_rest(&mut self, data: &[&[u8]], written: usize, total: usize) {
        let before = self.pending.len();
        if written < before + total {
            let mut skip = written.saturating_sub(before);
            for part in data {
                let from = skip.min(part.len());
                self.pending.extend_from_slice(&part[from..]);
                skip -= from;
            }
            self.written = written.min(self.pending.len());
            if written > before {
                // All of the old bytes are gone; only new ones are kept.
                self.pending.drain(..before);
                self.written = 0;
            }
        } else {
            self.pending.clear();
            self.written = 0;
            self.flushing = self.io.is_tls();
        }
    }

    /// Reads on to the end of a body that nobody wanted, within bounds.
    pub(super) async fn discard_body(&mut self, timer: &mut LazyTimer) -> bool {
        if matches!(self.body, Body::Done) {
            return true;
        }
        timer.set(Some(clock::instant() + LINGER));
        let mut left = DISCARD_BYTES as usize;
        let mut waste = Vec::new();
        poll_fn(|cx| {
            loop {
                waste.clear();
                match self.poll_body(cx, &mut waste, left) {
                    Poll::Ready(Ok(true)) => return Poll::Ready(true),
                    Poll::Ready(Ok(false)) if waste.len() < left => left -= waste.len(),
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if timer.poll(cx).is_ready() => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Takes body bytes out of `rbuf`, or reads more of them.
    fn poll_length(
        &mut self,
        cx: &mut Cx<'_>,
        into: &mut Vec<u8>,
        max: usize,
        left: u64,
    ) -> Poll<Result<bool, Error>> {
        let want = left.min(max as u64) as usize;
        let took = if self.rbuf.is_empty() {
            let start = into.len();
            if into.capacity() - start < want.min(READ_BYTES) + READ_AHEAD {
                // Doubling what has come, and never beyond what was announced: the memory counts.
                into.reserve_exact(want.min(start.max(READ_BYTES)) + READ_AHEAD);
            }
            // Room for more than is wanted lets the read come back short, which tells the reactor
            // that the socket is empty; a full one would cost another system call to find out.
            let took = match ready!(self.io.poll_read_vec(cx, into, want + READ_AHEAD)) {
                Ok(0) => return Poll::Ready(Err(left_early())),
                Ok(took) => took,
                Err(error) => return Poll::Ready(Err(left_early().because(error))),
            };
            if took > want {
                self.rbuf.extend_from_slice(&into[start + want..]);
                into.truncate(start + want);
            }
            took.min(want)
        } else if into.is_empty() && self.rbuf.len() <= want {
            std::mem::swap(into, &mut self.rbuf);
            into.len()
        } else {
            let took = want.min(self.rbuf.len());
            into.extend_from_slice(&self.rbuf[..took]);
            self.rbuf.drain(..took);
            took
        };
        let left = left - took as u64;
        self.body = if left == 0 { Body::Done } else { Body::Length(left) };
        Poll::Ready(Ok(left == 0))
    }

    fn poll_chunked(
        &mut self,
        cx: &mut Cx<'_>,
        into: &mut Vec<u8>,
        max: usize,
    ) -> Poll<Result<bool, Error>> {
        if self.rbuf.is_empty() {
            match ready!(self.poll_fill(cx, usize::MAX)) {
                Ok(0) => return Poll::Ready(Err(left_early())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(left_early().because(error))),
            }
        }
        let Body::Chunked(chunked) = &mut self.body else { return Poll::Ready(Ok(true)) };
        // Payload is never longer than its coding: `max` bytes of it cannot overflow.
        let take = self.rbuf.len().min(max.max(1));
        let used = match chunked.decode(&self.rbuf[..take], &mut |d| into.extend_from_slice(d)) {
            Ok(used) => used,
            Err(error) => {
                self.body = Body::Unread;
                self.keep_alive = false;
                return Poll::Ready(Err(error));
            }
        };
        let done = chunked.done();
        self.rbuf.drain(..used);
        if done {
            self.body = Body::Done;
        }
        Poll::Ready(Ok(done))
    }
}

fn left_early() -> Error {
    Error::downstream(Kind::ClientGone, "the caller left before the request was complete")
}

impl Downstream for H1Down {
    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn body_length(&self) -> Option<u64> {
        self.announced
    }

    fn poll_body(
        &mut self,
        cx: &mut Cx<'_>,
        into: &mut Vec<u8>,
        max: usize,
    ) -> Poll<Result<bool, Error>> {
        if self.wants_continue && !self.started {
            self.wants_continue = false;
            if self.rbuf.is_empty() {
                let _ = self.write_some(cx, &[b"HTTP/1.1 100 Continue\r\n\r\n"]);
            }
        }
        if self.written < self.pending.len() {
            let _ = self.write_some(cx, &[]);
        }
        match &self.body {
            Body::Done => Poll::Ready(Ok(true)),
            Body::Unread => Poll::Ready(Err(left_early())),
            Body::Length(left) => {
                let left = *left;
                self.poll_length(cx, into, max, left)
            }
            Body::Chunked(_) => self.poll_chunked(cx, into, max),
        }
    }

    fn start(&mut self, status: u16, headers: &Headers, body: AnswerBody) {
        self.started = true;
        self.keep_alive &= !self.drain.is_draining();
        if let Body::Length(left) = self.body {
            // A caller that waits for `100 Continue` will not send the body any more.
            self.keep_alive &= left <= DISCARD_BYTES && !self.wants_continue;
        }
        let out = &mut self.pending;
        out.extend_from_slice(if self.http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        headers.write_h1(out);
        match body {
            AnswerBody::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                out.extend_from_slice(b"\r\n");
                self.framing = Framing::Length(length);
            }
            AnswerBody::Stream if self.http10 => {
                self.framing = Framing::Close;
                self.keep_alive = false;
            }
            AnswerBody::Stream => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                self.framing = Framing::Chunked;
            }
        }
        if !self.keep_alive {
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn started(&self) -> bool {
        self.started
    }

    fn send(&mut self, cx: &mut Cx<'_>, data: &[u8], last: bool) -> Result<(), Gone> {
        let data = if self.head_only { &[] } else { data };
        let outcome = match &mut self.framing {
            Framing::Length(left) => {
                let fits = data.len().min((*left).min(usize::MAX as u64) as usize);
                *left -= fits as u64;
                // Less than was announced is no end, and more must not be sent.
                self.aborted |= fits < data.len() || (last && *left > 0 && !self.head_only);
                self.write_some(cx, &[&data[..fits]])
            }
            Framing::Close => self.write_some(cx, &[data]),
            Framing::Chunked if self.head_only => self.write_some(cx, &[]),
            Framing::Chunked => {
                let mut size = SizeLine::default();
                let end: &[u8] = match (data.is_empty(), last) {
                    (true, false) => &[],
                    (true, true) => b"0\r\n\r\n",
                    (false, false) => b"\r\n",
                    (false, true) => b"\r\n0\r\n\r\n",
                };
                let size = if data.is_empty() { &[] } else { size.of(data.len()) };
                self.write_some(cx, &[size, data, end])
            }
        };
        self.ended |= last;
        outcome.map_err(|_| {
            self.gone = true;
            Gone
        })
    }

    fn poll_drained(&mut self, cx: &mut Cx<'_>) -> Poll<Result<(), Gone>> {
        if self.gone {
            return Poll::Ready(Err(Gone));
        }
        if self.written < self.pending.len() && self.write_some(cx, &[]).is_err() {
            self.gone = true;
            return Poll::Ready(Err(Gone));
        }
        if self.written < self.pending.len() {
            return Poll::Pending;
        }
        if self.flushing {
            let flush = AsyncWrite::poll_flush(Pin::new(&mut self.io), cx);
            if ready!(flush).is_err() {
                self.gone = true;
                return Poll::Ready(Err(Gone));
            }
            self.flushing = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Cx<'_>) -> Poll<()> {
        if self.gone {
            return Poll::Ready(());
        }
        if !matches!(self.body, Body::Done) {
            return Poll::Pending;
        }
        loop {
            // The end of the connection can stand behind bytes that came in advance: those are
            // taken in, so that it is seen.
            match self.poll_fill(cx, PIPELINE_BYTES) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(read)) if read > 0 => {}
                Poll::Ready(_) => {
                    self.gone = true;
                    return Poll::Ready(());
                }
            }
        }
    }

    fn abort(&mut self) {
        self.aborted = true;
    }
}

/// The size line of a chunk, on the stack.
#[derive(Default)]
struct SizeLine {
    text: [u8; 18],
}

impl SizeLine {
    fn of(&mut self, len: usize) -> &[u8] {
        let mut out = std::mem::take(&mut self.text);
        let used = put_chunk_size(len, &mut out);
        self.text = out;
        &self.text[..used]
    }
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unknown")
}

//! HTTP/1.1 from callers: one task per connection, no task, channel or buffer per request.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context as Cx, Poll, ready};
use std::time::Duration;

use crate::clock;
use crate::error::{Error, Kind};
use crate::exchange::Downstream;
use crate::listener::connection::{Context, StreamGuard, linger};
use crate::listener::h1_down::{Body, H1Down, READ_AHEAD};
use crate::listener::{Handler, Settings};
use crate::net::{Io, LazyTimer, with_scratch};
use crate::wire::{BodyFraming, ParsedRequest, RequestHead, parse_request};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes taken in while an answer is under way: pipelined requests, stray line ends.
pub(super) const PIPELINE_BYTES: usize = 64 * 1024;
/// A body that nobody wants is read up to here to keep the connection.
pub(super) const DISCARD_BYTES: u64 = 64 * 1024;
const LINGER_BYTES: usize = 1024 * 1024;
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// What is read in search of a head. A long body is better read to where it stays: this much of it
/// is copied.
const HEAD_READ_BYTES: usize = 16 * 1024;
/// Buffers above this are given back between requests.
pub(super) const KEEP_BYTES: usize = 16 * 1024;

/// How the HTTP/1.1 part of a connection ended.
pub(super) enum End {
    Closed,
    /// It speaks HTTP/2; these bytes have been read.
    Preface(Io, Vec<u8>),
}

/// Serves requests until the connection ends.
pub(super) async fn serve<H: Handler>(io: Io, context: &Context<H>) -> End {
    let mut timer = LazyTimer::default();
    let mut head = RequestHead::default();
    let mut down = H1Down::new(io, context.peer, context.drain.clone());
    let mut first = true;
    loop {
        let outcome = next_head(&mut down, &mut head, &mut timer, context, first).await;
        let streams = StreamGuard::new(&context.loads, context.worker);
        match outcome {
            Next::Request(parsed) => {
                first = false;
                down.begin(&head, &parsed);
                context.handler.serve(&head, &mut down, &mut timer).await;
            }
            Next::Bad(error) => {
                down.keep_alive = false;
                down.body = Body::Unread;
                context.handler.refuse(error, &mut down).await;
            }
            Next::Preface => return End::Preface(down.io, down.rbuf),
            Next::Closed => return End::Closed,
        }
        drop(streams);
        if !after_answer(&mut down, &mut timer, context).await {
            finish_connection(down).await;
            return End::Closed;
        }
        head.headers.shrink(KEEP_BYTES);
    }
}

enum Next {
    Request(ParsedRequest),
    Bad(Error),
    Preface,
    Closed,
}

/// Waits for the next head: long for its first byte, not so long for the rest.
async fn next_head<H: Handler>(
    down: &mut H1Down,
    head: &mut RequestHead,
    timer: &mut LazyTimer,
    context: &Context<H>,
    first: bool,
) -> Next {
    let settings = &context.settings;
    let now = clock::instant();
    let mut in_head = first || !down.rbuf.is_empty();
    timer.set(Some(now + if in_head { settings.header } else { settings.idle }));
    let mut draining = pin!(context.drain.started());
    poll_fn(|cx| {
        if let Parsed::Done(next) = parse_buffered(down, head, settings, first) {
            return Poll::Ready(next);
        }
        loop {
            match down.poll_head_bytes(cx, head, settings, first) {
                Poll::Ready(Ok(Some(next))) => return Poll::Ready(next),
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Closed),
                Poll::Ready(Ok(None)) if !in_head => {
                    in_head = true;
                    timer.set(Some(clock::instant() + settings.header));
                }
                Poll::Ready(Ok(None)) => {}
                Poll::Pending => {
                    if timer.poll(cx).is_ready() {
                        return Poll::Ready(timed_out(down));
                    }
                    let idle = down.rbuf.is_empty();
                    if idle && Future::poll(draining.as_mut(), cx).is_ready() {
                        return Poll::Ready(Next::Closed);
                    }
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

fn timed_out(down: &H1Down) -> Next {
    if down.rbuf.is_empty() {
        return Next::Closed;
    }
    Next::Bad(Error::downstream(
        Kind::BodyTimeout,
        "the request head did not arrive in time; send it without pauses",
    ))
}

enum Parsed {
    Done(Next),
    More,
}

/// Parses what came in advance.
fn parse_buffered(
    down: &mut H1Down,
    head: &mut RequestHead,
    settings: &Settings,
    first: bool,
) -> Parsed {
    let (used, parsed) = parse(&down.rbuf, head, settings, first);
    down.rbuf.drain(..used);
    parsed
}

/// Whether what came after `before` can be the end of a head. A head that trickles in byte by byte
/// must not be parsed anew for each.
fn may_end_head(bytes: &[u8], before: usize) -> bool {
    let tail = &bytes[before.saturating_sub(2)..];
    memchr::memchr_iter(b'\n', tail)
        .any(|at| tail[at + 1..].starts_with(b"\n") || tail[at + 1..].starts_with(b"\r\n"))
}

/// Parses a head at the start of `bytes`; how many bytes are used up.
fn parse(
    bytes: &[u8],
    head: &mut RequestHead,
    settings: &Settings,
    first: bool,
) -> (usize, Parsed) {
    // A line end too many after the last body is forgiven (RFC 9112, section 2.2).
    let stray = 2 * bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count();
    if bytes[stray..] == *b"\r" {
        return (stray, Parsed::More);
    }
    if stray > 8 {
        let error = Error::downstream(Kind::BadFraming, "there is no request between line ends");
        return (stray, Parsed::Done(Next::Bad(error)));
    }
    let bytes = &bytes[stray..];
    if bytes.is_empty() {
        return (stray, Parsed::More);
    }
    if first {
        let seen = bytes.len().min(PREFACE.len());
        if bytes[..seen] == PREFACE[..seen] {
            let whole = seen == PREFACE.len();
            return (stray, if whole { Parsed::Done(Next::Preface) } else { Parsed::More });
        }
    }
    match parse_request(bytes, &settings.head, head) {
        Ok(Some(parsed)) => (stray + parsed.len, Parsed::Done(Next::Request(parsed))),
        Ok(None) => (stray, Parsed::More),
        Err(error) => (stray, Parsed::Done(Next::Bad(error))),
    }
}

/// Sees the answer off; whether the connection can carry another request.
async fn after_answer<H: Handler>(
    down: &mut H1Down,
    timer: &mut LazyTimer,
    context: &Context<H>,
) -> bool {
    let whole = down.started && down.ended && !down.aborted && !down.gone;
    if !whole {
        return false;
    }
    timer.set(Some(clock::instant() + context.settings.write));
    let drained = poll_fn(|cx| match down.poll_drained(cx) {
        Poll::Ready(outcome) => Poll::Ready(outcome.is_ok()),
        Poll::Pending if timer.poll(cx).is_ready() => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    })
    .await;
    if !drained || !down.keep_alive {
        return false;
    }
    if !down.discard_body(timer).await {
        return false;
    }
    down.reset_for_next();
    true
}

async fn finish_connection(down: H1Down) {
    let unread = !matches!(down.body, Body::Done);
    if down.aborted || !down.ended || down.gone {
        // Whoever reads to the end of the connection must not take this for the end of the answer.
        if down.started {
            down.io.reset_on_close();
        }
    } else if unread || down.io.is_tls() {
        linger(down.io, LINGER_BYTES, LINGER).await;
    }
}

impl H1Down {
    /// Reads once and looks for a head. The usual one is parsed where the read has put it, and what
    /// follows it moves to a buffer that has room for the whole body.
    fn poll_head_bytes(
        &mut self,
        cx: &mut Cx<'_>,
        head: &mut RequestHead,
        settings: &Settings,
        first: bool,
    ) -> Poll<io::Result<Option<Next>>> {
        if !self.rbuf.is_empty() {
            let before = self.rbuf.len();
            if ready!(self.poll_fill(cx, PIPELINE_BYTES.max(settings.head.bytes)))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let full = self.rbuf.len() >= settings.head.bytes;
            if !full && before > PREFACE.len() && !may_end_head(&self.rbuf, before) {
                return Poll::Ready(Ok(None));
            }
            return Poll::Ready(Ok(match parse_buffered(self, head, settings, first) {
                Parsed::Done(next) => Some(next),
                Parsed::More => None,
            }));
        }
        let (io, rbuf) = (&mut self.io, &mut self.rbuf);
        with_scratch(|scratch| {
            let scratch = &mut scratch[..HEAD_READ_BYTES];
            let read = ready!(io.poll_read(cx, scratch))?;
            if read == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let (used, parsed) = parse(&scratch[..read], head, settings, first);
            let rest = &scratch[used..read];
            if !rest.is_empty() {
                let whole = match &parsed {
                    Parsed::Done(Next::Request(parsed)) => match parsed.body {
                        // In proportion to what has come, which the caller has paid for.
                        BodyFraming::Length(length) => length.min(8 * rest.len() as u64) as usize,
                        _ => 0,
                    },
                    _ => 0,
                };
                rbuf.reserve_exact(whole.max(rest.len()) + READ_AHEAD);
                rbuf.extend_from_slice(rest);
            }
            Poll::Ready(Ok(match parsed {
                Parsed::Done(next) => Some(next),
                Parsed::More => None,
            }))
        })
    }
}

//! HTTP/2 towards an upstream, on the `h2` crate. One task per connection drives it; a request
//! costs no task.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Method, Request, Uri};

use crate::clock;
use crate::error::{Error, Kind};
use crate::net::Io;
use crate::upstream::exchange::{DataEvent, Outgoing};
use crate::upstream::origin::Origin;
use crate::upstream::pool::Pool;
use crate::wire::ResponseHead;

/// Flow-control window of one stream: what a slow reader can leave in our memory.
const STREAM_WINDOW: u32 = 512 * 1024;
/// A PING goes out this often while streams are open, and must come back within the other.
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// A connection shared by several requests of one worker.
pub(super) struct H2Conn {
    send: RefCell<SendRequest<Bytes>>,
    inflight: Cell<usize>,
    /// No new requests: GOAWAY, too old, or closed.
    pub(super) draining: Cell<bool>,
    pub(super) born: Instant,
    pub(super) idle_since: Cell<Instant>,
    uses: Cell<u64>,
    cap: usize,
}

impl H2Conn {
    /// Requests that fit in now.
    pub(super) fn room(&self) -> usize {
        if self.draining.get() {
            return 0;
        }
        let peer = self.send.borrow().current_max_send_streams();
        self.cap.min(peer).saturating_sub(self.inflight.get())
    }

    pub(super) fn inflight(&self) -> usize {
        self.inflight.get()
    }

    /// The most requests that can ever be in flight here.
    pub(super) fn capacity(&self) -> usize {
        self.cap
    }

    /// Takes room for one request.
    pub(super) fn slot(self: &Rc<Self>, pool: &Rc<Pool>) -> H2Slot {
        self.inflight.set(self.inflight.get() + 1);
        H2Slot {
            conn: self.clone(),
            pool: Rc::downgrade(pool),
            nth: self.uses.replace(self.uses.get() + 1),
        }
    }
}

/// The HTTP/2 handshake. The connection window covers every stream's window, so that slow readers
/// cannot starve their neighbours.
pub(super) async fn handshake(
    io: Io,
    max_streams: usize,
) -> Result<(SendRequest<Bytes>, Connection<Io, Bytes>), h2::Error> {
    let connection_window =
        (max_streams as u64 * u64::from(STREAM_WINDOW)).clamp(16 << 20, 1 << 30);
    h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window as u32)
        .max_header_list_size(64 * 1024)
        .max_concurrent_reset_streams(1024)
        .handshake(io)
        .await
}

/// Makes the shared connection and starts the task that drives it.
pub(super) fn start(
    send: SendRequest<Bytes>,
    connection: Connection<Io, Bytes>,
    origin: Arc<Origin>,
    pool: &Rc<Pool>,
) -> Rc<H2Conn> {
    let now = clock::instant();
    let conn = Rc::new(H2Conn {
        send: RefCell::new(send),
        inflight: Cell::new(0),
        draining: Cell::new(false),
        born: now,
        idle_since: Cell::new(now),
        uses: Cell::new(0),
        cap: origin.settings.pool.max_streams,
    });
    origin.h2_open.fetch_add(1, Relaxed);
    let (shared, pool) = (conn.clone(), Rc::downgrade(pool));
    tokio::task::spawn_local(async move {
        drive(connection, &shared).await;
        shared.draining.set(true);
        origin.h2_open.fetch_sub(1, Relaxed);
        if let Some(pool) = pool.upgrade() {
            pool.h2_closed();
        }
    });
    conn
}

/// Runs the connection until it ends, or until a PING stays unanswered. Ends also when it is
/// draining and its last stream is gone.
async fn drive(mut connection: Connection<Io, Bytes>, conn: &Rc<H2Conn>) {
    let mut ping = connection.ping_pong();
    let mut tick = Box::pin(tokio::time::sleep(PING_EVERY));
    let mut waiting = false;
    poll_fn(|cx| {
        if Pin::new(&mut connection).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if waiting
            && let Some(ping) = &mut ping
            && ping.poll_pong(cx).is_ready()
        {
            waiting = false;
            tick.as_mut().reset(tokio::time::Instant::now() + PING_EVERY);
        }
        while tick.as_mut().poll(cx).is_ready() {
            let next = if waiting {
                return Poll::Ready(());
            } else if conn.inflight.get() > 0
                && let Some(ping) = &mut ping
                && ping.send_ping(h2::Ping::opaque()).is_ok()
            {
                waiting = true;
                let _ = ping.poll_pong(cx);
                PONG_WITHIN
            } else if conn.draining.get() && conn.inflight.get() == 0 {
                return Poll::Ready(());
            } else {
                PING_EVERY
            };
            tick.as_mut().reset(tokio::time::Instant::now() + next);
        }
        Poll::Pending
    })
    .await;
}

/// Room for one request; freed on drop.
pub struct H2Slot {
    conn: Rc<H2Conn>,
    pool: Weak<Pool>,
    nth: u64,
}

impl H2Slot {
    pub(super) fn reused(&self) -> bool {
        self.nth > 0
    }
}

impl Drop for H2Slot {
    fn drop(&mut self) {
        self.conn.inflight.set(self.conn.inflight.get() - 1);
        if self.conn.inflight.get() == 0 {
            self.conn.idle_since.set(clock::instant());
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.h2_room(&self.conn);
        }
    }
}

enum Phase {
    /// Waiting for the connection to take a new stream.
    Ready(Request<()>),
    Head(ResponseFuture),
    Body(RecvStream),
    Ended,
}

/// A request on a stream and its answer.
pub struct H2Exchange {
    phase: Phase,
    sender: Option<SendStream<Bytes>>,
    pieces: VecDeque<Bytes>,
    head: ResponseHead,
    /// Frames taken off the connection but not yet used, and whether the end followed them.
    backlog: VecDeque<Bytes>,
    ended: Option<Result<(), Error>>,
    answered: bool,
    /// Last, so that the stream is dropped before its slot.
    slot: H2Slot,
}

impl H2Exchange {
    pub(super) fn begin(slot: H2Slot, outgoing: Outgoing<'_>) -> Self {
        let request = request_of(&outgoing);
        H2Exchange {
            phase: match request {
                Some(request) => Phase::Ready(request),
                None => Phase::Ended,
            },
            sender: None,
            pieces: outgoing.body.into(),
            head: ResponseHead::default(),
            backlog: VecDeque::new(),
            ended: None,
            answered: false,
            slot,
        }
    }

    pub(super) fn sent(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    pub(super) fn head(&self) -> &ResponseHead {
        &self.head
    }

    pub(super) fn ended(&self) -> bool {
        self.backlog.is_empty() && matches!(self.ended, Some(Ok(())))
    }

    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match &mut self.phase {
                Phase::Ready(_) => ready!(self.poll_open(cx))?,
                Phase::Head(response) => {
                    let outcome = Pin::new(response).poll(cx);
                    let Poll::Ready(outcome) = outcome else {
                        self.poll_send(cx);
                        return Poll::Pending;
                    };
                    self.answered = outcome.is_ok();
                    let (parts, body) = outcome.map_err(|e| self.failed(&e))?.into_parts();
                    self.head.status = parts.status.as_u16();
                    self.head.headers.clear();
                    for (name, value) in &parts.headers {
                        self.head.headers.push(name.as_str().as_bytes(), value.as_bytes());
                    }
                    self.phase = Phase::Body(body);
                    return Poll::Ready(Ok(()));
                }
                Phase::Body(_) => return Poll::Ready(Ok(())),
                Phase::Ended => {
                    return Poll::Ready(Err(Error::upstream(
                        Kind::Internal,
                        "the request could not be put into HTTP/2",
                    )));
                }
            }
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut send = self.slot.conn.send.borrow_mut();
        if let Err(error) = ready!(send.poll_ready(cx)) {
            // Closed or told to go away before the stream was opened: nothing was sent.
            drop(send);
            self.slot.conn.draining.set(true);
            return Poll::Ready(Err(self.failed(&error).unprocessed()));
        }
        let Phase::Ready(request) = std::mem::replace(&mut self.phase, Phase::Ended) else {
            return Poll::Ready(Ok(()));
        };
        let no_body = self.pieces.iter().all(Bytes::is_empty);
        let opened = send.send_request(request, no_body);
        drop(send);
        let (response, sender) = opened.map_err(|e| self.failed(&e).unprocessed())?;
        if no_body {
            self.pieces.clear();
        }
        self.sender = Some(sender);
        self.phase = Phase::Head(response);
        self.poll_send(cx);
        Poll::Ready(Ok(()))
    }

    /// Sends as much of the body as the flow-control windows allow. Faults show up in the answer.
    fn poll_send(&mut self, cx: &mut Context<'_>) {
        let Some(sender) = &mut self.sender else { return };
        while let Some(piece) = self.pieces.front_mut() {
            if !piece.is_empty() {
                sender.reserve_capacity(piece.len());
                if sender.capacity() == 0 {
                    match sender.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Pending => return,
                        Poll::Ready(_) => return self.pieces.clear(),
                    }
                }
            }
            let part = piece.split_to(sender.capacity().min(piece.len()));
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            if part.is_empty() && !self.pieces.is_empty() {
                continue;
            }
            if sender.send_data(part, self.pieces.is_empty()).is_err() {
                return self.pieces.clear();
            }
        }
    }

    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<DataEvent, Error>> {
        self.pump(cx);
        if !self.backlog.is_empty() {
            while let Some(frame) = self.backlog.pop_front() {
                sink(&frame);
                if let Phase::Body(body) = &mut self.phase {
                    let _ = body.flow_control().release_capacity(frame.len());
                }
            }
            return Poll::Ready(Ok(DataEvent::Data));
        }
        match self.ended.take() {
            Some(Ok(())) => {
                self.ended = Some(Ok(()));
                Poll::Ready(Ok(DataEvent::End))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }

    /// Takes the frames off the connection that have come. Their bytes stay charged to the
    /// stream's window until they are used, which bounds the backlog.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>) {
        // An answer can come before the request is sent to its end.
        if !self.pieces.is_empty() {
            self.poll_send(cx);
        }
        let Phase::Body(body) = &mut self.phase else { return };
        while self.ended.is_none() {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(frame))) if frame.is_empty() => {}
                Poll::Ready(Some(Ok(frame))) => self.backlog.push_back(frame),
                Poll::Ready(Some(Err(error))) => {
                    self.ended = Some(Err(Error::upstream(
                        Kind::Truncated,
                        "the upstream's answer broke off",
                    )
                    .because(error)));
                }
                Poll::Ready(None) => self.ended = Some(Ok(())),
                Poll::Pending => return,
            }
        }
    }

    /// A fault before the head. GOAWAY and REFUSED_STREAM say that the stream was never looked at
    /// (RFC 9113, sections 6.8 and 8.7): h2 gives them only to such streams.
    fn failed(&self, error: &h2::Error) -> Error {
        let refused = error.reason() == Some(Reason::REFUSED_STREAM);
        if error.is_go_away() || error.is_io() {
            self.slot.conn.draining.set(true);
        }
        let mut fault = Error::upstream(Kind::Connect, "the upstream gave no answer");
        fault.unprocessed = refused || (error.is_go_away() && error.is_remote());
        fault.because(error)
    }
}

fn request_of(outgoing: &Outgoing<'_>) -> Option<Request<()>> {
    let uri = Uri::builder()
        .scheme(if outgoing.tls { "https" } else { "http" })
        .authority(outgoing.authority)
        .path_and_query(outgoing.path)
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.reserve(outgoing.headers.len() + 1);
    for (_, name, value) in outgoing.headers.iter() {
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(outgoing.body_len()));
    Some(request)
}

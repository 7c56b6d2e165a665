//! HTTP/2 from callers, on the `h2` crate: one task per connection and one per stream, which also
//! confines a panic to its stream.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as Cx, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};

use crate::clock;
use crate::error::{Error, Kind};
use crate::exchange::{AnswerBody, Downstream, Gone};
use crate::listener::Handler;
use crate::listener::connection::{Context, StreamGuard};
use crate::net::{LazyTimer, Replayed};
use crate::wire::{Headers, Method, Name, RequestHead, Version, valid_authority};

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Streams that a caller may reset beyond those it let finish (CVE-2023-44487): a chat backend
/// cancels now and then, an attacker does nothing else.
const RESETS_FORGIVEN: u64 = 200;
/// Bytes prepared for the connection at a time.
const WRITE_BYTES: usize = 2 * 1024;

/// What the streams of one connection tell the task that drives it.
#[derive(Default)]
struct Tally {
    open: Cell<usize>,
    finished: Cell<u64>,
    reset: Cell<u64>,
}

/// Serves streams until the connection ends.
pub(super) async fn serve<H: Handler>(io: Replayed, context: Context<H>) {
    let settings = context.settings.clone();
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(settings.streams_per_connection)
        .max_header_list_size(settings.head.bytes as u32)
        .max_concurrent_reset_streams(64)
        .max_send_buffer_size(256 * 1024);
    let handshake = builder.handshake::<_, Bytes>(io);
    let Ok(Ok(connection)) = tokio::time::timeout(settings.header, handshake).await else {
        return;
    };
    accept_streams(connection, Rc::new(context)).await;
}

async fn accept_streams<H: Handler>(
    mut connection: Connection<Replayed, Bytes>,
    context: Rc<Context<H>>,
) {
    let tally = Rc::new(Tally::default());
    let drain = context.drain.clone();
    let mut draining = pin!(drain.started());
    let (mut told, mut farewell) = (false, false);
    let mut timer = LazyTimer::default();
    timer.set(Some(clock::instant() + context.settings.header));
    loop {
        let accepted = poll_fn(|cx| {
            if !told && draining.as_mut().poll(cx).is_ready() {
                told = true;
                connection.graceful_shutdown();
            }
            let accepted = connection.poll_accept(cx);
            if accepted.is_pending() && timer.poll(cx).is_ready() {
                let mut wait = context.settings.idle;
                if tally.open.get() == 0 {
                    // A graceful end waits for the peer's answer; who gives none is cut off.
                    if farewell {
                        return Poll::Ready(None);
                    }
                    farewell = true;
                    wait = context.settings.write;
                    if !told {
                        told = true;
                        connection.graceful_shutdown();
                    }
                }
                timer.set(Some(clock::instant() + wait));
                let _ = timer.poll(cx);
                return connection.poll_accept(cx).map(Some);
            }
            accepted.map(Some)
        })
        .await
        .flatten();
        let Some(Ok((request, respond))) = accepted else { return };
        timer.set(Some(clock::instant() + context.settings.idle));
        if tally.reset.get() > RESETS_FORGIVEN + tally.finished.get() {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            continue;
        }
        let (context, tally) = (context.clone(), tally.clone());
        tally.open.set(tally.open.get() + 1);
        tokio::task::spawn_local(async move {
            let _open = OpenStream(&tally);
            serve_stream(request, respond, &context, &tally).await;
        });
    }
}

struct OpenStream<'a>(&'a Tally);

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

async fn serve_stream<H: Handler>(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    context: &Context<H>,
    tally: &Tally,
) {
    let _stream = StreamGuard::new(&context.loads, context.worker);
    let mut timer = LazyTimer::default();
    let mut head = RequestHead::default();
    let mut down = H2Down::new(respond, context.peer);
    match read_head(request, &mut head, context) {
        Ok((length, body)) => {
            down.announced = length;
            down.body = Some(body);
            context.handler.serve(&head, &mut down, &mut timer).await;
        }
        Err(error) => context.handler.refuse(error, &mut down).await,
    }
    timer.set(Some(clock::instant() + context.settings.write));
    let flushed = poll_fn(|cx| match down.poll_drained(cx) {
        Poll::Ready(outcome) => Poll::Ready(outcome.is_ok()),
        Poll::Pending if timer.poll(cx).is_ready() => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    })
    .await;
    if flushed && down.ended && !down.gone {
        // The rest of a body that nobody wanted is refused without an error (RFC 9113, 8.1) when
        // `down` is dropped, behind the answer. Resetting here would throw the answer away, which
        // may still lie in the connection's queue.
        tally.finished.set(tally.finished.get() + 1);
    } else if down.gone {
        tally.reset.set(tally.reset.get() + 1);
    } else {
        down.reset(Reason::INTERNAL_ERROR);
    }
}

/// Takes the head apart, and holds it to the same rules as an HTTP/1.1 one.
fn read_head<H: Handler>(
    request: Request<RecvStream>,
    head: &mut RequestHead,
    context: &Context<H>,
) -> Result<(Option<u64>, RecvStream), Error> {
    let bad = |message: &str| Err(Error::downstream(Kind::BadFraming, message));
    let (parts, body) = request.into_parts();
    let limits = &context.settings.head;
    head.method = Method::of(parts.method.as_str());
    head.version = Version::H2;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    if path.len() > limits.uri {
        return bad("the request target is too long").map_err(|e| Error { status: Some(414), ..e });
    }
    head.path.push_str(path);
    if let Some(authority) = parts.uri.authority()
        && !valid_authority(authority.as_str().as_bytes())
    {
        return bad("the :authority is not a host name");
    }
    if parts.headers.len() > limits.count {
        return Err(Error::downstream(
            Kind::HeadersTooLarge,
            format!("there are more than {} header fields", limits.count),
        ));
    }
    for (name, value) in &parts.headers {
        head.headers.push(name.as_str().as_bytes(), value.as_bytes());
    }
    if let Some(host) = head.headers.get(Name::Host)
        && !valid_authority(host)
    {
        return bad("the host header is not a host name");
    }
    let length = if body.is_end_stream() {
        Some(0)
    } else {
        head.headers.text(Name::ContentLength).and_then(|text| text.parse().ok())
    };
    Ok((length, body))
}

/// The caller's side of one stream.
struct H2Down {
    peer: SocketAddr,
    announced: Option<u64>,
    body: Option<RecvStream>,
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    /// Bytes become frames out of this buffer, so that many frames share an allocation.
    buffer: BytesMut,
    pending: VecDeque<Bytes>,
    left: Option<u64>,
    started: bool,
    /// The last byte has been given to `send`; and the end of the stream to the connection.
    ended: bool,
    closed: bool,
    aborted: bool,
    gone: bool,
}

impl H2Down {
    fn new(respond: SendResponse<Bytes>, peer: SocketAddr) -> Self {
        H2Down {
            peer,
            announced: None,
            body: None,
            respond,
            stream: None,
            buffer: BytesMut::new(),
            pending: VecDeque::new(),
            left: None,
            started: false,
            ended: false,
            closed: false,
            aborted: false,
            gone: false,
        }
    }

    fn reset(&mut self, reason: Reason) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    fn lost(&mut self) -> Gone {
        self.gone = true;
        Gone
    }

    fn pack(&mut self, data: &[u8]) -> Bytes {
        if self.buffer.capacity() - self.buffer.len() < data.len() {
            self.buffer.reserve(data.len().max(WRITE_BYTES));
        }
        self.buffer.extend_from_slice(data);
        self.buffer.split().freeze()
    }
}

impl Downstream for H2Down {
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
        _max: usize,
    ) -> Poll<Result<bool, Error>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(true)) };
        match ready!(body.poll_data(cx)) {
            None => Poll::Ready(Ok(true)),
            Some(Ok(frame)) => {
                into.extend_from_slice(&frame);
                let _ = body.flow_control().release_capacity(frame.len());
                Poll::Ready(Ok(body.is_end_stream()))
            }
            Some(Err(error)) => {
                self.gone = true;
                Poll::Ready(Err(Error::downstream(
                    Kind::ClientGone,
                    "the caller left before the request was complete",
                )
                .because(error)))
            }
        }
    }

    fn start(&mut self, status: u16, headers: &Headers, body: AnswerBody) {
        self.started = true;
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let map = response.headers_mut();
        map.reserve(headers.len() + 1);
        for (_, name, value) in headers.iter() {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                map.append(name, value);
            }
        }
        if let AnswerBody::Length(length) = body {
            map.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
            self.left = Some(length);
        }
        match self.respond.send_response(response, false) {
            Ok(stream) => self.stream = Some(stream),
            Err(_) => self.gone = true,
        }
    }

    fn started(&self) -> bool {
        self.started
    }

    fn send(&mut self, cx: &mut Cx<'_>, data: &[u8], last: bool) -> Result<(), Gone> {
        if self.gone {
            return Err(Gone);
        }
        if let Some(left) = &mut self.left {
            match left.checked_sub(data.len() as u64) {
                Some(rest) if !last || rest == 0 => *left = rest,
                _ => {
                    self.aborted = true;
                    return Err(Gone);
                }
            }
        }
        if !data.is_empty() {
            let frame = self.pack(data);
            self.pending.push_back(frame);
        }
        self.ended |= last;
        match self.poll_drained(cx) {
            Poll::Ready(Err(gone)) => Err(gone),
            _ => Ok(()),
        }
    }

    fn poll_drained(&mut self, cx: &mut Cx<'_>) -> Poll<Result<(), Gone>> {
        if self.gone {
            return Poll::Ready(Err(Gone));
        }
        while let Some(front) = self.pending.front_mut() {
            let Some(stream) = &mut self.stream else { return Poll::Ready(Err(self.lost())) };
            stream.reserve_capacity(front.len());
            if stream.capacity() == 0 {
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    _ => return Poll::Ready(Err(self.lost())),
                }
            }
            let part = front.split_to(stream.capacity().min(front.len()));
            if front.is_empty() {
                self.pending.pop_front();
            }
            let last = self.ended && !self.aborted && self.pending.is_empty();
            self.closed |= last;
            if stream.send_data(part, last).is_err() {
                return Poll::Ready(Err(self.lost()));
            }
        }
        if self.ended && !self.closed && !self.aborted {
            self.closed = true;
            let sent = self.stream.as_mut().map(|stream| stream.send_data(Bytes::new(), true));
            if !matches!(sent, Some(Ok(()))) {
                return Poll::Ready(Err(self.lost()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Cx<'_>) -> Poll<()> {
        if self.gone {
            return Poll::Ready(());
        }
        let reset = match &mut self.stream {
            Some(stream) => stream.poll_reset(cx).is_ready(),
            None => self.respond.poll_reset(cx).is_ready(),
        };
        if reset {
            self.gone = true;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn abort(&mut self) {
        self.aborted = true;
        self.reset(Reason::INTERNAL_ERROR);
    }
}

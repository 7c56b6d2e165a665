//! One attempt at one candidate, up to the first content of its answer. A state machine without a
//! task of its own: dropping it cancels.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clock;
use crate::dialect::{End, classify, inspect, scrub_error, splice};
use crate::error::{Effect, Error, Kind};
use crate::health::Sample;
use crate::ident::Alias;
use crate::proxy::answer::{Answer, Progress, Reader};
use crate::proxy::attempts::Ask;
use crate::proxy::head::upstream_headers;
use crate::proxy::snapshot::KeyedCredential;
use crate::route::Target;
use crate::upstream::{Acquire, Conn, DataEvent, Exchange, Outgoing};
use crate::wire::Name;

/// Bytes of an error's body that are read.
const ERROR_BYTES: usize = 64 * 1024;
/// Pause before the only candidate is asked again after a server error.
const PAUSE: Duration = Duration::from_millis(100);

/// Which candidate of which route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pick {
    pub route: usize,
    pub candidate: usize,
}

enum Phase {
    Pausing(std::pin::Pin<Box<tokio::time::Sleep>>),
    Acquiring(Acquire),
    Head(Exchange),
    ErrorBody(Exchange, Vec<u8>),
    Held(Answer),
    Over,
}

/// An attempt under way.
pub(super) struct Attempt<'a> {
    pub pick: Pick,
    phase: Phase,
    pub sample: Sample<'a>,
    target: &'a Target,
    keyed: &'a KeyedCredential,
    began: Instant,
    /// When the request was handed to a connection.
    pub sent_at: Option<Instant>,
    /// The connection had been used before, so that a fault may only mean that it was stale.
    reused: bool,
    pub fresh: bool,
    /// Whether it has been polled at all.
    pub polled: bool,
    /// Bytes held back for the caller.
    held: Vec<u8>,
    strip_usage: bool,
}

/// An attempt whose answer may flow to the caller.
pub(super) struct Winner<'a> {
    pub pick: Pick,
    pub answer: Answer,
    /// Bytes read so far, and whether those were all.
    pub held: Vec<u8>,
    pub end: Option<End>,
    pub sample: Sample<'a>,
    pub sent_at: Instant,
    pub keyed: &'a KeyedCredential,
    pub has_content: bool,
}

impl<'a> Attempt<'a> {
    /// Starts an attempt; `fresh` insists on a new connection, `pause` waits a little first.
    pub(super) fn new(
        ask: &Ask<'a, '_>,
        pick: Pick,
        keyed: &'a KeyedCredential,
        fresh: bool,
        pause: bool,
    ) -> Attempt<'a> {
        let target = ask.target(pick);
        let origin = &ask.provider(pick).origin;
        let pools = &ask.worker.pools;
        let phase = if pause {
            Phase::Pausing(Box::pin(tokio::time::sleep(PAUSE)))
        } else if fresh {
            Phase::Acquiring(pools.acquire_fresh(origin))
        } else {
            Phase::Acquiring(pools.acquire(origin))
        };
        Attempt {
            pick,
            phase,
            sample: target.state.begin(ask.worker.index),
            target,
            keyed,
            began: clock::instant(),
            sent_at: None,
            reused: false,
            fresh,
            polled: false,
            held: Vec::new(),
            strip_usage: false,
        }
    }

    /// When the attempt has taken too long.
    pub(super) fn deadline(&self, ask: &Ask<'_, '_>) -> Option<Instant> {
        let timeouts = &ask.provider(self.pick).timeouts;
        match self.sent_at {
            // The dial has its own limit; this one also covers waiting for a free connection.
            None => Some(self.began + timeouts.connect + PAUSE * 2),
            Some(sent) => timeouts.first_content.map(|limit| sent + limit),
        }
    }

    /// The fault of having taken too long.
    pub(super) fn timed_out(&self) -> Error {
        match self.sent_at {
            // A dial has its own, shorter limit: this one waited behind other requests.
            None => Error::upstream(
                Kind::NoUpstream,
                "all connections to the upstream are busy; ask again shortly",
            )
            .unprocessed(),
            Some(_) => Error::upstream(Kind::TimeoutHeaders, "the upstream did not answer in time"),
        }
    }

    /// Whether a fault may come from a connection that the upstream had closed meanwhile.
    pub(super) fn maybe_stale(&self, error: &Error) -> bool {
        error.kind == Kind::Connect && self.reused && !self.fresh
    }

    /// Ready once the answer may flow. `must_hold`: another attempt is possible, so frames without
    /// content are held back.
    ///
    /// # Errors
    /// The fault of this attempt; another may follow.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        ask: &Ask<'_, '_>,
        must_hold: bool,
    ) -> Poll<Result<Progress, Error>> {
        self.polled = true;
        loop {
            match &mut self.phase {
                Phase::Pausing(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    let origin = &ask.provider(self.pick).origin;
                    self.phase = Phase::Acquiring(ask.worker.pools.acquire(origin));
                    self.began = clock::instant();
                }
                Phase::Acquiring(acquire) => {
                    let conn = ready!(acquire.poll(cx))?;
                    self.begin(ask, conn);
                }
                Phase::Head(exchange) => {
                    ready!(exchange.poll_head(cx))?;
                    self.take_head(ask)?;
                }
                Phase::ErrorBody(exchange, body) => {
                    ready!(poll_error_body(cx, exchange, body));
                    return Poll::Ready(Err(self.take_error()));
                }
                Phase::Held(answer) => {
                    let held = &mut self.held;
                    match answer.poll_read(cx, held) {
                        Poll::Ready(outcome) => {
                            let progress = outcome?;
                            if let Some(outcome) = flows(answer, held, progress, ask) {
                                return Poll::Ready(match outcome {
                                    Ok(()) => Ok(progress),
                                    Err(error) => Err(self.cleaned(error)),
                                });
                            }
                        }
                        Poll::Pending => {
                            let is_stream = matches!(answer.reader, Reader::Stream(_));
                            if is_stream && !must_hold {
                                let signals = answer.seen;
                                return Poll::Ready(Ok(Progress { signals, end: None }));
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Phase::Over => return Poll::Pending,
            }
        }
    }

    /// Puts the request on a connection.
    fn begin(&mut self, ask: &Ask<'_, '_>, conn: Conn) {
        let provider = ask.provider(self.pick);
        let renamed = ask.plan.renamed.as_ref().map(Alias::as_str);
        let model = self.target.upstream_model.as_deref().or(renamed);
        let wants = ask.plan.stream && !ask.plan.wants_usage;
        self.strip_usage = wants && provider.include_usage;
        let edits = splice(ask.asked, model, self.strip_usage);
        let body = if edits.is_empty() { vec![ask.body.clone()] } else { pieces(ask.body, &edits) };
        let mut headers = ask.worker.headers.borrow_mut();
        upstream_headers(ask.head, &self.keyed.credential, &provider.headers, &mut headers);
        let mut path = String::with_capacity(64);
        path.push_str(&provider.base_path);
        path.push_str(ask.plan.endpoint.path());
        self.reused = conn.reused();
        let outgoing = Outgoing {
            path: &path,
            headers: &headers,
            authority: &provider.origin.authority,
            tls: provider.origin.settings.tls,
            body,
        };
        self.phase = Phase::Head(Exchange::begin(conn, outgoing));
        self.sent_at = Some(clock::instant());
    }

    fn take_head(&mut self, ask: &Ask<'_, '_>) -> Result<(), Error> {
        let Phase::Head(exchange) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return Ok(());
        };
        let status = exchange.head().status;
        if status == 408 && self.reused && !self.fresh {
            // Its time for an idle connection ran out as our request set off: it never had it.
            return Err(Error::upstream(Kind::Connect, "the upstream closed an idle connection")
                .unprocessed());
        }
        self.phase = if (200..300).contains(&status) {
            Phase::Held(Answer::new(exchange, ask.plan, self.strip_usage)?)
        } else {
            Phase::ErrorBody(exchange, Vec::new())
        };
        Ok(())
    }

    /// Makes a fault of an answer that is no success.
    fn take_error(&mut self) -> Error {
        let Phase::ErrorBody(exchange, body) = std::mem::replace(&mut self.phase, Phase::Over)
        else {
            return Error::upstream(Kind::Internal, "the attempt is over");
        };
        let head = exchange.head();
        let field =
            |name: &str| head.headers.find(name).and_then(|value| std::str::from_utf8(value).ok());
        let status = head.status;
        let mut error = if (300..400).contains(&status) {
            // Redirects are not followed: a credential belongs to one destination.
            Error::upstream(Kind::ServerError, "the upstream answered with a redirect")
                .because(format!("status {status}; correct the provider's base_url"))
        } else {
            classify(status, field, &body, clock::unix_ms())
        };
        if error.kind.row().effect == Effect::Ignore
            && let Ok(text) = std::str::from_utf8(&body)
            && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
        {
            error.body = Some(body);
        }
        exchange.finish();
        self.cleaned(error)
    }

    /// The error without our own key, which upstreams like to quote.
    fn cleaned(&self, mut error: Error) -> Error {
        let secrets: Vec<&str> = self.keyed.credential.secret().into_iter().collect();
        scrub_error(&mut error, &secrets);
        error
    }

    /// Whether frames of an answer are being held back.
    pub(super) fn holds_frames(&self) -> bool {
        matches!(&self.phase, Phase::Held(answer) if matches!(answer.reader, Reader::Stream(_)))
    }

    /// What the attempt was made with.
    pub(super) fn keyed(&self) -> &'a KeyedCredential {
        self.keyed
    }

    /// Draws the consequences of a fault for the target and the credential.
    pub(super) fn note_fault(&self, error: &Error) {
        let now = clock::instant();
        let wait = Duration::from_millis(error.retry_after_ms.unwrap_or(1000));
        match error.kind.row().effect {
            Effect::Ignore => {}
            Effect::Failure => self.sample.failed(now),
            Effect::CoolDown => self.keyed.state.cool(now, wait),
            Effect::ParkCredential => {
                tracing::warn!(credential = %self.keyed.credential.name, error = %error.for_log(), "credential parked");
                self.keyed.state.park(now);
            }
            Effect::ParkTarget => {
                tracing::warn!(target_id = %self.target.id, error = %error.for_log(), "target parked");
                self.target.state.park(now);
            }
        }
    }

    /// Takes the answer out, to let it flow.
    pub(super) fn into_winner(self, progress: Progress) -> Option<Winner<'a>> {
        let Phase::Held(answer) = self.phase else { return None };
        Some(Winner {
            pick: self.pick,
            has_content: progress.signals.first_content()
                || !matches!(answer.reader, Reader::Stream(_)),
            answer,
            held: self.held,
            end: progress.end,
            sample: self.sample,
            sent_at: self.sent_at.unwrap_or(self.began),
            keyed: self.keyed,
        })
    }
}

/// Whether what is held may flow now; a fault that the answer itself tells of is one of the attempt.
fn flows(
    answer: &Answer,
    held: &[u8],
    progress: Progress,
    ask: &Ask<'_, '_>,
) -> Option<Result<(), Error>> {
    let Progress { signals, end } = progress;
    let limit = ask.settings.hold_bytes;
    match &answer.reader {
        Reader::Stream(_) => {
            if signals.error()
                && let Some(said) = answer.said()
            {
                // An error behind content of the same read has reached nobody yet either.
                return Some(Err(Error::from(said)));
            }
            if end == Some(End::Truncated) {
                return Some(Err(Error::upstream(
                    Kind::Truncated,
                    "the upstream's answer broke off",
                )));
            }
            let go = signals.first_content() || signals.server_tool() || signals.finished();
            (go || end.is_some() || held.len() > limit).then_some(Ok(()))
        }
        Reader::Unary(_) => {
            if end.is_none() {
                return (held.len() > limit).then_some(Ok(()));
            }
            if end == Some(End::Truncated) {
                return Some(Err(Error::upstream(
                    Kind::Truncated,
                    "the upstream's answer broke off",
                )));
            }
            let half = answer.ends_by_close()
                && serde_json::from_slice::<serde::de::IgnoredAny>(held).is_err();
            if held.is_empty() || half {
                return Some(Err(Error::upstream(
                    Kind::Truncated,
                    "the upstream's answer broke off",
                )));
            }
            Some(inspect(held).map_or(Ok(()), |said| Err(Error::from(&said))))
        }
        Reader::Opaque => Some(Ok(())),
    }
}

fn poll_error_body(cx: &mut Context<'_>, exchange: &mut Exchange, body: &mut Vec<u8>) -> Poll<()> {
    loop {
        let room = ERROR_BYTES - body.len();
        let outcome = ready!(exchange.poll_data(cx, &mut |data| {
            let room = ERROR_BYTES.saturating_sub(body.len());
            body.extend_from_slice(&data[..data.len().min(room)]);
        }));
        if room == 0 || !matches!(outcome, Ok(DataEvent::Data)) {
            return Poll::Ready(());
        }
    }
}

/// The body with its edits, as slices of the one that was received.
fn pieces(body: &Bytes, edits: &crate::dialect::Edits) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(5);
    let mut at = 0;
    for edit in edits.iter() {
        out.push(body.slice(at..edit.range.start));
        out.push(Bytes::copy_from_slice(&edit.text));
        at = edit.range.end;
    }
    out.push(body.slice(at..));
    out.retain(|piece| !piece.is_empty());
    out
}

/// The upstream's own id of a request.
pub(super) fn upstream_id(exchange: &Exchange) -> Option<&[u8]> {
    exchange.head().headers.get(Name::XRequestId)
}

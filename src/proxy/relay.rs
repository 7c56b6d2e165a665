//! Flowing: bytes pass from the upstream to the caller as they come. Nothing is sent twice, no
//! other upstream is asked any more, and a broken answer ends in an error, never in an end.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::clock;
use crate::dialect::{End, Signals, StreamKind, error_frame, scrub_error};
use crate::error::{Effect, Error, Kind, Origin};
use crate::exchange::{AnswerBody, Downstream};
use crate::net::LazyTimer;
use crate::proxy::answer::{Answer, Reader};
use crate::proxy::attempt::Winner;
use crate::proxy::attempts::client_gone;
use crate::proxy::record::{Outcome, Record};
use crate::proxy::reply;
use crate::proxy::snapshot::{Settings, Timeouts};

/// How long the rest of an answer is read after its end was passed on, to use the connection again.
const DRAIN: Duration = Duration::from_secs(2);
/// A comment that no client takes for content (and that no client fails on).
pub(super) const COMMENT: &[u8] = b": keep-alive\n\n";
/// Buffers above this are not kept between polls.
const KEEP_BYTES: usize = 256 * 1024;

/// What the relay needs to know.
pub(super) struct Flow<'a> {
    pub settings: &'a Settings,
    pub timeouts: Timeouts,
    pub kind: StreamKind,
    /// The answer's `model` is to be the name that was asked.
    pub rewrite_model: bool,
    pub model: &'a str,
    /// How long the rest of an answer is read, for its usage, when the caller has left.
    pub drain: Option<Duration>,
}

/// Passes the winner's answer on, to its end.
///
/// # Errors
/// Only when nothing has been sent yet.
pub(super) async fn relay<D: Downstream>(
    winner: Winner<'_>,
    flow: &Flow<'_>,
    down: &mut D,
    timer: &mut LazyTimer,
    record: &mut Record<'_>,
) -> Result<(), Error> {
    let mut under_way = UnderWay { flowing: Some(Flowing::new(winner, flow)), record };
    let ended = poll_fn(|cx| {
        let UnderWay { flowing: Some(flowing), record } = &mut under_way else {
            return Poll::Pending;
        };
        if !flowing.begun {
            flowing.begun = true;
            if let Some(ended) = flowing.begin(cx, flow, down, record) {
                return Poll::Ready(ended);
            }
        }
        flowing.poll(cx, flow, down, timer, record)
    })
    .await;
    if let Some(flowing) = under_way.flowing.take() {
        flowing.close(ended, under_way.record);
    }
    Ok(())
}

/// An answer that is being passed on. Cut off by the end of the process or by a panic, it is booked
/// by what has flowed.
struct UnderWay<'f, 'a, 'w> {
    flowing: Option<Flowing<'a>>,
    record: &'f mut Record<'w>,
}

impl Drop for UnderWay<'_, '_, '_> {
    fn drop(&mut self) {
        if let Some(flowing) = &self.flowing {
            let error = Error::new(
                if std::thread::panicking() { Kind::Internal } else { Kind::Cancelled },
                Origin::Internal,
                "the answer was cut off",
            );
            let _ = self.record.settle(&flowing.winner, Outcome::Fault(&error));
        }
    }
}

/// How the flow ended.
#[derive(Debug)]
enum Ended {
    /// The caller has everything, and the upstream's answer was read to its end.
    Whole,
    /// The caller has everything; the upstream has not closed its answer yet.
    WholeButOpen,
    Fault(Error),
    CallerLeft,
}

struct Flowing<'a> {
    winner: Winner<'a>,
    begun: bool,
    seen: Signals,
    /// The caller's side has been ended.
    last_event: Instant,
    deadline_total: Option<Instant>,
    stuck_since: Option<Instant>,
    /// The caller has left; the rest is read for its usage, until then at most.
    reading_on_until: Option<Instant>,
    last: Option<Last>,
}

/// The last bytes of an answer, which wait until its record is on the disk.
struct Last {
    data: Vec<u8>,
    durable: Pin<Box<dyn Future<Output = bool>>>,
    upstream_done: bool,
}

impl<'a> Flowing<'a> {
    fn new(winner: Winner<'a>, flow: &Flow<'_>) -> Self {
        let now = clock::instant();
        Flowing {
            begun: false,
            seen: winner.answer.seen,
            deadline_total: flow.timeouts.total.map(|total| winner.sent_at + total),
            last_event: now,
            stuck_since: None,
            reading_on_until: None,
            last: None,
            winner,
        }
    }

    /// Sends the head and what was held back.
    fn begin<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &Flow<'_>,
        down: &mut D,
        record: &mut Record<'_>,
    ) -> Option<Ended> {
        let mut held = std::mem::take(&mut self.winner.held);
        if self.winner.has_content {
            self.note_content(record);
        }
        self.rewrite(flow, &mut held);
        let answer = &self.winner.answer;
        let body = match (self.winner.end, answer.plain_length()) {
            _ if matches!(answer.reader, Reader::Stream(_)) => AnswerBody::Stream,
            (Some(_), _) => AnswerBody::Length(held.len() as u64),
            (None, Some(length)) if !flow.rewrite_model => AnswerBody::Length(length),
            _ => AnswerBody::Stream,
        };
        if !down.started() {
            reply::start_success(answer, body, down, record);
        }
        let ended = self.winner.end.map(|end| (end, true));
        self.pass_on(cx, flow, &held, ended, down, record)
    }

    /// Passes `data` on; `ended` is set with the last of it.
    fn pass_on<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &Flow<'_>,
        data: &[u8],
        ended: Option<(End, bool)>,
        down: &mut D,
        record: &mut Record<'_>,
    ) -> Option<Ended> {
        record.add_bytes_out(data.len());
        match ended {
            None => match down.send(cx, data, false) {
                Ok(()) => None,
                Err(_) => self.left(flow, record),
            },
            Some((End::Complete, upstream_done)) => {
                // The record is in the books before the caller can have the last byte.
                let mark = record.settle(&self.winner, Outcome::Whole);
                if mark.must_wait() {
                    let durable = Box::pin(async { mark.durable().await.is_ok() });
                    self.last = Some(Last { data: data.to_vec(), durable, upstream_done });
                    return None;
                }
                let _ = down.send(cx, data, true);
                Some(if upstream_done { Ended::Whole } else { Ended::WholeButOpen })
            }
            Some((End::Truncated, _)) => {
                let _ = down.send(cx, data, false);
                let error = Error::upstream(
                    Kind::Truncated,
                    "the upstream broke off before the answer was complete",
                );
                Some(self.break_off(cx, flow, error, down, record))
            }
        }
    }

    /// Ends the caller's answer with an error that cannot be taken for its end.
    fn break_off<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &Flow<'_>,
        error: Error,
        down: &mut D,
        record: &mut Record<'_>,
    ) -> Ended {
        record.settle(&self.winner, Outcome::Fault(&error));
        match &self.winner.answer.reader {
            Reader::Stream(reader) if flow.kind != StreamKind::Opaque => {
                let mut frame = Vec::new();
                if reader.mid_frame() {
                    frame.extend_from_slice(b"\n\n");
                }
                frame.extend_from_slice(&error_frame(flow.kind, &error, reader.next_sequence()));
                let _ = down.send(cx, &frame, true);
            }
            _ => down.abort(),
        }
        Ended::Fault(error)
    }

    fn poll<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &Flow<'_>,
        down: &mut D,
        timer: &mut LazyTimer,
        record: &mut Record<'_>,
    ) -> Poll<Ended> {
        let mut read_clock = false;
        loop {
            if record.poll_ended(cx) {
                return Poll::Ready(self.break_off(cx, flow, key_ended(), down, record));
            }
            if self.reading_on_until.is_some() {
                return self.poll_rest(cx, timer, record);
            }
            match down.poll_drained(cx) {
                Poll::Ready(Ok(())) => self.stuck_since = None,
                Poll::Ready(Err(_)) => match self.left(flow, record) {
                    Some(ended) => return Poll::Ready(ended),
                    None => continue,
                },
                Poll::Pending => {
                    self.winner.answer.pump(cx);
                    return self.poll_stuck(cx, flow, down, timer, record);
                }
            }
            if self.last.is_some() {
                return self.poll_last(cx, down);
            }
            let worker = record.worker();
            let mut out = worker.out.take();
            out.clear();
            let outcome = self.poll_upstream(cx, flow, &mut out, down, record);
            if out.capacity() <= KEEP_BYTES {
                worker.out.replace(out);
            }
            match outcome {
                Poll::Ready(Some(ended)) => return Poll::Ready(ended),
                Poll::Ready(None) => read_clock = true,
                Poll::Pending => {
                    if down.poll_gone(cx).is_ready() {
                        match self.left(flow, record) {
                            Some(ended) => return Poll::Ready(ended),
                            None => continue,
                        }
                    }
                    let now = read_clock.then_some(self.last_event);
                    match self.poll_silence(cx, now, flow, down, timer, record) {
                        Poll::Ready(Some(ended)) => return Poll::Ready(ended),
                        Poll::Ready(None) => {}
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }

    /// Sends the last bytes once their record is on the disk. If the disk refuses, the caller's
    /// answer is cut: what is not in the books must not look complete.
    fn poll_last<D: Downstream>(&mut self, cx: &mut Context<'_>, down: &mut D) -> Poll<Ended> {
        let Some(last) = &mut self.last else { return Poll::Pending };
        if ready!(last.durable.as_mut().poll(cx)) {
            let _ = down.send(cx, &last.data, true);
        } else {
            down.abort();
        }
        Poll::Ready(if last.upstream_done { Ended::Whole } else { Ended::WholeButOpen })
    }

    /// Reads once from the upstream and passes it on.
    fn poll_upstream<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &Flow<'_>,
        out: &mut Vec<u8>,
        down: &mut D,
        record: &mut Record<'_>,
    ) -> Poll<Option<Ended>> {
        let progress = match self.winner.answer.poll_read(cx, out) {
            Poll::Ready(Ok(progress)) => progress,
            Poll::Ready(Err(error)) => {
                return Poll::Ready(Some(self.interrupted(cx, flow, error, down, record)));
            }
            Poll::Pending => return Poll::Pending,
        };
        self.last_event = clock::instant();
        let signals = progress.signals;
        self.seen = self.seen.and(signals);
        if signals.first_content() {
            self.note_content(record);
        }
        if signals.error()
            && let Some(said) = self.winner.answer.said()
        {
            let mut error = Error::from(said);
            error.message.clone_from(&said.message);
            self.scrub(&mut error);
            error.code = Some("upstream_error".into());
            let _ = down.send(cx, out, false);
            return Poll::Ready(Some(self.break_off(cx, flow, error, down, record)));
        }
        let ended = match progress.end {
            Some(end) => Some((end, true)),
            // After `[DONE]` there is nothing to wait for: the caller's answer ends here.
            None if signals.done_marker() => Some((End::Complete, false)),
            None => None,
        };
        // What grows no more is settled with what it really used: nothing is to be reserved for it.
        let grows = ended.is_none() && !self.seen.finished();
        if let Err(error) = if grows { self.extend(record) } else { Ok(()) } {
            let _ = down.send(cx, out, false);
            return Poll::Ready(Some(self.break_off(cx, flow, error, down, record)));
        }
        self.rewrite(flow, out);
        if out.is_empty() && ended.is_none() {
            return Poll::Ready(None);
        }
        Poll::Ready(self.pass_on(cx, flow, out, ended, down, record))
    }

    /// The upstream's side broke. An answer that had come to its terminal marker is complete.
    fn interrupted<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &Flow<'_>,
        error: Error,
        down: &mut D,
        record: &mut Record<'_>,
    ) -> Ended {
        if self.seen.finished() {
            record.settle(&self.winner, Outcome::Whole);
            let _ = down.send(cx, b"", true);
            return Ended::WholeButOpen;
        }
        self.break_off(cx, flow, error, down, record)
    }

    /// The caller takes nothing: it may do so for a while.
    fn poll_stuck<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &Flow<'_>,
        down: &mut D,
        timer: &mut LazyTimer,
        record: &mut Record<'_>,
    ) -> Poll<Ended> {
        let since = *self.stuck_since.get_or_insert_with(clock::instant);
        timer.set(Some(since + flow.settings.write_time));
        if timer.poll(cx).is_ready() || down.poll_gone(cx).is_ready() {
            return match self.left(flow, record) {
                Some(ended) => Poll::Ready(ended),
                None => self.poll_rest(cx, timer, record),
            };
        }
        Poll::Pending
    }

    /// Reads the rest of an answer whose caller has left, for the usage at its end.
    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut LazyTimer,
        record: &mut Record<'_>,
    ) -> Poll<Ended> {
        let mut waste = Vec::new();
        loop {
            waste.clear();
            match self.winner.answer.poll_read(cx, &mut waste) {
                Poll::Ready(Ok(progress)) => {
                    self.seen = self.seen.and(progress.signals);
                    let ended = match progress.end {
                        Some(End::Complete) => Ended::Whole,
                        Some(End::Truncated) => Ended::CallerLeft,
                        None if progress.signals.done_marker() => Ended::WholeButOpen,
                        None => continue,
                    };
                    record.settle(&self.winner, Outcome::Fault(&client_gone()));
                    return Poll::Ready(ended);
                }
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {
                    let until = self.reading_on_until.into_iter().chain(self.deadline_total).min();
                    timer.set(until);
                    if timer.poll(cx).is_ready() {
                        break;
                    }
                    return Poll::Pending;
                }
            }
        }
        record.settle(&self.winner, Outcome::Fault(&client_gone()));
        Poll::Ready(Ended::CallerLeft)
    }

    /// The upstream sends nothing: it may do so for a while, and the caller may get a comment.
    fn poll_silence<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        just_now: Option<Instant>,
        flow: &Flow<'_>,
        down: &mut D,
        timer: &mut LazyTimer,
        record: &mut Record<'_>,
    ) -> Poll<Option<Ended>> {
        let has_content = record.has_content();
        let silent = match has_content {
            true => flow.timeouts.idle.map(|limit| self.last_event + limit),
            false => flow.timeouts.first_content.map(|limit| self.winner.sent_at + limit),
        };
        let comment = flow
            .settings
            .keep_alive_comment
            .filter(|_| !has_content && matches!(self.winner.answer.reader, Reader::Stream(_)))
            .map(|silence| self.last_event + silence);
        timer.set([silent, comment, self.deadline_total].into_iter().flatten().min());
        let fired = match just_now {
            Some(now) => timer.poll_at(cx, now),
            None => timer.poll(cx),
        };
        if fired.is_pending() {
            return Poll::Pending;
        }
        let now = clock::instant();
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_over(silent) || is_over(self.deadline_total) {
            let error =
                Error::upstream(Kind::IdleTimeout, "the upstream stopped sending its answer");
            return Poll::Ready(Some(self.interrupted(cx, flow, error, down, record)));
        }
        if is_over(comment) {
            self.last_event = now;
            if down.send(cx, COMMENT, false).is_err() {
                return Poll::Ready(self.left(flow, record));
            }
        }
        Poll::Ready(None)
    }

    /// The caller has hung up. After the end of the content that is how some clients say goodbye;
    /// before it, the rest may be read all the same (`None`), because it ends with the usage.
    fn left(&mut self, flow: &Flow<'_>, record: &mut Record<'_>) -> Option<Ended> {
        if self.seen.finished() && self.winner.answer.usage().is_some() {
            record.settle(&self.winner, Outcome::Whole);
            return Some(Ended::WholeButOpen);
        }
        if let Some(drain) = flow.drain.filter(|_| self.winner.end.is_none()) {
            self.reading_on_until = Some(clock::instant() + drain);
            return None;
        }
        record.settle(&self.winner, Outcome::Fault(&client_gone()));
        Some(Ended::CallerLeft)
    }

    /// Reserves more when an answer grows beyond what was reserved for it.
    ///
    /// # Errors
    /// A limit that has no room and says that the answer is then cut.
    fn extend(&self, record: &mut Record<'_>) -> Result<(), Error> {
        match &self.winner.answer.reader {
            Reader::Stream(reader) if reader.content_bytes() > record.reserved_until_bytes() => {
                record.extend(reader.content_bytes())
            }
            _ => Ok(()),
        }
    }

    fn note_content(&self, record: &mut Record<'_>) {
        let now = clock::instant();
        // A whole answer is not a first token: only streams teach how soon a target speaks.
        if matches!(self.winner.answer.reader, Reader::Stream(_)) {
            self.winner.sample.first_content(clock::us_between(self.winner.sent_at, now));
        }
        record.first_content(now);
    }

    fn scrub(&self, error: &mut Error) {
        let secrets: Vec<&str> = self.winner.keyed.credential.secret().into_iter().collect();
        scrub_error(error, &secrets);
    }

    /// Puts the asked name where the upstream names its own model. The bytes `"model":"…"` cannot
    /// stand inside of a JSON string, where quotes are escaped.
    fn rewrite(&self, flow: &Flow<'_>, out: &mut Vec<u8>) {
        if !flow.rewrite_model {
            return;
        }
        if let Some(served) = self.winner.answer.model_served().filter(|name| *name != flow.model) {
            rewrite_model(out, served, flow.model);
        }
    }

    /// Draws the consequences, and gives the connection back or cuts it.
    fn close(self, ended: Ended, record: &mut Record<'_>) {
        let Winner { answer, sample, keyed, .. } = self.winner;
        match ended {
            Ended::Whole => {
                sample.succeeded();
                keyed.state.succeeded();
                answer.into_exchange().finish();
            }
            Ended::WholeButOpen => {
                sample.succeeded();
                keyed.state.succeeded();
                drain_later(answer);
            }
            Ended::Fault(error) => {
                if error.kind.row().effect == Effect::Failure {
                    sample.failed(clock::instant());
                }
                tracing::debug!(error = %error.for_log(), request = %record.id(), "answer broken off");
            }
            Ended::CallerLeft => {}
        }
    }
}

/// The key was blocked while its answer flowed.
pub(super) fn key_ended() -> Error {
    Error::downstream(Kind::KeyDisabled, "this API key has been blocked; ask for another one")
}

fn rewrite_model(out: &mut Vec<u8>, served: &str, asked: &str) {
    let from = format!("\"model\":\"{served}\"");
    let to = format!("\"model\":{}", serde_json::Value::from(asked));
    let mut result = Vec::with_capacity(out.len() + to.len());
    let mut rest = 0;
    for at in memchr::memmem::find_iter(out, from.as_bytes()) {
        result.extend_from_slice(&out[rest..at]);
        result.extend_from_slice(to.as_bytes());
        rest = at + from.len();
    }
    if rest > 0 {
        result.extend_from_slice(&out[rest..]);
        *out = result;
    }
}

/// Reads the rest of an answer that the caller does not wait for any more, so that its connection
/// can be used again. Usually there is nothing left but the end of the coding.
fn drain_later(mut answer: Answer) {
    tokio::task::spawn_local(async move {
        let mut waste = Vec::new();
        let drained = poll_fn(|cx| {
            loop {
                waste.clear();
                match answer.poll_read(cx, &mut waste) {
                    Poll::Ready(Ok(progress)) if progress.end.is_some() => {
                        return Poll::Ready(true);
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        if matches!(tokio::time::timeout(DRAIN, drained).await, Ok(true)) {
            answer.into_exchange().finish();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_name_replaces_the_served_one_as_a_json_string() {
        let mut out = br#"{"model":"m-1","x":"\"model\":\"m-1\"","model":"m-1"}"#.to_vec();
        rewrite_model(&mut out, "m-1", "a\"b");
        let want = br#"{"model":"a\"b","x":"\"model\":\"m-1\"","model":"a\"b"}"#;
        assert_eq!(out, want);
    }
}

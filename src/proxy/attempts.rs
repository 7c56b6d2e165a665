//! The attempts of one request: a small set, of which the first to reach content wins. What is
//! dropped is cancelled upstream at once, and booked.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::admit::Terms;
use crate::clock::{self, Now};
use crate::dialect::{Asked, sentence};
use crate::error::{Effect, Error, Kind, Same};
use crate::exchange::Downstream;
use crate::net::LazyTimer;
use crate::proxy::answer::Progress;
use crate::proxy::attempt::{Attempt, Pick, Winner};
use crate::proxy::plan::Plan;
use crate::proxy::record::Record;
use crate::proxy::relay::{COMMENT, key_ended};
use crate::proxy::reply;
use crate::proxy::snapshot::{Provider, Settings, Snapshot};
use crate::proxy::worker::Worker;
use crate::route::{Order, Target};
use crate::wire::RequestHead;

/// Attempts that run at the same time. One until hedging starts a second.
const RUNNING_MAX: usize = 2;

/// What is asked, and of whom it can be asked. `'a` is the generation's life, `'r` the body's.
pub(super) struct Ask<'a, 'r> {
    pub worker: &'a Worker,
    pub snapshot: &'a Snapshot,
    pub settings: &'a Settings,
    pub head: &'r RequestHead,
    pub plan: &'r Plan,
    pub asked: &'r Asked<'r>,
    pub body: &'r Bytes,
    pub terms: &'r Terms,
    pub now: Now,
}

impl<'a> Ask<'a, '_> {
    pub(super) fn target(&self, pick: Pick) -> &'a Target {
        &self.snapshot.table.route(pick.route).candidates[pick.candidate].target
    }

    /// Whether nobody knows what the candidate costs, and it is then not to be asked.
    fn is_refused(&self, pick: Pick) -> bool {
        self.snapshot.is_refused(pick, self.plan, self.terms, self.now.unix_ms)
    }

    /// How long the rest of an answer is read when its caller has left.
    pub(super) fn drain(&self, pick: Pick) -> Option<Duration> {
        self.snapshot.drain(pick)
    }

    pub(super) fn provider(&self, pick: Pick) -> &'a Provider {
        self.snapshot.provider(&self.snapshot.table.route(pick.route).candidates[pick.candidate])
    }
}

/// Asks until an answer may flow.
///
/// # Errors
/// The fault of the last attempt, or `ClientGone`.
pub(super) async fn first_content<'a, D: Downstream>(
    ask: &Ask<'a, '_>,
    down: &mut D,
    timer: &mut LazyTimer,
    record: &mut Record<'_>,
) -> Result<Winner<'a>, Error> {
    ask.worker.retries.earn(ask.settings.retry_ratio);
    let mut set = Set::new(ask, record.started());
    set.start_next(ask)?;
    let outcome = poll_fn(|cx| set.poll(cx, ask, down, timer, record)).await;
    if outcome.is_err() {
        set.book_running(record);
    }
    outcome
}

/// The attempts under way and the candidates that are left.
struct Set<'a> {
    running: [Option<Attempt<'a>>; RUNNING_MAX],
    /// The route whose candidates are being asked, and the fallbacks after it.
    route: usize,
    order: Order,
    next: usize,
    fallbacks_taken: usize,
    started: u8,
    /// Since when frames have been held back at most.
    hold_until: Instant,
    hold_over: bool,
    comment_at: Option<Instant>,
    repeated_only: bool,
    /// The caller has left; the answer is waited for all the same, for its usage, until then.
    gone_until: Option<Instant>,
    /// The soonest reset among the candidates that were left out because of a rate limit.
    soonest: Option<Duration>,
}

impl<'a> Set<'a> {
    fn new(ask: &Ask<'a, '_>, started: Instant) -> Set<'a> {
        let mut set = Set {
            running: [None, None],
            route: ask.plan.route,
            order: Order::default(),
            next: 0,
            fallbacks_taken: 0,
            started: 0,
            hold_until: started + ask.settings.hold_time,
            hold_over: false,
            comment_at: None,
            repeated_only: false,
            gone_until: None,
            soonest: None,
        };
        if ask.plan.stream {
            set.comment_at = ask.settings.keep_alive_comment.map(|silence| started + silence);
        }
        set.order_route(ask);
        set
    }

    fn order_route(&mut self, ask: &Ask<'a, '_>) {
        let route = ask.snapshot.table.route(self.route);
        let now = clock::instant();
        ask.worker.with_rng(|rng| {
            route.order(now, rng, |c| ask.snapshot.provider(c).usable(now), &mut self.order);
        });
        self.next = 0;
    }

    /// The next candidate, of this route or of its fallbacks.
    fn peek_next(&mut self, ask: &Ask<'a, '_>) -> Option<Pick> {
        loop {
            if let Some(&candidate) = self.order.picks().get(self.next) {
                return Some(Pick { route: self.route, candidate: usize::from(candidate) });
            }
            let fallbacks = &ask.snapshot.table.route(ask.plan.route).fallbacks;
            self.route = *fallbacks.get(self.fallbacks_taken)?;
            self.fallbacks_taken += 1;
            self.order_route(ask);
        }
    }

    /// Starts the next attempt at a candidate that has a credential to use.
    ///
    /// # Errors
    /// `RateLimited` when all that is left waits for a reset; `NoUpstream`.
    fn start_next(&mut self, ask: &Ask<'a, '_>) -> Result<(), Error> {
        while let Some(pick) = self.peek_next(ask) {
            self.next += 1;
            if ask.is_refused(pick) {
                continue;
            }
            match ask.provider(pick).pick(clock::instant()) {
                Ok(keyed) => {
                    self.put(Attempt::new(ask, pick, keyed, false, false));
                    return Ok(());
                }
                Err(wait) => self.soonest = Some(self.soonest.map_or(wait, |s| s.min(wait))),
            }
        }
        Err(self.nobody())
    }

    fn nobody(&self) -> Error {
        match self.soonest {
            Some(wait) => {
                let mut error = Error::upstream(Kind::RateLimited, sentence(Kind::RateLimited));
                error.retry_after_ms = Some(wait.as_millis() as u64);
                error
            }
            None => Error::upstream(Kind::NoUpstream, sentence(Kind::Overloaded)),
        }
    }

    fn put(&mut self, attempt: Attempt<'a>) {
        self.started += 1;
        if let Some(slot) = self.running.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(attempt);
        }
    }

    /// Whether another attempt could still follow, so that frames are worth holding back.
    fn another_possible(&mut self, ask: &Ask<'a, '_>) -> bool {
        self.started < ask.settings.attempts
            && ask.plan.duplicate_safe
            && self.peek_next(ask).is_some()
    }

    fn poll<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        ask: &Ask<'a, '_>,
        down: &mut D,
        timer: &mut LazyTimer,
        record: &mut Record<'_>,
    ) -> Poll<Result<Winner<'a>, Error>> {
        loop {
            // Frames are held back as long as another attempt could still take over.
            let must_hold = !self.hold_over && self.another_possible(ask);
            for at in 0..RUNNING_MAX {
                let Some(attempt) = &mut self.running[at] else { continue };
                let outcome = attempt.poll(cx, ask, must_hold);
                if let Some(sent) = attempt.sent_at {
                    record.first_sent(sent);
                }
                match outcome {
                    Poll::Ready(Ok(progress)) => {
                        return Poll::Ready(self.win(at, progress, record));
                    }
                    Poll::Ready(Err(error)) => self.fault(at, error, ask, record)?,
                    Poll::Pending => {}
                }
            }
            if down.poll_gone(cx).is_ready() && !self.reads_on(ask) {
                return Poll::Ready(Err(client_gone()));
            }
            if record.poll_ended(cx) {
                return Poll::Ready(Err(key_ended()));
            }
            if self.poll_times(cx, ask, down, timer, record)? {
                continue;
            }
            if self.running.iter().flatten().next().is_some() && !self.just_started() {
                return Poll::Pending;
            }
        }
    }

    /// Whether the answer is waited for although the caller has left: once asked, an upstream works
    /// and bills, and only the end of its answer says how much.
    fn reads_on(&mut self, ask: &Ask<'a, '_>) -> bool {
        if self.gone_until.is_none() {
            let sent = self.running.iter().flatten().find(|attempt| attempt.sent_at.is_some());
            let drain = sent.and_then(|attempt| ask.drain(attempt.pick));
            self.gone_until = drain.map(|drain| clock::instant() + drain);
            self.comment_at = None;
        }
        self.gone_until.is_some()
    }

    /// Whether an attempt was started in this round and has not been polled yet.
    fn just_started(&self) -> bool {
        self.running.iter().flatten().any(|attempt| !attempt.polled)
    }

    /// Watches the clock; `true` if the attempts are to be polled again.
    fn poll_times<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        ask: &Ask<'a, '_>,
        down: &mut D,
        timer: &mut LazyTimer,
        record: &mut Record<'_>,
    ) -> Result<bool, Error> {
        let deadlines = self.running.iter().flatten().filter_map(|a| a.deadline(ask));
        let held = self.running.iter().flatten().any(Attempt::holds_frames);
        let hold = held.then_some(self.hold_until);
        timer.set(deadlines.chain(hold).chain(self.comment_at).chain(self.gone_until).min());
        if timer.poll(cx).is_pending() {
            return Ok(false);
        }
        let now = clock::instant();
        if self.gone_until.is_some_and(|until| until <= now) {
            return Err(client_gone());
        }
        if held && now >= self.hold_until {
            self.hold_over = true;
        }
        if self.comment_at.is_some_and(|at| at <= now) {
            self.comment(cx, ask, down, record, now)?;
        }
        for at in 0..RUNNING_MAX {
            let Some(attempt) = &self.running[at] else { continue };
            if attempt.deadline(ask).is_some_and(|deadline| deadline <= now) {
                let error = attempt.timed_out();
                self.fault(at, error, ask, record)?;
            }
        }
        Ok(true)
    }

    /// Tells the caller that somebody is working. From here on its status is 200, and a fault must
    /// be told inside of the stream; another attempt is possible all the same.
    fn comment<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        ask: &Ask<'a, '_>,
        down: &mut D,
        record: &mut Record<'_>,
        now: Instant,
    ) -> Result<(), Error> {
        if !down.started() {
            reply::start_stream(down, record);
        }
        if down.poll_drained(cx).is_ready() {
            down.send(cx, COMMENT, false).map_err(|_| client_gone())?;
        }
        self.comment_at = ask.settings.keep_alive_comment.map(|silence| now + silence);
        Ok(())
    }

    /// One attempt has won; the others are cancelled by being dropped.
    fn win(
        &mut self,
        at: usize,
        progress: Progress,
        record: &mut Record<'_>,
    ) -> Result<Winner<'a>, Error> {
        let winner = self.running[at].take().and_then(|attempt| attempt.into_winner(progress));
        for loser in self.running.iter_mut().filter_map(Option::take) {
            record.attempt_over(loser.pick, Kind::Cancelled);
        }
        winner.ok_or_else(|| Error::upstream(Kind::Internal, "the attempt had no answer"))
    }

    /// Decides what follows on a fault.
    ///
    /// # Errors
    /// The fault, when nothing follows and nothing runs any more.
    fn fault(
        &mut self,
        at: usize,
        error: Error,
        ask: &Ask<'a, '_>,
        record: &mut Record<'_>,
    ) -> Result<(), Error> {
        let Some(attempt) = self.running[at].take() else { return Ok(()) };
        record.attempt_over(attempt.pick, error.kind);
        // A request that may have been worked on is not sent twice if that could do harm.
        let may_repeat = ask.plan.duplicate_safe || error.unprocessed || is_definite(error.kind);
        if may_repeat && attempt.maybe_stale(&error) {
            tracing::debug!(error = %error.for_log(), "a waiting connection was stale; dialling a fresh one");
            self.put(Attempt::new(ask, attempt.pick, attempt.keyed(), true, false));
            self.started -= 1;
            return Ok(());
        }
        attempt.note_fault(&error);
        if error.kind.row().effect == Effect::Failure {
            ask.worker.tell_failure(ask.target(attempt.pick), ask.provider(attempt.pick), &error);
        }
        if error.kind == Kind::RateLimited {
            // The caller is told the soonest reset of all that were asked, not that of the last.
            let wait = Duration::from_millis(error.retry_after_ms.unwrap_or(1000));
            self.soonest = Some(self.soonest.map_or(wait, |soonest| soonest.min(wait)));
        }
        let row = error.kind.row();
        let now = clock::instant();
        let room = self.started < ask.settings.attempts && may_repeat;
        let others_run = self.running.iter().any(Option::is_some);
        if room && row.elsewhere && self.peek_next(ask).is_some() {
            if ask.worker.retries.spend(now, ask.settings.retry_min) {
                match self.start_next(ask) {
                    Ok(()) => return Ok(()),
                    Err(_) if others_run => return Ok(()),
                    Err(_) => return Err(final_error(error, self.soonest)),
                }
            }
        } else if room
            && row.same == Same::OnceIfOnly
            && self.started == 1
            && !self.repeated_only
            && ask.worker.retries.spend(now, ask.settings.retry_min)
        {
            self.repeated_only = true;
            self.put(Attempt::new(ask, attempt.pick, attempt.keyed(), false, true));
            return Ok(());
        }
        if others_run { Ok(()) } else { Err(final_error(error, self.soonest)) }
    }

    /// Books what still runs when the request ends without a winner.
    fn book_running(&mut self, record: &mut Record<'_>) {
        for attempt in self.running.iter_mut().filter_map(Option::take) {
            record.attempt_over(attempt.pick, Kind::ClientGone);
        }
    }
}

/// The upstream has said what happened: the request did not produce an answer there.
fn is_definite(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Connect
            | Kind::TimeoutHeaders
            | Kind::UpstreamTimeout
            | Kind::Truncated
            | Kind::IdleTimeout
    )
}

/// A rate limit tells the soonest reset of all candidates.
fn final_error(mut error: Error, soonest: Option<Duration>) -> Error {
    if error.kind == Kind::RateLimited
        && let Some(soonest) = soonest
    {
        let soonest = soonest.as_millis() as u64;
        error.retry_after_ms = Some(error.retry_after_ms.map_or(soonest, |ms| ms.min(soonest)));
    }
    error
}

pub(super) fn client_gone() -> Error {
    Error::downstream(Kind::ClientGone, "the caller left")
}

//! Playing a script: the body of an answer. One timer per stream, no allocation per step.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use rand::rngs::SmallRng;
use tokio::time::{Sleep, sleep_until};

use crate::clock;
use crate::sim::script::{End, Script, Step, Wait};
use crate::sim::settings::Distribution;
use crate::sim::state::Exchange;

/// An endless line ends here all the same.
const ENDLESS_BYTES: usize = 256 << 20;
const ENDLESS_PIECE: &[u8] = &[b'a'; 16 << 10];

/// How often a frozen stream looks whether the black hole is over.
const THAW_CHECK: Duration = Duration::from_millis(50);

/// A stream that is late by more than this (a slow reader) does not catch up in a burst.
const LATE_MAX: Duration = Duration::from_millis(100);

/// Before a connection breaks, what was already written gets this long to leave.
const BEFORE_CUT: Duration = Duration::from_millis(2);

/// The times of one answer.
pub(super) struct Pace {
    pub(super) rng: SmallRng,
    pub(super) ttft: Distribution,
    pub(super) gap: Distribution,
    /// Of the request itself; the run-time switch comes on top.
    pub(super) factor: f64,
}

impl Pace {
    /// The time to the first token.
    pub(super) fn first(&mut self, slowness: f64) -> Duration {
        self.ttft.sample(&mut self.rng).mul_f64(self.factor * slowness)
    }

    /// The time between two tokens.
    pub(super) fn gap(&mut self, slowness: f64) -> Duration {
        self.gap.sample(&mut self.rng).mul_f64(self.factor * slowness)
    }

    /// The time that a whole answer of `tokens` takes.
    pub(super) fn whole(&mut self, tokens: u64, slowness: f64) -> Duration {
        let first = self.first(slowness);
        (1..tokens).fold(first, |sum, _| sum + self.gap(slowness))
    }
}

/// The connection is to break; what is in here never reaches the wire.
#[derive(Debug)]
pub(super) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

/// The body of an answer. Dropping it before its end is how a cancel is noticed.
pub(super) struct Play {
    left: Bytes,
    steps: std::vec::IntoIter<Step>,
    next: Option<Step>,
    end: End,
    sized: bool,
    endless_left: usize,
    pace: Pace,
    /// The time to the first token has passed before the head was sent.
    first_waited: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer runs for the coming step.
    armed: bool,
    due: Instant,
    exchange: Exchange,
}

impl Play {
    /// Plays `script` from now on.
    pub(super) fn new(script: Script, pace: Pace, first_waited: bool, exchange: Exchange) -> Self {
        let mut steps = script.steps.into_iter();
        let mut play = Play {
            left: Bytes::from(script.bytes),
            next: steps.next(),
            steps,
            end: script.end,
            sized: script.sized,
            endless_left: ENDLESS_BYTES,
            pace,
            first_waited,
            timer: None,
            armed: false,
            due: clock::instant(),
            exchange,
        };
        if play.next.is_none() && play.end == End::Clean {
            play.exchange.complete();
        }
        play
    }

    /// How long to wait before `wait` is over; `None` for not at all.
    fn delay(&mut self, wait: Wait, now: Instant) -> Option<Duration> {
        let slowness = self.exchange.shared().behaviour().slowness(now);
        match wait {
            Wait::None => None,
            Wait::First if self.first_waited => None,
            Wait::First => Some(self.pace.first(slowness)),
            Wait::Gap => Some(self.pace.gap(slowness)),
        }
        .filter(|delay| !delay.is_zero())
    }

    /// Times are added to when the last step was due, not to when the timer fired: else the
    /// timer's millisecond would be added to every token.
    fn arm(&mut self, delay: Duration, now: Instant) {
        self.due = self.due.max(now.checked_sub(LATE_MAX).unwrap_or(now)) + delay;
        let at = self.due.into();
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
        self.armed = true;
    }

    /// Ready when the timer, if it runs, has fired and no black hole holds the stream.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let (true, Some(timer)) = (self.armed, &mut self.timer) {
                ready!(timer.as_mut().poll(cx));
            }
            let now = clock::instant();
            if !self.exchange.shared().behaviour().dark(now) {
                return Poll::Ready(());
            }
            self.due = now;
            self.arm(THAW_CHECK, now);
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.end {
            End::Clean => Poll::Ready(None),
            End::Stall => Poll::Pending,
            End::Cut => {
                if !self.armed {
                    self.arm(BEFORE_CUT, clock::instant());
                }
                ready!(self.poll_timer(cx));
                self.exchange.broken();
                Poll::Ready(Some(Err(Broken)))
            }
            End::Endless => {
                if self.endless_left == 0 {
                    self.exchange.complete();
                    return Poll::Ready(None);
                }
                self.endless_left = self.endless_left.saturating_sub(ENDLESS_PIECE.len());
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(ENDLESS_PIECE)))))
            }
        }
    }
}

impl Body for Play {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let Some(step) = this.next else { return this.poll_end(cx) };
        if !this.armed {
            let now = clock::instant();
            if let Some(delay) = this.delay(step.wait, now) {
                this.arm(delay, now);
            }
        }
        ready!(this.poll_timer(cx));
        this.armed = false;
        this.next = this.steps.next();
        this.exchange.sent(step.tokens);
        if this.next.is_none() && this.end == End::Clean {
            this.exchange.complete();
        }
        Poll::Ready(Some(Ok(Frame::data(this.left.split_to(step.len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.end == End::Clean
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { SizeHint::with_exact(self.left.len() as u64) } else { SizeHint::default() }
    }
}

//! A deadline that moves with every event of a stream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::clock;

/// A timer that fires so late tells of a process that was stopped or starved. It finds its timers
/// due before it has looked at what came meanwhile: time for that is given first, once.
const LATE: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_millis(10);

/// Re-arming a timer for each of a hundred tokens would cost more than forwarding them. This one
/// leaves the running timer alone when the deadline only moves ahead, and looks again when it fires.
#[derive(Default)]
pub struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
    /// The running timer knows the task to wake.
    registered: bool,
    deadline: Option<Instant>,
    /// The deadline that was found to be passed long since.
    late: Option<Instant>,
}

impl LazyTimer {
    /// Sets the deadline; `None` waits for ever.
    pub fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
        let Some(deadline) = deadline else { return };
        let in_grace = self.late == Some(deadline) && self.armed.is_some();
        if in_grace || self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.arm(deadline);
    }

    fn arm(&mut self, at: Instant) {
        let at_tokio = tokio::time::Instant::from_std(at);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at_tokio),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at_tokio))),
        }
        self.armed = Some(at);
        self.registered = false;
    }

    /// As `poll`, for a task that has just read the clock and always polls with the same waker: a
    /// timer that cannot have fired yet is left alone.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        if self.registered && self.armed.is_some_and(|armed| now < armed) {
            return Poll::Pending;
        }
        self.poll(cx)
    }

    /// Ready once the deadline has passed. Cancel-safe.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        loop {
            if self.armed.is_none() {
                self.arm(deadline);
            }
            let (Some(sleep), Some(armed)) = (&mut self.sleep, self.armed) else {
                return Poll::Pending;
            };
            if sleep.as_mut().poll(cx).is_pending() {
                self.registered = true;
                return Poll::Pending;
            }
            self.armed = None;
            if armed < deadline {
                continue;
            }
            let now = clock::instant();
            if self.late == Some(deadline) || now.saturating_duration_since(deadline) < LATE {
                return Poll::Ready(());
            }
            self.late = Some(deadline);
            self.arm(now + GRACE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime")
    }

    #[test]
    fn a_deadline_moved_ahead_fires_at_its_new_time_only() {
        paused().block_on(async {
            let start = Instant::now();
            let mut timer = LazyTimer::default();
            timer.set(Some(start + Duration::from_millis(5)));
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            timer.set(Some(start + Duration::from_millis(30)));
            poll_fn(|cx| timer.poll(cx)).await;
            assert!(start.elapsed() >= Duration::from_millis(30));
        });
    }

    #[test]
    fn a_timer_that_was_slept_through_gives_time_for_one_more_look() {
        paused().block_on(async {
            let mut timer = LazyTimer::default();
            let deadline = Instant::now() + Duration::from_millis(1);
            timer.set(Some(deadline));
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            // The thread itself, as a stopped process: the runtime's timers cannot fire.
            std::thread::sleep(LATE * 2);
            let mut looks = 0;
            poll_fn(|cx| {
                looks += 1;
                timer.set(Some(deadline));
                timer.poll(cx)
            })
            .await;
            assert!(looks > 1);
        });
    }

    #[test]
    fn a_deadline_moved_back_fires_early_and_none_never() {
        paused().block_on(async {
            let start = Instant::now();
            let mut timer = LazyTimer::default();
            timer.set(Some(start + Duration::from_secs(3600)));
            timer.set(Some(start + Duration::from_millis(2)));
            poll_fn(|cx| timer.poll(cx)).await;
            timer.set(None);
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
        });
    }
}

//! Waiting for a part of a [`Budget`] instead of being turned away: a line that is served by who has
//! the least, so that the greedy wait longest.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::shed::{Budget, Share, Taken};

/// One who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    id: u64,
    share: Arc<Share>,
    waker: Option<Waker>,
}

/// All who wait for parts of one budget, in the order of their coming.
#[derive(Default, Debug)]
pub(super) struct Line {
    waiters: Vec<Waiter>,
    next_id: u64,
}

/// A place in the line for one part of a [`Budget`]; given up on Drop.
#[derive(Debug)]
#[must_use = "who is not polled is never served"]
pub struct InLine {
    budget: Arc<Budget>,
    share: Arc<Share>,
    id: u64,
}

impl Budget {
    /// Whether somebody waits: what comes free is theirs.
    pub fn has_line(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// A place in the line for an account; `None` if so many of that account wait already.
    pub fn wait_for(self: &Arc<Self>, share: &Arc<Share>, depth: usize) -> Option<InLine> {
        let mut line = self.line();
        let own = line.waiters.iter().filter(|waiter| Arc::ptr_eq(&waiter.share, share)).count();
        if own >= depth {
            return None;
        }
        let id = line.next_id;
        line.next_id += 1;
        line.waiters.push(Waiter { id, share: share.clone(), waker: None });
        self.waiting.store(line.waiters.len(), Ordering::SeqCst);
        Some(InLine { budget: self.clone(), share: share.clone(), id })
    }

    /// Wakes the one who has the least, of several the one who came first. Called after something
    /// came back.
    pub(super) fn serve_line(&self) {
        let waker = {
            let mut line = self.line();
            let waiting = line.waiters.iter_mut().filter(|waiter| waiter.waker.is_some());
            let next = waiting.min_by_key(|waiter| (waiter.share.used(), waiter.id));
            next.and_then(|waiter| waiter.waker.take())
        };
        // Outside of the lock: waking may run anything.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, id: u64) {
        {
            let mut line = self.line();
            line.waiters.retain(|waiter| waiter.id != id);
            self.waiting.store(line.waiters.len(), Ordering::SeqCst);
        }
        // There may be room for another, or a wake-up that went to the one who leaves.
        if self.has_line() && self.used() < self.limit() {
            self.serve_line();
        }
    }
}

impl InLine {
    /// Ready with one part, once there is one. Whoever is woken and finds nothing waits on.
    ///
    /// Cancel safe.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Taken> {
        {
            let mut line = self.budget.line();
            if let Some(own) = line.waiters.iter_mut().find(|waiter| waiter.id == self.id) {
                own.waker = Some(cx.waker().clone());
            }
        }
        // Asked after the waker is in its place: what came back before is seen here, what comes back
        // later wakes.
        match self.budget.try_take_for(&self.share, 1) {
            Some(taken) => Poll::Ready(taken),
            None => Poll::Pending,
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.budget.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Waiting {
        place: InLine,
        bell: Arc<Bell>,
    }

    impl Waiting {
        fn new(budget: &Arc<Budget>, share: &Arc<Share>) -> Self {
            let place = budget.wait_for(share, 9).expect("a place");
            let mut waiting = Waiting { place, bell: Arc::default() };
            assert!(waiting.poll().is_none(), "there is nothing");
            waiting
        }

        fn poll(&mut self) -> Option<Taken> {
            let waker = Waker::from(self.bell.clone());
            match self.place.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(taken) => Some(taken),
                Poll::Pending => None,
            }
        }

        fn is_woken(&self) -> bool {
            self.bell.0.load(Ordering::SeqCst) > 0
        }
    }

    #[test]
    fn who_has_the_least_is_served_first_and_one_at_a_time() {
        let budget = Budget::new(8);
        let [greedy, modest] = [(); 2].map(|()| Arc::<Share>::default());
        let mut held: Vec<Taken> =
            (0..7).map(|_| budget.try_take_for(&greedy, 1).expect("room")).collect();
        let _one = budget.try_take_for(&modest, 1).expect("room");
        let mut first = Waiting::new(&budget, &greedy);
        let mut second = Waiting::new(&budget, &modest);
        assert!(budget.has_line());
        held.pop();
        assert!(!first.is_woken() && second.is_woken());
        let taken = second.poll().expect("its turn");
        drop((second, taken));
        assert!(first.is_woken(), "what the other gave back");
        held.truncate(3);
        drop(first.poll().expect("the greedy, too, when there is room"));
        drop(first);
        assert!(!budget.has_line());
    }

    #[test]
    fn a_line_is_bounded_for_each_account_and_who_leaves_passes_its_turn_on() {
        let budget = Budget::new(1);
        let [a, b] = [(); 2].map(|()| Arc::<Share>::default());
        let held = budget.try_take_for(&a, 1).expect("room");
        let first = Waiting::new(&budget, &b);
        let second = Waiting::new(&budget, &b);
        assert!(budget.wait_for(&b, 2).is_none(), "two wait already");
        drop(budget.wait_for(&a, 2).expect("another account"));
        drop(held);
        assert!(first.is_woken() && !second.is_woken());
        drop(first);
        assert!(second.is_woken(), "the first left without taking it");
    }

    #[test]
    fn waiters_of_many_threads_are_all_served() {
        let budget = Budget::new(3);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    let share = Arc::<Share>::default();
                    struct Unpark(std::thread::Thread);
                    impl Wake for Unpark {
                        fn wake(self: Arc<Self>) {
                            self.0.unpark();
                        }
                    }
                    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                    for _ in 0..2_000 {
                        let mut place = budget.wait_for(&share, 9).expect("a place");
                        let taken = loop {
                            match place.poll(&mut Context::from_waker(&waker)) {
                                Poll::Ready(taken) => break taken,
                                Poll::Pending => std::thread::park(),
                            }
                        };
                        assert!(budget.used() <= 3);
                        drop((place, taken));
                    }
                });
            }
        });
        assert_eq!((budget.used(), budget.has_line()), (0, false));
    }
}

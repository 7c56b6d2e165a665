//! The process's own protection: what is in flight and in memory at most, over all callers. Beyond
//! it a request is turned away at once (503), which costs little, instead of slowing all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much of something (requests, bytes) and no more.
#[derive(Debug)]
pub struct Budget {
    /// May be changed while in use; what is taken stays taken.
    limit: AtomicU64,
    used: AtomicU64,
    refused: AtomicU64,
}

impl Budget {
    /// A budget of `limit`.
    pub fn new(limit: u64) -> Arc<Self> {
        let (used, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Budget { limit: AtomicU64::new(limit), used, refused })
    }

    /// Takes `amount`, or `None` if that much is not left.
    pub fn try_take(self: &Arc<Self>, amount: u64) -> Option<Taken> {
        self.take(amount).then(|| Taken { budget: self.clone(), amount })
    }

    /// What there is in all.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes what there is in all. Below what is used, nothing is given out until enough is back.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// What is taken now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How often there was not enough.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// One atomic step, so that takers at the same moment never pass the limit together. Relaxed:
    /// the number guards nothing but itself.
    fn take(&self, amount: u64) -> bool {
        let limit = self.limit();
        let step = |used: u64| used.checked_add(amount).filter(|&sum| sum <= limit);
        let has = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok();
        if !has {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        has
    }
}

/// A part of a [`Budget`], given back on Drop.
#[derive(Debug)]
#[must_use = "what is dropped is given back"]
pub struct Taken {
    budget: Arc<Budget>,
    amount: u64,
}

impl Taken {
    /// How much it is.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes `more`, or nothing and says `false`.
    #[must_use]
    pub fn grow(&mut self, more: u64) -> bool {
        let has = self.budget.take(more);
        if has {
            self.amount += more;
        }
        has
    }

    /// Gives back all but `amount`; never takes more.
    pub fn shrink_to(&mut self, amount: u64) {
        let surplus = self.amount.saturating_sub(amount);
        self.budget.used.fetch_sub(surplus, Ordering::Relaxed);
        self.amount -= surplus;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_bounded_and_comes_back() {
        let budget = Budget::new(10);
        let mut six = budget.try_take(6).expect("room");
        assert!(budget.try_take(5).is_none() && !six.grow(5));
        assert!(six.grow(4), "exactly full");
        assert_eq!((six.amount(), budget.used(), budget.refused()), (10, 10, 2));
        six.shrink_to(3);
        six.shrink_to(7);
        assert_eq!((six.amount(), budget.used()), (3, 3));
        budget.set_limit(2);
        assert!(budget.try_take(1).is_none());
        drop(six);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_take(u64::MAX).is_none(), "sums do not wrap");
    }

    #[test]
    fn takers_at_the_same_moment_never_pass_the_limit() {
        let budget = Budget::new(100);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for n in 0..20_000 {
                        let mut taken = budget.try_take(n % 60);
                        assert!(budget.used() <= 100);
                        let _ = taken.as_mut().is_some_and(|taken| taken.grow(7));
                        assert!(budget.used() <= 100);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }
}

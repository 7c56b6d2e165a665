//! The process's own protection: what is in flight and in memory at most, over all callers. Beyond
//! it a request is turned away at once (503), which costs little, instead of slowing all others.
//!
//! Under overload it is the greedy that are turned away: the last eighth is only for accounts that
//! have less than an even share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::line::Line;

/// So much of something (requests, bytes) and no more.
#[derive(Debug)]
pub struct Budget {
    /// May be changed while in use; what is taken stays taken.
    limit: AtomicU64,
    used: AtomicU64,
    refused: AtomicU64,
    /// Accounts that have taken something.
    accounts: AtomicU64,
    /// Who waits for something, and how many they are, to be asked without the lock.
    pub(super) line: Mutex<Line>,
    pub(super) waiting: AtomicUsize,
}

/// What one account has taken of one [`Budget`].
#[derive(Default, Debug)]
pub struct Share {
    used: AtomicU64,
}

impl Share {
    /// What the account has taken now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Budget {
    /// A budget of `limit`.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Budget {
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            accounts: AtomicU64::new(0),
            line: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Takes `amount`, or `None` if that much is not left.
    pub fn try_take(self: &Arc<Self>, amount: u64) -> Option<Taken> {
        self.take(None, amount).then(|| Taken { budget: self.clone(), share: None, amount })
    }

    /// Takes `amount` for an account. When little is left, an account that has an even share already
    /// gets none of it. A share must always be used with the same budget.
    pub fn try_take_for(self: &Arc<Self>, share: &Arc<Share>, amount: u64) -> Option<Taken> {
        let taken = || Taken { budget: self.clone(), share: Some(share.clone()), amount };
        self.take(Some(share), amount).then(taken)
    }

    /// What there is in all.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes what there is in all. Below what is used, nothing is given out until enough is back.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        if self.has_line() {
            self.serve_line();
        }
    }

    /// What is taken now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How often there was not enough.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// One atomic step, so that takers at the same moment never pass the limit together. In
    /// one order with what is given back and who waits. What is known of shares may be a moment old: then one
    /// request more or less gets into the last eighth, but none beyond the limit.
    fn take(&self, share: Option<&Share>, amount: u64) -> bool {
        let limit = self.limit();
        let most = match share {
            Some(share) if !self.is_below_even(share, limit) => limit - limit / 8,
            _ => limit,
        };
        let step = |used: u64| used.checked_add(amount).filter(|&sum| sum <= most);
        let has = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step).is_ok();
        if !has {
            self.refused.fetch_add(1, Ordering::Relaxed);
        } else if let Some(share) = share.filter(|_| amount > 0)
            && share.used.fetch_add(amount, Ordering::Relaxed) == 0
        {
            self.accounts.fetch_add(1, Ordering::Relaxed);
        }
        has
    }

    fn give_back(&self, share: Option<&Share>, amount: u64) {
        if amount == 0 {
            return;
        }
        if let Some(share) = share
            && share.used.fetch_sub(amount, Ordering::Relaxed) == amount
        {
            self.accounts.fetch_sub(1, Ordering::Relaxed);
        }
        // Before it is asked whether somebody waits: who comes now has asked for room first.
        self.used.fetch_sub(amount, Ordering::SeqCst);
        if self.has_line() {
            self.serve_line();
        }
    }

    /// Whether an account has less than it would have if all had the same. One that has nothing yet
    /// always does.
    fn is_below_even(&self, share: &Share, limit: u64) -> bool {
        let used = share.used();
        used == 0 || used < limit / self.accounts.load(Ordering::Relaxed).max(1)
    }
}

/// A part of a [`Budget`], given back on Drop.
#[derive(Debug)]
#[must_use = "what is dropped is given back"]
pub struct Taken {
    budget: Arc<Budget>,
    /// Whose it is. `None`: it is taken for nobody.
    share: Option<Arc<Share>>,
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
        let has = self.budget.take(self.share.as_deref(), more);
        if has {
            self.amount += more;
        }
        has
    }

    /// Gives back all but `amount`; never takes more.
    pub fn shrink_to(&mut self, amount: u64) {
        let surplus = self.amount.saturating_sub(amount);
        self.budget.give_back(self.share.as_deref(), surplus);
        self.amount -= surplus;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.give_back(self.share.as_deref(), self.amount);
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

    #[test]
    fn the_last_eighth_is_for_those_who_have_less_than_an_even_share() {
        let budget = Budget::new(80);
        let [greedy, modest, late] = [(); 3].map(|()| Arc::<Share>::default());
        let alone: Vec<_> = (0..90).filter_map(|_| budget.try_take_for(&greedy, 1)).collect();
        assert_eq!((alone.len(), greedy.used()), (80, 80), "alone it may have all");
        assert!(budget.try_take_for(&modest, 1).is_none(), "never more than there is");
        drop(alone);
        assert_eq!((budget.used(), greedy.used()), (0, 0));

        let other = budget.try_take_for(&modest, 2).expect("room");
        let flood: Vec<_> = (0..90).filter_map(|_| budget.try_take_for(&greedy, 1)).collect();
        assert_eq!(flood.len(), 68, "up to seven eighths of 80, which the other has 2 of");
        let rest: Vec<_> = (0..90).filter_map(|_| budget.try_take_for(&modest, 1)).collect();
        assert_eq!(rest.len(), 10, "the last eighth");
        drop((flood, rest, other));

        let mut bytes = budget.try_take_for(&greedy, 60).expect("room");
        let few = budget.try_take_for(&late, 9).expect("room");
        assert!(!bytes.grow(2) && bytes.grow(1), "growing is held to the same");
        bytes.shrink_to(5);
        assert_eq!((greedy.used(), late.used()), (5, 9));
        drop((bytes, few));
        assert_eq!(
            (budget.used(), greedy.used(), budget.accounts.load(Ordering::Relaxed)),
            (0, 0, 0)
        );
    }
}

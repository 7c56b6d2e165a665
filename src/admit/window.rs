//! How much happened in the last minute or day: a ring of buckets. It counts whole buckets, the
//! running one and as many full ones as the span has. So an event counts for the span and at most
//! one bucket longer, and no span of that length, wherever it begins, ever holds more than the
//! limit: nothing can be doubled at an edge.

use super::terms::{LANES, Rate};

/// 60 s in buckets of one.
pub(super) type Minute<const LANES: usize> = Window<61, 1_000, LANES>;

/// 24 h in buckets of 15 min.
pub(super) type Day = Window<97, 900_000, LANES>;

/// `BUCKETS` is one more than the span has. Each lane is a count of its own.
#[derive(Debug)]
pub(super) struct Window<const BUCKETS: usize, const WIDTH_MS: u64, const LANES: usize> {
    pub(super) limit: u64,
    /// Reservations before this number are none of its: it was made later.
    pub(super) since: u64,
    /// The number of the running bucket.
    newest: u64,
    /// The last bucket that something was put in.
    filled: u64,
    /// The sum of all buckets.
    totals: [u64; LANES],
    ring: Box<[[u64; LANES]; BUCKETS]>,
}

impl<const BUCKETS: usize, const WIDTH_MS: u64, const LANES: usize>
    Window<BUCKETS, WIDTH_MS, LANES>
{
    pub(super) fn new(limit: u64, since: u64) -> Self {
        let ring = Box::new([[0; LANES]; BUCKETS]);
        Window { limit, since, newest: 0, filled: 0, totals: [0; LANES], ring }
    }

    /// Lets go what is too old. Time only moves forward.
    #[inline]
    pub(super) fn advance(&mut self, at_ms: u64) {
        let bucket = at_ms / WIDTH_MS;
        if bucket > self.newest {
            self.turn(bucket);
        }
    }

    fn turn(&mut self, bucket: u64) {
        if bucket - self.newest >= BUCKETS as u64 {
            *self.ring = [[0; LANES]; BUCKETS];
            self.totals = [0; LANES];
        } else {
            for passed in self.newest + 1..=bucket {
                let gone = std::mem::replace(
                    &mut self.ring[(passed % BUCKETS as u64) as usize],
                    [0; LANES],
                );
                for (total, gone) in self.totals.iter_mut().zip(gone) {
                    *total -= gone;
                }
            }
        }
        self.newest = bucket;
    }

    pub(super) fn used(&self, lane: usize) -> u64 {
        self.totals[lane]
    }

    /// Whether `more` fits. Exactly full fits, and nothing always does.
    #[inline]
    pub(super) fn has_room(&self, lane: usize, more: u64) -> bool {
        more == 0 || self.totals[lane].checked_add(more).is_some_and(|sum| sum <= self.limit)
    }

    /// Counts an event. What is older than the span is let go.
    #[inline]
    pub(super) fn put(&mut self, at_ms: u64, amounts: [u64; LANES]) {
        self.advance(at_ms);
        let bucket = at_ms / WIDTH_MS;
        let Some(slot) = self.bucket(bucket) else { return };
        for (lane, amount) in amounts.into_iter().enumerate() {
            // So that the total stays the sum, whatever absurd amounts there are.
            let amount = amount.min(u64::MAX - self.totals[lane]);
            self.totals[lane] += amount;
            self.ring[slot][lane] += amount;
            if amount > 0 {
                self.filled = self.filled.max(bucket);
            }
        }
    }

    /// Uncounts what was put there, unless it has left anyway.
    #[inline]
    pub(super) fn take_back(&mut self, at_ms: u64, amounts: [u64; LANES]) {
        let Some(slot) = self.bucket(at_ms / WIDTH_MS) else { return };
        for (lane, amount) in amounts.into_iter().enumerate() {
            let amount = amount.min(self.ring[slot][lane]);
            self.totals[lane] -= amount;
            self.ring[slot][lane] -= amount;
        }
    }

    /// Makes an event one of a later time, if that is still counted.
    pub(super) fn postpone(&mut self, from_ms: u64, to_ms: u64, amounts: [u64; LANES]) {
        if from_ms / WIDTH_MS != to_ms / WIDTH_MS {
            self.take_back(from_ms, amounts);
            self.put(to_ms, amounts);
        }
    }

    /// How long until `more` fits, if nothing else comes. `None`: never.
    pub(super) fn wait_ms(&self, now_ms: u64, lane: usize, more: u64) -> Option<u64> {
        let mut excess = match more > self.limit {
            true => return None,
            false => self.totals[lane].saturating_sub(self.limit - more),
        };
        if excess == 0 || more == 0 {
            return Some(0);
        }
        let oldest = (self.newest + 1).saturating_sub(BUCKETS as u64);
        for bucket in oldest..=self.newest {
            excess = excess.saturating_sub(self.ring[(bucket % BUCKETS as u64) as usize][lane]);
            if excess == 0 {
                return Some(Self::leaves_ms(bucket).saturating_sub(now_ms));
            }
        }
        None
    }

    /// The limit as its callers see it.
    #[inline]
    pub(super) fn rate(&self, now_ms: u64, lane: usize) -> Rate {
        let remaining = self.limit.saturating_sub(self.totals[lane]);
        let reset_ms = match self.totals[lane] {
            0 => 0,
            _ => Self::leaves_ms(self.filled).saturating_sub(now_ms),
        };
        Rate { limit: self.limit, remaining, reset_ms }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.totals.iter().all(|&total| total == 0)
    }

    /// The place of a bucket in the ring, if it counts.
    #[inline]
    fn bucket(&self, bucket: u64) -> Option<usize> {
        let counts = bucket <= self.newest && self.newest - bucket < BUCKETS as u64;
        counts.then_some((bucket % BUCKETS as u64) as usize)
    }

    fn leaves_ms(bucket: u64) -> u64 {
        (bucket + BUCKETS as u64) * WIDTH_MS
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START_MS: u64 = 1_000_000_000_000;

    #[test]
    fn a_full_minute_frees_itself_bucket_by_bucket() {
        let mut window = Minute::<1>::new(10, 0);
        window.put(START_MS + 500, [4]);
        window.put(START_MS + 2_100, [6]);
        assert!(!window.has_room(0, 1) && window.has_room(0, 0));
        let now = START_MS + 3_000;
        window.advance(now);
        assert_eq!(
            window.wait_ms(now, 0, 4),
            Some(58_000),
            "the first bucket ends its 61st second"
        );
        assert_eq!(window.wait_ms(now, 0, 5), Some(60_000));
        assert_eq!(window.wait_ms(now, 0, 11), None, "more than the limit never fits");
        assert_eq!(window.rate(now, 0), Rate { limit: 10, remaining: 0, reset_ms: 60_000 });
        window.advance(now + 57_999);
        assert!(!window.has_room(0, 1));
        window.advance(now + 58_000);
        assert!(window.has_room(0, 4) && !window.has_room(0, 5));
    }

    #[test]
    fn what_is_taken_back_was_there() {
        let mut window = Minute::<2>::new(10, 0);
        window.put(START_MS, [4, 9]);
        window.put(START_MS + 30_000, [1, 1]);
        window.take_back(START_MS, [3, 7]);
        assert_eq!((window.used(0), window.used(1)), (2, 3));
        window.postpone(START_MS, START_MS + 30_000, [1, 2]);
        window.advance(START_MS + 61_000);
        assert_eq!((window.used(0), window.used(1)), (2, 3), "postponed, it counts longer");
        window.take_back(START_MS, [1, 1]);
        assert_eq!(window.used(0), 2, "what has left is not taken from others");
        window.advance(START_MS + 91_000);
        assert!(window.is_empty());
    }

    #[test]
    fn sums_do_not_wrap() {
        let mut window = Day::new(u64::MAX, 0);
        window.put(START_MS, [u64::MAX - 1, 0]);
        window.put(START_MS, [u64::MAX, 0]);
        assert_eq!(window.used(0), u64::MAX);
        assert!(!window.has_room(0, 1));
        window.advance(START_MS + 25 * 3_600_000);
        assert!(window.is_empty());
    }

    proptest! {
        /// Against a plain list of events: no 60 s hold more than the limit, and nothing is refused
        /// that would fit into 61 s.
        #[test]
        fn no_minute_ever_holds_more(
            limit in 1u64..20,
            events in prop::collection::vec((0u64..9_000, 1u64..8), 1..300),
        ) {
            let mut window = Minute::<1>::new(limit, 0);
            let mut now = START_MS;
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            for (step_ms, amount) in events {
                now += step_ms;
                window.advance(now);
                let within = |ms: u64| -> u64 {
                    let since = |(at, _): &&(u64, u64)| now - at < ms;
                    admitted.iter().filter(since).map(|(_, amount)| amount).sum()
                };
                let fits = window.has_room(0, amount);
                prop_assert_eq!(fits, window.wait_ms(now, 0, amount) == Some(0));
                if fits {
                    prop_assert!(within(60_000) + amount <= limit);
                    window.put(now, [amount]);
                    admitted.push((now, amount));
                } else {
                    prop_assert!(within(61_000) + amount > limit);
                }
            }
        }
    }
}

//! One target: its load, its recent failures and its times to the first token.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::clock;
use crate::health::credential::left;

/// Failures in a row after which others are preferred, and for how long; it doubles per further
/// failure up to the longest.
const FAILURES: u32 = 3;
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);
/// Rest of a target whose model is missing or refused by region.
const PARK: Duration = Duration::from_secs(120);
/// Times are kept from 1 µs to one hour, to two digits.
const TTFT_MAX_US: u64 = 3_600_000_000;

/// Whether a target should be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Healthy,
    /// Failing or parked: only when nothing else is left.
    Resting,
}

/// One worker's share, alone on its cache lines.
#[repr(align(128))]
struct Shard {
    outstanding: AtomicI64,
    /// Only this worker writes; a scrape reads now and then.
    ttft_us: Mutex<Histogram<u32>>,
}

/// Lives on over reloads that do not change the target.
pub struct TargetState {
    shards: Box<[Shard]>,
    failures: AtomicU32,
    rest_until: AtomicU64,
}

impl TargetState {
    /// Fresh state for this many workers.
    pub fn new(workers: usize) -> Arc<TargetState> {
        let shard = || Shard {
            outstanding: AtomicI64::new(0),
            ttft_us: Mutex::new(
                Histogram::new_with_bounds(1, TTFT_MAX_US, 2).expect("constant bounds are valid"),
            ),
        };
        Arc::new(TargetState {
            shards: (0..workers.max(1)).map(|_| shard()).collect(),
            failures: AtomicU32::new(0),
            rest_until: AtomicU64::new(0),
        })
    }

    /// Requests under way, over all workers.
    pub fn outstanding(&self) -> i64 {
        self.shards.iter().map(|s| s.outstanding.load(Relaxed)).sum()
    }

    /// Whether the target should be asked now.
    pub fn standing(&self, now: Instant) -> Standing {
        match left(&self.rest_until, now) {
            Some(_) => Standing::Resting,
            None => Standing::Healthy,
        }
    }

    /// How long the target still rests.
    pub fn resting(&self, now: Instant) -> Option<Duration> {
        left(&self.rest_until, now)
    }

    /// Counts a request under way until the sample is dropped.
    pub fn begin(&self, worker: usize) -> Sample<'_> {
        let worker = worker % self.shards.len();
        self.shards[worker].outstanding.fetch_add(1, Relaxed);
        Sample { state: self, worker }
    }

    /// The model is missing there, or the region is refused.
    pub fn park(&self, now: Instant) {
        self.rest_until.fetch_max(clock::ms_since_start(now + PARK), Relaxed);
    }

    /// Times to the first token over all workers.
    pub fn ttft(&self) -> TtftSummary {
        let mut all = Histogram::<u64>::new_with_bounds(1, TTFT_MAX_US, 2)
            .expect("constant bounds are valid");
        for shard in &self.shards {
            let own = shard.ttft_us.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            for value in own.iter_recorded() {
                let _ = all.record_n(value.value_iterated_to(), value.count_at_value().into());
            }
        }
        let at = |q| (!all.is_empty()).then(|| all.value_at_quantile(q));
        TtftSummary {
            count: all.len(),
            ttft_us_p50: at(0.5),
            ttft_us_p90: at(0.9),
            ttft_us_p99: at(0.99),
        }
    }
}

/// Quantiles since the start, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct TtftSummary {
    pub count: u64,
    pub ttft_us_p50: Option<u64>,
    pub ttft_us_p90: Option<u64>,
    pub ttft_us_p99: Option<u64>,
}

/// A request that is with a target. Dropped without a word it says nothing of the target's health:
/// the caller left.
pub struct Sample<'a> {
    state: &'a TargetState,
    worker: usize,
}

impl Sample<'_> {
    /// The first content came after this long.
    pub fn first_content(&self, ttft_us: u64) {
        let shard = &self.state.shards[self.worker];
        let mut own = shard.ttft_us.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        own.saturating_record(ttft_us.max(1));
    }

    /// The answer was complete.
    pub fn succeeded(&self) {
        // Read first: a healthy target is never written to.
        if self.state.failures.load(Relaxed) != 0 {
            self.state.failures.store(0, Relaxed);
            self.state.rest_until.store(0, Relaxed);
        }
    }

    /// The target is at fault.
    pub fn failed(&self, now: Instant) {
        let failures = self.state.failures.fetch_add(1, Relaxed) + 1;
        if failures >= FAILURES {
            let rest = (REST * 2u32.pow((failures - FAILURES).min(10))).min(REST_MAX);
            self.state.rest_until.fetch_max(clock::ms_since_start(now + rest), Relaxed);
        }
    }
}

impl Drop for Sample<'_> {
    fn drop(&mut self) {
        self.state.shards[self.worker].outstanding.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_rests_after_failures_in_a_row_and_comes_back() {
        let (state, now) = (TargetState::new(2), Instant::now());
        for _ in 0..FAILURES - 1 {
            state.begin(0).failed(now);
        }
        assert_eq!(state.standing(now), Standing::Healthy);
        state.begin(1).failed(now);
        assert_eq!(state.standing(now), Standing::Resting);
        assert_eq!(state.standing(now + REST * 2), Standing::Healthy);
        state.begin(0).succeeded();
        assert_eq!(state.standing(now), Standing::Healthy);
    }

    #[test]
    fn requests_count_while_they_last_and_times_add_up_over_workers() {
        let state = TargetState::new(2);
        let (a, b) = (state.begin(0), state.begin(1));
        assert_eq!(state.outstanding(), 2);
        a.first_content(1_000);
        b.first_content(3_000);
        drop((a, b));
        assert_eq!(state.outstanding(), 0);
        let ttft = state.ttft();
        assert_eq!(ttft.count, 2);
        assert!(ttft.ttft_us_p99.is_some_and(|us| (2_900..3_100).contains(&us)));
    }
}

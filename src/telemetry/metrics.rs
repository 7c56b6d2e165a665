//! What is counted on the request path: atomic counters that belong to one worker each.
//!
//! A [`Series`] is made once for a (model alias, target) pair, when a routing table is built, and the
//! same one comes back after a reload. Each worker writes its own [`Shard`] of it, so no two threads
//! ever write to the same cache line; a scrape adds the shards up. All accesses are Relaxed: a scrape may
//! see one counter of a request and not yet another, which the next scrape puts right.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Kind, TABLE};

/// How many (model, target) pairs, and how many targets, have counters of their own. Later ones are
/// counted together under `other`.
pub const MAX_SERIES: usize = 10_000;

/// The label of what is beyond [`MAX_SERIES`].
const OTHER: &str = "other";

/// Upper bounds of the buckets of `foretoken_ttft_seconds`.
pub const TTFT_BOUNDS_US: [u64; 20] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 150_000, 200_000, 300_000, 400_000, 500_000, 750_000,
    1_000_000, 1_500_000, 2_000_000, 3_000_000, 5_000_000, 10_000_000, 20_000_000, 30_000_000,
    60_000_000,
];

/// Upper bounds of the buckets of `foretoken_overhead_seconds`.
pub const OVERHEAD_BOUNDS_US: [u64; 16] =
    [10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000];

/// The status codes with a counter of their own; any other is counted as `1xx` … `5xx` or `other`.
const STATUSES: [u16; 36] = [
    200, 201, 202, 204, 206, 304, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 413, 414,
    415, 421, 422, 424, 425, 429, 431, 451, 498, 499, 500, 501, 502, 503, 504, 520, 529,
];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
const STATUS_SLOTS: usize = STATUSES.len() + CLASSES.len();

/// Which counter a status goes to.
static STATUS_SLOT: [u8; 600] = status_slots();

const fn status_slots() -> [u8; 600] {
    let mut slots = [STATUSES.len() as u8; 600];
    let mut status = 100;
    while status < 600 {
        slots[status] = (STATUSES.len() + status / 100) as u8;
        status += 1;
    }
    let mut at = 0;
    while at < STATUSES.len() {
        slots[STATUSES[at] as usize] = at as u8;
        at += 1;
    }
    slots
}

fn status_slot(status: u16) -> usize {
    usize::from(STATUS_SLOT.get(usize::from(status)).copied().unwrap_or(STATUSES.len() as u8))
}

/// The `status` label of a counter.
pub(super) fn status_label(slot: usize) -> String {
    match STATUSES.get(slot) {
        Some(status) => status.to_string(),
        None => CLASSES[slot - STATUSES.len()].to_owned(),
    }
}

macro_rules! token_kinds {
    ($( $(#[$doc:meta])* $kind:ident $name:literal )*) => {
        /// What tokens are counted as: the `kind` label of `foretoken_tokens_total`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum TokenKind { $( $(#[$doc])* $kind ),* }

        /// The names of the kinds, in the order of [`TokenKind`].
        pub(super) const TOKEN_KINDS: &[&str] = &[ $( $name ),* ];
    };
}

token_kinds! {
    /// Text that no cache served.
    InText "in_text"
    /// Audio that no cache served.
    InAudio "in_audio"
    /// Images that no cache served.
    InImage "in_image"
    /// Results of server-side tools.
    InTool "in_tool"
    /// Served from a prompt cache.
    InCacheRead "in_cache_read"
    /// Written to a prompt cache.
    InCacheWrite "in_cache_write"
    /// Visible text.
    OutText "out_text"
    /// Reasoning.
    OutReasoning "out_reasoning"
    /// Audio.
    OutAudio "out_audio"
    /// Images.
    OutImage "out_image"
}

const TOKEN_SLOTS: usize = TOKEN_KINDS.len();

/// What is counted of one request at its end.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What the caller saw.
    pub status: u16,
    /// From the request to its first content; absent when there was none.
    pub ttft_us: Option<u64>,
    /// Our own time before the first upstream byte was sent; absent when nothing was sent.
    pub overhead_us: Option<u64>,
    /// Tokens by kind, from the usage that the upstream reported or that was estimated.
    pub tokens: &'a [(TokenKind, u64)],
}

/// Counts and sum of a histogram; the last slot is `+Inf`. `SLOTS` is the number of bounds and one.
pub(super) struct Histogram<const SLOTS: usize> {
    pub(super) counts: [AtomicU64; SLOTS],
    pub(super) sum_us: AtomicU64,
}

impl<const SLOTS: usize> Histogram<SLOTS> {
    fn new() -> Self {
        Histogram { counts: zeros(), sum_us: AtomicU64::new(0) }
    }

    fn record(&self, bounds_us: &[u64], value_us: u64) {
        let slot = bounds_us.partition_point(|&bound| bound < value_us);
        self.counts[slot].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(value_us, Relaxed);
    }
}

fn zeros<const SLOTS: usize>() -> [AtomicU64; SLOTS] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

/// One worker's part of a [`Series`]. Aligned to two cache lines, as processors fetch them in pairs.
#[repr(align(128))]
pub struct Shard {
    pub(super) requests: [AtomicU64; STATUS_SLOTS],
    pub(super) ttft: Histogram<{ TTFT_BOUNDS_US.len() + 1 }>,
    pub(super) overhead: Histogram<{ OVERHEAD_BOUNDS_US.len() + 1 }>,
    pub(super) tokens: [AtomicU64; TOKEN_SLOTS],
    pub(super) inflight: AtomicI64,
}

impl Shard {
    fn new() -> Self {
        Shard {
            requests: zeros(),
            ttft: Histogram::new(),
            overhead: Histogram::new(),
            tokens: zeros(),
            inflight: AtomicI64::new(0),
        }
    }

    /// Counts a request that has ended.
    pub fn record(&self, record: &Record<'_>) {
        self.requests[status_slot(record.status)].fetch_add(1, Relaxed);
        if let Some(ttft_us) = record.ttft_us {
            self.ttft.record(&TTFT_BOUNDS_US, ttft_us);
        }
        if let Some(overhead_us) = record.overhead_us {
            self.overhead.record(&OVERHEAD_BOUNDS_US, overhead_us);
        }
        for &(kind, count) in record.tokens {
            if count != 0 {
                self.tokens[kind as usize].fetch_add(count, Relaxed);
            }
        }
    }

    /// Counts a request as running until the guard is dropped, however it ends.
    pub fn enter(self: &Arc<Self>) -> Inflight {
        self.inflight.fetch_add(1, Relaxed);
        Inflight(Arc::clone(self))
    }
}

/// A running request. Its `Arc` is one worker's own, so holding it costs no contention.
pub struct Inflight(Arc<Shard>);

impl Inflight {
    /// Where the request is to be recorded.
    pub fn shard(&self) -> &Shard {
        &self.0
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Relaxed);
    }
}

/// Counters by worker, made when a worker first asks: most pairs are used by few workers.
struct PerWorker<T>(Box<[OnceLock<Arc<T>>]>);

impl<T> PerWorker<T> {
    fn new(workers: usize) -> Self {
        PerWorker((0..workers.max(1)).map(|_| OnceLock::new()).collect())
    }

    /// Workers beyond the number given share the slots: slower, still right.
    fn of(&self, worker: usize, make: fn() -> T) -> &Arc<T> {
        self.0[worker % self.0.len()].get_or_init(|| Arc::new(make()))
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|slot| slot.get().map(|shard| &**shard))
    }
}

/// The counters of one model alias at one target.
pub struct Series {
    pub(super) model: Box<str>,
    pub(super) target: Box<str>,
    shards: PerWorker<Shard>,
}

impl Series {
    /// The part that belongs to this worker; only that worker should write to it.
    pub fn shard(&self, worker: usize) -> &Arc<Shard> {
        self.shards.of(worker, Shard::new)
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.all()
    }
}

/// Number of outcomes of an attempt: it went well, or one of the kinds of error.
const OUTCOMES: usize = TABLE.len() + 1;

/// One worker's part of a [`TargetSeries`].
#[repr(align(128))]
pub(super) struct TargetShard {
    pub(super) attempts: [AtomicU64; OUTCOMES],
}

/// The counters of one target, over all aliases that use it.
pub struct TargetSeries {
    pub(super) target: Box<str>,
    shards: PerWorker<TargetShard>,
}

impl TargetSeries {
    /// Counts an attempt: how it failed, or `None` if it did not. The caller's hang-up is
    /// [`Kind::ClientGone`], a hedge's loser [`Kind::Cancelled`].
    pub fn attempt(&self, worker: usize, fault: Option<Kind>) {
        let slot = fault.map_or(0, |kind| kind as usize + 1);
        let shard = self.shards.of(worker, || TargetShard { attempts: zeros() });
        shard.attempts[slot].fetch_add(1, Relaxed);
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = &TargetShard> {
        self.shards.all()
    }
}

/// The `outcome` label of an attempt's counter.
pub(super) fn outcome_label(slot: usize) -> &'static str {
    match slot {
        0 => "ok",
        _ => TABLE[slot - 1].name,
    }
}

/// What a worker counts that belongs to no target.
#[repr(align(128))]
pub(super) struct WorkerShard {
    pub(super) refused: [AtomicU64; TABLE.len()],
}

/// All counters of the process. Ordered maps, so that a scrape comes out in the same order each time.
pub struct Registry {
    workers: usize,
    pub(super) started_unix_ms: u64,
    unrouted: Arc<Series>,
    per_worker: PerWorker<WorkerShard>,
    series: Mutex<BTreeMap<(String, String), Arc<Series>>>,
    targets: Mutex<BTreeMap<String, Arc<TargetSeries>>>,
    unpriced: AtomicU64,
    soft_budgets: AtomicU64,
    unrecorded: AtomicU64,
}

impl Registry {
    /// Counters for so many workers; `started_unix_ms` becomes `process_start_time_seconds`.
    pub fn new(workers: usize, started_unix_ms: u64) -> Arc<Self> {
        Arc::new(Registry {
            workers,
            started_unix_ms,
            unrouted: Arc::new(Series {
                model: "".into(),
                target: "".into(),
                shards: PerWorker::new(workers),
            }),
            per_worker: PerWorker::new(workers),
            series: Mutex::default(),
            targets: Mutex::default(),
            unpriced: AtomicU64::new(0),
            soft_budgets: AtomicU64::new(0),
            unrecorded: AtomicU64::new(0),
        })
    }

    /// The counters of a pair: the same ones for the same pair, over reloads. Takes a lock: ask when a
    /// routing table is built, not per request.
    pub fn series(&self, model: &str, target: &str) -> Arc<Series> {
        let mut series = lock(&self.series);
        let mut pair = (model.to_owned(), target.to_owned());
        if !series.contains_key(&pair) && series.len() >= MAX_SERIES {
            pair = (OTHER.to_owned(), OTHER.to_owned());
        }
        let make = |(model, target): &(String, String)| Series {
            model: model.as_str().into(),
            target: target.as_str().into(),
            shards: PerWorker::new(self.workers),
        };
        Arc::clone(series.entry(pair).or_insert_with_key(|pair| Arc::new(make(pair))))
    }

    /// The counters of a target: the same ones for the same name, over reloads. Takes a lock.
    pub fn target(&self, target: &str) -> Arc<TargetSeries> {
        let mut targets = lock(&self.targets);
        let full = !targets.contains_key(target) && targets.len() >= MAX_SERIES;
        let name = if full { OTHER } else { target };
        let make = |name: &String| TargetSeries {
            target: name.as_str().into(),
            shards: PerWorker::new(self.workers),
        };
        let made = targets.entry(name.to_owned()).or_insert_with_key(|name| Arc::new(make(name)));
        Arc::clone(made)
    }

    /// Where requests are counted that came to no model or target (empty labels).
    pub fn unrouted(&self) -> &Arc<Series> {
        &self.unrouted
    }

    /// Counts a request that was refused before it came to a target, by the reason.
    pub fn refuse(&self, worker: usize, kind: Kind) {
        let shard = self.per_worker.of(worker, || WorkerShard { refused: zeros() });
        shard.refused[kind as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request that cost nothing because its model has no price.
    pub fn unpriced(&self) {
        self.unpriced.fetch_add(1, Relaxed);
    }

    /// Counts a soft budget that was passed.
    pub fn soft_budget_passed(&self) {
        self.soft_budgets.fetch_add(1, Relaxed);
    }

    /// Counts a request that was served although the journal had no room for its record.
    pub fn unrecorded(&self) {
        self.unrecorded.fetch_add(1, Relaxed);
    }

    /// Requests that were served without a record, since the start.
    pub fn unrecorded_count(&self) -> u64 {
        self.unrecorded.load(Relaxed)
    }

    /// Requests without a price, and soft budgets that were passed, since the start.
    pub fn alerts(&self) -> (u64, u64) {
        (self.unpriced.load(Relaxed), self.soft_budgets.load(Relaxed))
    }

    pub(super) fn refused(&self, kind: Kind) -> u64 {
        self.per_worker.all().map(|shard| shard.refused[kind as usize].load(Relaxed)).sum()
    }

    /// All series that were asked for, those without model and target first.
    pub(super) fn all_series(&self) -> Vec<Arc<Series>> {
        let routed = lock(&self.series);
        std::iter::once(&self.unrouted).chain(routed.values()).cloned().collect()
    }

    pub(super) fn all_targets(&self) -> Vec<Arc<TargetSeries>> {
        lock(&self.targets).values().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_pair_keeps_its_counters() {
        let registry = Registry::new(2, 0);
        let one = registry.series("gpt", "a/gpt");
        assert!(Arc::ptr_eq(&one, &registry.series("gpt", "a/gpt")));
        assert!(!Arc::ptr_eq(&one, &registry.series("gpt", "b/gpt")));
        assert!(!Arc::ptr_eq(one.shard(0), one.shard(1)));
        assert!(Arc::ptr_eq(&registry.target("a/gpt"), &registry.target("a/gpt")));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let registry = Registry::new(1, 0);
        let first = registry.series("m0", "t");
        for n in 0..MAX_SERIES + 50 {
            registry.series(&format!("m{n}"), "t");
            registry.target(&format!("t{n}"));
        }
        // The pairs, `other`, and the one without labels.
        assert_eq!(registry.all_series().len(), MAX_SERIES + 2);
        assert_eq!(registry.all_targets().len(), MAX_SERIES + 1);
        let (late, later) = (registry.series("late", "t"), registry.series("later", "t"));
        assert!(Arc::ptr_eq(&late, &later));
        assert_eq!((&*late.model, &*late.target), ("other", "other"));
        assert!(Arc::ptr_eq(&first, &registry.series("m0", "t")), "a full house keeps its own");
    }

    #[test]
    fn every_status_has_a_label_of_a_bounded_set() {
        for (status, want) in [
            (200, "200"),
            (429, "429"),
            (529, "529"),
            (499, "499"),
            (207, "2xx"),
            (418, "4xx"),
            (599, "5xx"),
            (100, "1xx"),
            (99, "other"),
            (0, "other"),
            (600, "other"),
            (u16::MAX, "other"),
        ] {
            assert_eq!(status_label(status_slot(status)), want, "{status}");
        }
        for kind in TABLE {
            assert_eq!(status_label(status_slot(kind.status)), kind.status.to_string());
        }
    }

    #[test]
    fn times_fall_into_the_bucket_that_holds_them() {
        let shard = Shard::new();
        let mut record =
            Record { status: 200, ttft_us: Some(5_000), overhead_us: Some(11), tokens: &[] };
        shard.record(&record);
        record.ttft_us = Some(5_001);
        record.overhead_us = None;
        shard.record(&record);
        record.ttft_us = Some(u64::from(u32::MAX));
        shard.record(&record);
        let counts = |counts: &[AtomicU64]| -> Vec<u64> {
            counts.iter().map(|count| count.load(Relaxed)).collect()
        };
        let ttft = counts(&shard.ttft.counts);
        assert_eq!((ttft[0], ttft[1], ttft[TTFT_BOUNDS_US.len()]), (1, 1, 1));
        assert_eq!(counts(&shard.overhead.counts)[..3], [0, 1, 0]);
        assert!(TTFT_BOUNDS_US.is_sorted() && OVERHEAD_BOUNDS_US.is_sorted());
    }

    #[test]
    fn a_request_is_in_flight_until_its_guard_is_gone() {
        let registry = Registry::new(1, 0);
        let series = registry.series("m", "t");
        let (one, two) = (series.shard(0).enter(), series.shard(0).enter());
        assert_eq!(series.shard(0).inflight.load(Relaxed), 2);
        drop(one);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _two = two;
            panic!("a handler");
        }));
        assert!(panicked.is_err());
        assert_eq!(series.shard(0).inflight.load(Relaxed), 0);
    }
}

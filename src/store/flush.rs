//! The thread that moves what is written into the store, every second, and removes full segments after
//! the commit. Parked while nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use super::segment::{Segment, sync_dir};
use super::shared::Shared;
use super::{Batch, Covered, Span, StoreError};
use crate::clock::{self, Now};

/// A batch is closed once it has this much, so that a store is never handed the whole journal.
const BATCH_BYTES: usize = 4 << 20;
/// How often records are looked through for those that are kept no longer.
const TRIM_EVERY: Duration = Duration::from_secs(60 * 60);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often a store that fails is asked again while the process ends. What it does not take stays
/// in the journal for the next start.
const CLOSING_TRIES: u32 = 3;

pub(super) struct Flusher {
    shared: Arc<Shared>,
    /// Removed, but perhaps not durably: after a loss of power such a file can be back, and must
    /// then still count as taken in.
    lingering: BTreeMap<u64, u64>,
    trim_at: Instant,
}

impl Flusher {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Flusher { shared, lingering: BTreeMap::new(), trim_at: clock::instant() }
    }

    /// Runs until the journal is closed, and takes in everything at the end.
    pub(super) fn run(mut self) -> Result<(), StoreError> {
        let mut backoff = BACKOFF_MIN;
        let mut closing_tries = 0;
        loop {
            // Asked before the pass: what was written before the stop is then in it.
            let stopping = self.shared.is_stopping();
            let now = clock::now();
            match self.pass() {
                Ok(()) => {
                    self.shared.note_clean(now.instant);
                    self.shared.note_commit(None);
                    self.shared.store.note_complete(now.unix_ms);
                    if stopping {
                        return Ok(());
                    }
                    backoff = BACKOFF_MIN;
                    self.forget(now);
                    self.wait();
                }
                Err(error) => {
                    self.shared.note_commit(Some(&error));
                    tracing::warn!(%error, "the store does not take in the journal; it is asked again");
                    closing_tries += u32::from(stopping);
                    if closing_tries == CLOSING_TRIES {
                        return Err(error);
                    }
                    thread::park_timeout(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Waits until there is something to do: a second more once something is written, so that an
    /// idle process has no wake-ups from here and a busy one few.
    fn wait(&self) {
        let shared = &self.shared;
        shared.flusher_idle.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Shared::rouse_flusher`.
        fence(Ordering::SeqCst);
        if !shared.is_pending() && !shared.is_stopping() {
            thread::park_timeout(TRIM_EVERY);
        }
        shared.flusher_idle.store(false, Ordering::Relaxed);
        if shared.is_pending() && !shared.is_sealed_pending() && !shared.is_stopping() {
            thread::park_timeout(self.shared.flush);
        }
    }

    /// Has the store forget records that are kept no longer.
    fn forget(&mut self, now: Now) {
        if now.instant < self.trim_at {
            return;
        }
        self.trim_at = now.instant + TRIM_EVERY;
        let retention_ms = u64::try_from(self.shared.retention.as_millis()).unwrap_or(u64::MAX);
        match self.shared.store.trim(now.unix_ms.saturating_sub(retention_ms)) {
            Ok(0) => {}
            Ok(records) => tracing::info!(records, "records are forgotten; their sums stay"),
            Err(error) => tracing::warn!(%error, "old records cannot be forgotten"),
        }
    }

    /// Takes in everything that is written.
    fn pass(&mut self) -> Result<(), StoreError> {
        loop {
            let segments: Vec<_> =
                self.shared.lanes.iter().flat_map(|lane| lane.snapshot()).collect();
            let is_rest = self.commit(&segments)?;
            self.trim();
            if is_rest {
                return Ok(());
            }
        }
    }

    /// Commits one batch. `false` if the batch was full before everything was in it.
    fn commit(&self, segments: &[Arc<Segment>]) -> Result<bool, StoreError> {
        let highest = self.shared.next_id.load(Ordering::Relaxed).saturating_sub(1);
        let mut covered = Covered { highest, positions: self.lingering.clone() };
        let mut spans = Vec::new();
        let mut taken = Vec::new();
        let mut batch_bytes = 0;
        for segment in segments {
            let from = segment.covered.load(Ordering::Relaxed);
            let mut to = from;
            if batch_bytes < BATCH_BYTES {
                to = segment.written();
            }
            if from < to {
                batch_bytes += to - from;
                // Our own writing, so its checksums need no look.
                let bytes = segment.bytes(from, to);
                spans.push(Span { segment: segment.id, start: from as u64, bytes });
                taken.push((segment, to));
            }
            covered.positions.insert(segment.id, to as u64);
        }
        if taken.is_empty() {
            return Ok(true);
        }
        self.shared.store.commit(&Batch { spans, covered })?;
        for (segment, to) in taken {
            segment.covered.store(to, Ordering::Relaxed);
        }
        Ok(batch_bytes < BATCH_BYTES)
    }

    /// Removes what is full and taken in, and tells the keeper that there is room.
    fn trim(&mut self) {
        let mut removed = false;
        for lane in &self.shared.lanes {
            for segment in lane.snapshot() {
                let covered = segment.covered.load(Ordering::Relaxed);
                if !segment.is_sealed() || covered != segment.written() {
                    break;
                }
                if let Err(cause) = segment.delete() {
                    tracing::error!(%cause, "a journal segment cannot be removed");
                    break;
                }
                self.lingering.insert(segment.id, covered as u64);
                lane.live().pop_front();
                self.shared.segment_count.fetch_sub(1, Ordering::Relaxed);
                removed = true;
            }
        }
        if removed {
            match self.shared.dir.as_deref().map_or(Ok(()), sync_dir) {
                Ok(()) => self.lingering.clear(),
                Err(cause) => tracing::error!(%cause, "the journal's directory cannot be synced"),
            }
            self.shared.wake_keeper();
        }
    }
}

//! The thread that moves full segments into the store, and removes them after the commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::segment::{Segment, sync_dir};
use super::shared::Shared;
use super::{Batch, Covered, Span, StoreError};

/// A batch is closed once it has this much, so that a store is never handed the whole journal.
const BATCH_BYTES: usize = 4 << 20;
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
}

impl Flusher {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Flusher { shared, lingering: BTreeMap::new() }
    }

    /// Runs until the journal is closed, and takes in everything at the end.
    pub(super) fn run(mut self) -> Result<(), StoreError> {
        let mut backoff = BACKOFF_MIN;
        let mut closing_tries = 0;
        loop {
            // Asked before the pass: what was written before the stop is then in it.
            let stopping = self.shared.is_stopping();
            match self.pass(stopping) {
                Ok(()) if stopping => return Ok(()),
                Ok(()) => {
                    backoff = BACKOFF_MIN;
                    thread::park();
                }
                Err(error) => {
                    self.shared.commit_failures.fetch_add(1, Ordering::Relaxed);
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

    /// Takes in all full segments, or everything that is written.
    fn pass(&mut self, everything: bool) -> Result<(), StoreError> {
        loop {
            let segments: Vec<_> =
                self.shared.lanes.iter().flat_map(|lane| lane.snapshot()).collect();
            let is_rest = self.commit(&segments, everything)?;
            self.trim();
            if is_rest {
                return Ok(());
            }
        }
    }

    /// Commits one batch. `false` if the batch was full before everything was in it.
    fn commit(&self, segments: &[Arc<Segment>], everything: bool) -> Result<bool, StoreError> {
        let highest = self.shared.next_id.load(Ordering::Relaxed).saturating_sub(1);
        let mut covered = Covered { highest, positions: self.lingering.clone() };
        let mut spans = Vec::new();
        let mut taken = Vec::new();
        let mut batch_bytes = 0;
        for segment in segments {
            let from = segment.covered.load(Ordering::Relaxed);
            let sealed = segment.is_sealed();
            let mut to = from;
            if (sealed || everything) && batch_bytes < BATCH_BYTES {
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

//! What the writers and the journal's own threads share.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::journal::Fsync;
use super::lock::Lock;
use super::segment::Segment;
use super::{Store, StoreError};
use crate::clock;

/// One worker's part of the journal.
#[derive(Default)]
pub(super) struct Lane {
    /// Oldest first; the last one is being written. The worker takes the lock once per segment.
    pub(super) live: Mutex<VecDeque<Arc<Segment>>>,
    /// Prepared, not in use yet. Only this lane's writer takes from it, so what it has counted on
    /// cannot go away.
    pub(super) spares: Mutex<VecDeque<Arc<Segment>>>,
    /// The number of spares, for the writer's arithmetic. Added after the push, subtracted by the
    /// writer itself: it never promises too much.
    pub(super) spare_count: AtomicUsize,
    /// The writer asks for another spare.
    pub(super) wants_spare: AtomicBool,
    /// Somebody has the lane's writer.
    pub(super) taken: AtomicBool,
    /// Bytes ever appended. Stored after the segment's `written` (Release).
    pub(super) appended_bytes: AtomicU64,
    /// How much of that is on the disk.
    pub(super) synced_bytes: AtomicU64,
    /// Wakes whoever waits for the disk.
    pub(super) synced: Notify,
}

impl Lane {
    pub(super) fn live(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spares(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the list, so that the lock is not held while a segment is worked on.
    pub(super) fn snapshot(&self) -> Vec<Arc<Segment>> {
        self.live().iter().cloned().collect()
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.appended_bytes.load(Ordering::Acquire) != self.synced_bytes.load(Ordering::Relaxed)
    }
}

pub(super) struct Shared {
    pub(super) dir: Option<PathBuf>,
    pub(super) segment_bytes: usize,
    pub(super) bound_bytes: usize,
    pub(super) fsync: Fsync,
    pub(super) lanes: Vec<Lane>,
    pub(super) store: Arc<dyn Store>,
    /// The number of the next segment.
    pub(super) next_id: AtomicU64,
    /// How many segments exist, spares included.
    pub(super) segment_count: AtomicUsize,
    /// The keeper has nothing to do and waits for an append. Guards the wake-up: without it every
    /// append would be a system call.
    pub(super) keeper_idle: AtomicBool,
    /// The flusher has nothing to do and waits for an append, of which the keeper tells it.
    pub(super) flusher_idle: AtomicBool,
    /// Everything that was written before this moment is in the store.
    pub(super) clean_at_ms: AtomicU64,
    pub(super) keeper: OnceLock<Thread>,
    pub(super) flusher: OnceLock<Thread>,
    pub(super) stopping: AtomicBool,
    /// The disk refused a sync. What it still holds is unknown from then on, so this stays.
    pub(super) sync_failed: AtomicBool,
    pub(super) refused: AtomicU64,
    pub(super) lost_settles: AtomicU64,
    pub(super) commit_failures: AtomicU64,
    /// Why the last commit failed; `None` once one did not.
    pub(super) commit_error: Mutex<Option<Arc<str>>>,
    /// How long the store keeps single records.
    pub(super) retention: Duration,
    pub(super) flush: Duration,
    /// Held until the last writer is gone, not only until the journal is closed.
    pub(super) _lock: Option<Lock>,
}

impl Shared {
    /// Tells the keeper of an append. The fence pairs with the one in `keeper::wait`: either the
    /// keeper sees the append before it parks, or we see that it is idle.
    #[inline]
    pub(super) fn note_append(&self) {
        fence(Ordering::SeqCst);
        if self.keeper_idle.load(Ordering::Relaxed)
            && self.keeper_idle.swap(false, Ordering::Relaxed)
        {
            self.wake_keeper();
        }
    }

    pub(super) fn wake_keeper(&self) {
        if let Some(thread) = self.keeper.get() {
            thread.unpark();
        }
    }

    pub(super) fn wake_flusher(&self) {
        if let Some(thread) = self.flusher.get() {
            thread.unpark();
        }
    }

    /// Tells a flusher that has nothing to do of what was written. The fence pairs with the one in
    /// `flush::wait`: either the flusher sees the record before it parks, or we see that it is idle.
    pub(super) fn rouse_flusher(&self) {
        fence(Ordering::SeqCst);
        if self.flusher_idle.load(Ordering::Relaxed)
            && self.flusher_idle.swap(false, Ordering::Relaxed)
        {
            self.note_clean(clock::instant());
            self.wake_flusher();
        }
    }

    /// Everything that was written before `at` is in the store.
    pub(super) fn note_clean(&self, at: Instant) {
        self.clean_at_ms.store(clock::ms_since_start(at), Ordering::Relaxed);
    }

    /// Whether something is written that the store does not have.
    pub(super) fn is_pending(&self) -> bool {
        let is_pending =
            |segment: &Arc<Segment>| segment.written() > segment.covered.load(Ordering::Relaxed);
        self.lanes.iter().any(|lane| lane.live().iter().any(is_pending))
    }

    /// Whether a segment is full that the store does not have: its room is needed.
    pub(super) fn is_sealed_pending(&self) -> bool {
        let is_pending = |segment: &Arc<Segment>| {
            segment.is_sealed() && segment.written() > segment.covered.load(Ordering::Relaxed)
        };
        self.lanes.iter().any(|lane| lane.live().iter().any(is_pending))
    }

    pub(super) fn note_commit(&self, failure: Option<&StoreError>) {
        if failure.is_some() {
            self.commit_failures.fetch_add(1, Ordering::Relaxed);
        }
        let text = failure.map(|error| error.to_string().into());
        *self.commit_error.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn stats(&self) -> Stats {
        let mut pending_bytes = 0;
        for lane in &self.lanes {
            for segment in lane.live().iter() {
                let covered = segment.covered.load(Ordering::Relaxed);
                pending_bytes += segment.written().saturating_sub(covered) as u64;
            }
        }
        let clean_at_ms = self.clean_at_ms.load(Ordering::Relaxed);
        let lag_ms = clock::ms_since_start(clock::instant()).saturating_sub(clean_at_ms);
        Stats {
            pending_bytes,
            allocated_bytes: (self.segment_count.load(Ordering::Relaxed) * self.segment_bytes)
                as u64,
            bound_bytes: self.bound_bytes as u64,
            flush_lag_ms: if pending_bytes > 0 { lag_ms } else { 0 },
            refused: self.refused.load(Ordering::Relaxed),
            lost_settles: self.lost_settles.load(Ordering::Relaxed),
            commit_failures: self.commit_failures.load(Ordering::Relaxed),
            commit_error: self.commit_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            is_sync_failed: self.sync_failed.load(Ordering::Relaxed),
        }
    }
}

/// The journal in figures.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Written and not yet in the store.
    pub pending_bytes: u64,
    /// On the disk, used or not.
    pub allocated_bytes: u64,
    /// The most that may be allocated.
    pub bound_bytes: u64,
    /// The age of the oldest record that the store has not taken in, at most.
    pub flush_lag_ms: u64,
    /// Requests turned away for want of room or of a working disk.
    pub refused: u64,
    /// Records that found no room although it had been taken: always 0, or the program is wrong.
    pub lost_settles: u64,
    /// Commits that the store refused.
    pub commit_failures: u64,
    /// Why the last commit failed; `None` if it did not.
    pub commit_error: Option<Arc<str>>,
    /// The disk refused a sync: no request is let in any more.
    pub is_sync_failed: bool,
}

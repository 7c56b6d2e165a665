//! The thread that brings records to the disk and prepares segments ahead, so that a worker waits
//! for neither. Parked whenever nothing was written: an idle process has no wake-ups from here.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use super::segment::Segment;
use super::shared::{Lane, Shared};
use crate::clock;

/// How long to leave a disk alone that refused a new segment.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the journal is closed and everything is synced.
pub(super) fn run(shared: &Shared) {
    let mut sync_at: Option<Instant> = None;
    let mut retry_at: Option<Instant> = None;
    loop {
        let now = clock::instant();
        if retry_at.is_none_or(|at| now >= at) {
            retry_at = refill(shared).err().map(|()| now + RETRY);
        }
        let stopping = shared.is_stopping();
        if is_dirty(shared) {
            shared.rouse_flusher();
            let at = *sync_at.get_or_insert(now + shared.fsync.interval());
            if now >= at || stopping {
                sync(shared);
                sync_at = None;
                continue;
            }
        } else if stopping {
            return;
        }
        wait(shared, sync_at, retry_at);
    }
}

/// Prepares a spare for `lane`. `Ok(false)` if the bound does not allow another segment.
pub(super) fn prepare(shared: &Shared, lane: usize) -> std::io::Result<bool> {
    let count = shared.segment_count.load(Ordering::Relaxed);
    if (count + 1) * shared.segment_bytes > shared.bound_bytes {
        return Ok(false);
    }
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let segment = Segment::create(shared.dir.as_deref(), id, lane, shared.segment_bytes)?;
    shared.segment_count.fetch_add(1, Ordering::Relaxed);
    let lane = &shared.lanes[lane];
    lane.spares().push_back(Arc::new(segment));
    lane.spare_count.fetch_add(1, Ordering::Release);
    Ok(true)
}

/// Serves every lane that wants a spare. A lane that cannot have one because of the bound is served
/// when the flusher has made room and wakes us.
fn refill(shared: &Shared) -> Result<(), ()> {
    for (at, lane) in shared.lanes.iter().enumerate() {
        if !lane.wants_spare.load(Ordering::Acquire) {
            continue;
        }
        match prepare(shared, at) {
            Ok(true) => lane.wants_spare.store(false, Ordering::Release),
            Ok(false) => shared.wake_flusher(),
            Err(cause) => {
                tracing::error!(%cause, "no new journal segment; requests are refused once the prepared ones are full");
                return Err(());
            }
        }
    }
    Ok(())
}

fn is_dirty(shared: &Shared) -> bool {
    shared.lanes.iter().any(Lane::is_dirty)
}

fn sync(shared: &Shared) {
    for lane in &shared.lanes {
        // Read first: whatever is counted here is below the segments' `written` afterwards.
        let appended = lane.appended_bytes.load(Ordering::Acquire);
        if appended == lane.synced_bytes.load(Ordering::Relaxed) {
            continue;
        }
        let result = lane.snapshot().iter().try_for_each(|segment| segment.sync());
        if let Err(cause) = result
            && !shared.sync_failed.swap(true, Ordering::AcqRel)
        {
            tracing::error!(%cause, "the journal cannot be synced to the disk; no request is let in any more");
        }
        // Also after a failure: it is told by `sync_failed`, and must not be tried in a loop.
        lane.synced_bytes.store(appended, Ordering::Release);
        lane.synced.notify_waiters();
    }
}

fn wait(shared: &Shared, sync_at: Option<Instant>, retry_at: Option<Instant>) {
    if let Some(at) = sync_at {
        let at = retry_at.map_or(at, |retry_at| at.min(retry_at));
        thread::park_timeout(at.saturating_duration_since(clock::instant()));
        return;
    }
    shared.keeper_idle.store(true, Ordering::Relaxed);
    // Pairs with the fence in `Shared::note_append`.
    fence(Ordering::SeqCst);
    if !is_dirty(shared) {
        match retry_at {
            Some(at) => thread::park_timeout(at.saturating_duration_since(clock::instant())),
            None => thread::park(),
        }
    }
    shared.keeper_idle.store(false, Ordering::Relaxed);
}

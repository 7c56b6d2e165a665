//! The worker's end of the journal: one copy into mapped memory per record.
//!
//! Room for a request's `Settle` is taken together with its `Open`. The rule that makes settling
//! infallible: *what is reserved never exceeds what the current segment and the spares can hold*,
//! where a segment counts for [`RECORD_BYTES_MAX`] less than is left in it, because it is abandoned
//! once it has less than that. Every append is of something reserved, so it keeps the rule.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::frame::{self, Encoded, RECORD_BYTES_MAX, Room};
use super::record::{Open, Settle};
use super::segment::{HEADER_BYTES, Segment};
use super::shared::{Lane, Shared};

/// Appends to one worker's part of the journal. Clones share it; none can leave the thread.
#[derive(Clone)]
pub struct Writer {
    state: Rc<RefCell<State>>,
}

/// Why a request cannot be recorded, and so must not be served (503).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JournalFull {
    /// The bound is reached or the disk is full, and the store has not taken anything in.
    #[error("the journal has no room: its bound is reached, or the disk is full")]
    NoRoom,
    /// The disk refused a sync.
    #[error("the journal cannot be synced to the disk; repair the disk and restart")]
    SyncFailed,
}

/// A record never reached the disk, as far as anybody knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the journal cannot be synced to the disk")]
pub struct SyncFailed;

struct State {
    shared: Arc<Shared>,
    lane: usize,
    segment: Arc<Segment>,
    /// What is left in the segment.
    left_bytes: usize,
    /// Taken for the `Settle`s of open requests.
    reserved_bytes: usize,
    /// What a whole segment counts for.
    spare_bytes: usize,
}

impl Writer {
    /// Takes a segment for the lane, or `None` if none is prepared.
    pub(super) fn new(shared: Arc<Shared>, lane: usize) -> Option<Self> {
        let segment = next_segment(&shared.lanes[lane])?;
        let spare_bytes = shared.segment_bytes - HEADER_BYTES - RECORD_BYTES_MAX;
        let left_bytes = segment.capacity() - HEADER_BYTES;
        let state = State { shared, lane, segment, left_bytes, reserved_bytes: 0, spare_bytes };
        Some(Writer { state: Rc::new(RefCell::new(state)) })
    }

    /// Records that a request begins, and takes `room` for its end. When this returns, both are
    /// safe from the end of the process.
    pub fn open(&self, open: &Open<'_>, room: Room) -> Result<Slot, JournalFull> {
        self.state.borrow_mut().open(open, room)?;
        Ok(Slot { writer: Some(self.clone()), room })
    }

    /// How many bytes are taken for requests that have not ended.
    pub fn reserved_bytes(&self) -> usize {
        self.state.borrow().reserved_bytes
    }
}

impl State {
    fn open(&mut self, open: &Open<'_>, room: Room) -> Result<(), JournalFull> {
        if self.shared.sync_failed.load(Ordering::Relaxed) {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return Err(JournalFull::SyncFailed);
        }
        let free = self.free_bytes();
        if free < self.spare_bytes {
            self.want_spare();
        }
        if free < room.bytes() + RECORD_BYTES_MAX {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return Err(JournalFull::NoRoom);
        }
        if !self.append(|out| frame::encode_open(open, out)) {
            return Err(JournalFull::NoRoom);
        }
        self.reserved_bytes += room.bytes();
        Ok(())
    }

    /// What may still be reserved.
    fn free_bytes(&self) -> usize {
        let spares = self.lane().spare_count.load(Ordering::Acquire);
        let total = self.left_bytes.saturating_sub(RECORD_BYTES_MAX) + spares * self.spare_bytes;
        total.saturating_sub(self.reserved_bytes)
    }

    fn settle(&mut self, settle: &Settle<'_>, room: Room) -> Mark {
        if !self.append(|out| frame::encode_settle(settle, room, out)) {
            // Room was taken, so this is a mistake in this file. The request ends all the same.
            self.shared.lost_settles.fetch_add(1, Ordering::Relaxed);
            tracing::error!(request = %settle.id, "no room in the journal for a settled request");
        }
        self.reserved_bytes -= room.bytes();
        self.mark()
    }

    #[inline]
    fn append(&mut self, encode: impl FnOnce(&mut [u8]) -> Option<Encoded>) -> bool {
        if self.left_bytes < RECORD_BYTES_MAX && !self.advance() {
            return false;
        }
        // SAFETY: this is the lane's only writer (`Lane::taken`), it stays on its thread, and it
        // seals a segment only when it leaves it.
        let Some(bytes) = (unsafe { self.segment.append(encode) }) else { return false };
        self.left_bytes -= bytes;
        let appended = &self.lane().appended_bytes;
        appended.store(appended.load(Ordering::Relaxed) + bytes as u64, Ordering::Release);
        self.shared.note_append();
        true
    }

    #[cold]
    fn advance(&mut self) -> bool {
        let Some(next) = next_segment(self.lane()) else { return false };
        self.segment.seal();
        self.left_bytes = next.capacity() - HEADER_BYTES;
        self.segment = next;
        self.shared.wake_flusher();
        true
    }

    #[cold]
    fn want_spare(&self) {
        if !self.lane().wants_spare.swap(true, Ordering::AcqRel) {
            self.shared.wake_keeper();
        }
    }

    fn lane(&self) -> &Lane {
        &self.shared.lanes[self.lane]
    }

    fn mark(&self) -> Mark {
        let waits = self.shared.fsync.is_always() && self.shared.dir.is_some();
        Mark {
            wait: waits.then(|| Wait {
                shared: self.shared.clone(),
                lane: self.lane,
                upto_bytes: self.lane().appended_bytes.load(Ordering::Relaxed),
            }),
        }
    }
}

/// Moves a spare to the end of the lane's live segments: first there, then counted as used.
fn next_segment(lane: &Lane) -> Option<Arc<Segment>> {
    let next = lane.spares().pop_front()?;
    lane.live().push_back(next.clone());
    lane.spare_count.fetch_sub(1, Ordering::AcqRel);
    Some(next)
}

impl Drop for State {
    fn drop(&mut self) {
        self.segment.seal();
        self.lane().taken.store(false, Ordering::Release);
        self.shared.wake_flusher();
    }
}

/// The room of one request's `Settle`. Dropping it gives the room back and leaves the request
/// open in the journal.
#[must_use = "a request whose slot is dropped stays open and becomes unsettled"]
pub struct Slot {
    writer: Option<Writer>,
    room: Room,
}

impl Slot {
    /// Records how the request ended. Cannot fail.
    pub fn settle(mut self, settle: &Settle<'_>) -> Mark {
        match self.writer.take() {
            Some(writer) => writer.state.borrow_mut().settle(settle, self.room),
            None => Mark { wait: None },
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.state.borrow_mut().reserved_bytes -= self.room.bytes();
        }
    }
}

/// A place in the journal that the last bytes of an answer may have to wait for.
#[derive(Default)]
pub struct Mark {
    wait: Option<Wait>,
}

struct Wait {
    shared: Arc<Shared>,
    lane: usize,
    upto_bytes: u64,
}

impl Mark {
    /// Whether [`Mark::durable`] has anything to wait for: only with `fsync = "always"`.
    pub fn must_wait(&self) -> bool {
        self.wait.is_some()
    }

    /// Waits until the disk has the record. Returns at once unless every record is to be waited
    /// for. Safe to drop at any time.
    pub async fn durable(self) -> Result<(), SyncFailed> {
        let Some(Wait { shared, lane, upto_bytes }) = self.wait else { return Ok(()) };
        let lane = &shared.lanes[lane];
        loop {
            let mut notified = std::pin::pin!(lane.synced.notified());
            // Enlisted before the check: a sync in between is not missed.
            notified.as_mut().enable();
            if lane.synced_bytes.load(Ordering::Acquire) >= upto_bytes {
                return Ok(());
            }
            if shared.sync_failed.load(Ordering::Acquire) {
                return Err(SyncFailed);
            }
            notified.await;
        }
    }
}

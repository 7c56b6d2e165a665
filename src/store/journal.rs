//! Opening and closing of the journal.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::flush::Flusher;
use super::frame::RECORD_BYTES_MAX;
use super::keeper;
use super::lock::{self, Lock, LockError};
use super::replay::{self, Report, io_error};
use super::shared::{Lane, Shared, Stats};
use super::writer::{JournalFull, Writer};
use super::{Store, StoreError};
use crate::clock;

/// A lane uses one segment and has one prepared; a third is on its way to the store.
const SEGMENTS_PER_WORKER_MIN: usize = 3;
const SEGMENT_BYTES_MIN: usize = 64 << 10;
const SEGMENT_BYTES_MAX: usize = 8 << 20;
const PAGE_BYTES: usize = 4096;

/// How often it is looked whether a flush that somebody waits for is done.
const FLUSH_LOOK: Duration = Duration::from_millis(5);

/// What is written is moved into the store so often, unless told otherwise.
pub const FLUSH_DEFAULT: Duration = Duration::from_secs(1);

/// How long the store keeps single records unless somebody says otherwise.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// When records are brought to the disk. The end of the process loses nothing either way; this is
/// about the loss of power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fsync {
    /// At the latest so long after they were written.
    Every(Duration),
    /// At once; the last bytes of an answer wait for it.
    Always,
}

impl Fsync {
    pub(super) fn interval(self) -> Duration {
        match self {
            Fsync::Every(interval) => interval,
            Fsync::Always => Duration::ZERO,
        }
    }

    pub(super) fn is_always(self) -> bool {
        self == Fsync::Always
    }
}

/// What a journal is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where the segments are; made if need be. `None` keeps them in memory, and nothing lasts.
    pub dir: Option<PathBuf>,
    /// How many writers there will be.
    pub workers: usize,
    /// The size of one segment.
    pub segment_bytes: usize,
    /// All segments together.
    pub bound_bytes: usize,
    pub fsync: Fsync,
    /// How long the store keeps single records. Their sums stay.
    pub retention: Duration,
    /// How often what is written is moved into the store, full segments apart.
    pub flush: Duration,
}

impl Settings {
    /// Chooses the size of the segments so that each worker can have four within the bound.
    pub fn new(dir: Option<PathBuf>, workers: usize, bound_bytes: usize, fsync: Fsync) -> Self {
        let quarter = bound_bytes / (4 * workers.max(1));
        let segment_bytes =
            (quarter / PAGE_BYTES * PAGE_BYTES).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let retention = RETENTION_DEFAULT;
        let flush = FLUSH_DEFAULT;
        Settings { dir, workers, segment_bytes, bound_bytes, fsync, retention, flush }
    }

    /// The smallest bound that these workers and segments can do with.
    pub fn bound_bytes_min(&self) -> usize {
        self.workers * SEGMENTS_PER_WORKER_MIN * self.segment_bytes
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two processes would write into each other's books.
    #[error("the journal is in use by {}; stop that process, or use another directory (lock file {})", holder(*.pid), .path.display())]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("a journal of {bound_bytes} bytes is too small: it needs at least {needed_bytes}")]
    TooSmall { bound_bytes: usize, needed_bytes: usize },
    /// Reading on would lose the record, so nothing was changed.
    #[error("{} holds records of a newer version ({version}); start that version again, and stop it cleanly before going back", .path.display())]
    Newer { path: PathBuf, version: u16 },
    #[error(transparent)]
    Store(StoreError),
    #[error("{}: {cause}", .path.display())]
    Io { path: PathBuf, cause: std::io::Error },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The journal of this process.
pub struct Journal {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    flusher: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Journal {
    /// Takes in what a former process left, prepares two segments per worker and starts the
    /// journal's threads. Slow: reads and writes the disk.
    pub fn open(
        settings: &Settings,
        store: Arc<dyn Store>,
    ) -> Result<(Journal, Report), OpenError> {
        check(settings)?;
        let (mut report, mut next_id, mut taken_lock) = (Report::default(), 1, None);
        if let Some(dir) = &settings.dir {
            std::fs::create_dir_all(dir).map_err(|cause| io_error(dir, cause))?;
            taken_lock = Some(Lock::take(dir).map_err(|error| match error {
                LockError::Held(pid) => OpenError::Locked { path: dir.join(lock::FILE_NAME), pid },
                LockError::Io(cause) => io_error(&dir.join(lock::FILE_NAME), cause),
            })?);
            (report, next_id) = replay::replay(dir, &*store)?;
        }
        store.note_complete(clock::unix_ms());
        let shared = Arc::new(share(settings, store, next_id, taken_lock));
        for lane in 0..settings.workers {
            for _ in 0..SEGMENTS_PER_WORKER_MIN - 1 {
                let dir = settings.dir.clone().unwrap_or_default();
                keeper::prepare(&shared, lane).map_err(|cause| io_error(&dir, cause))?;
            }
        }
        let mut journal = Journal { shared, keeper: None, flusher: None };
        journal.start().map_err(|cause| io_error(&PathBuf::from("journal thread"), cause))?;
        Ok((journal, report))
    }

    fn start(&mut self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let keeper =
            thread::Builder::new().name("journal".into()).spawn(move || keeper::run(&shared))?;
        self.shared.keeper.set(keeper.thread().clone()).expect("set once");
        self.keeper = Some(keeper);
        let flusher = Flusher::new(self.shared.clone());
        let flusher = thread::Builder::new().name("flush".into()).spawn(move || flusher.run())?;
        self.shared.flusher.set(flusher.thread().clone()).expect("set once");
        self.flusher = Some(flusher);
        Ok(())
    }

    /// The writer of `worker`, to be called on that worker's thread. Another one can be had when
    /// all clones of the last one and all its slots are gone.
    ///
    /// # Panics
    /// If there is no such worker, or if its writer is still about.
    pub fn writer(&self, worker: usize) -> Result<Writer, JournalFull> {
        let lane = &self.shared.lanes[worker];
        assert!(!lane.taken.swap(true, Ordering::AcqRel), "worker {worker} has its writer");
        Writer::new(self.shared.clone(), worker).ok_or_else(|| {
            lane.taken.store(false, Ordering::Release);
            lane.wants_spare.store(true, Ordering::Release);
            self.shared.wake_keeper();
            JournalFull::NoRoom
        })
    }

    /// The store that the records go to.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// All records of requests that were opened or had ended before this time are in the store.
    pub fn complete_until_unix_ms(&self) -> u64 {
        // Read first: what is written after that is younger.
        let now = clock::unix_ms();
        if self.shared.is_pending() { self.store().complete_until_unix_ms() } else { now }
    }

    /// Waits until everything that was written before this call is in the store, at most `wait`.
    /// `false`: it is not. Blocks: not for a worker.
    pub fn flushed(&self, wait: Duration) -> bool {
        let asked_unix_ms = clock::unix_ms();
        let end = clock::instant() + wait;
        loop {
            self.shared.wake_flusher();
            if self.complete_until_unix_ms() >= asked_unix_ms {
                return true;
            }
            if clock::instant() >= end {
                return false;
            }
            thread::sleep(FLUSH_LOOK);
        }
    }

    /// The journal in figures.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Takes everything into the store and ends the threads. The writers should be gone: what they
    /// write after this is taken in at the next start. An error leaves all records in the journal.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), StoreError> {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake_keeper();
        self.shared.wake_flusher();
        let mut result = Ok(());
        if let Some(thread) = self.flusher.take() {
            result = thread.join().expect("the flusher does not panic");
        }
        if let Some(thread) = self.keeper.take() {
            thread.join().expect("the keeper does not panic");
            for lane in &self.shared.lanes {
                // Nothing is in them, and a writer that is left must not be robbed.
                if !lane.taken.load(Ordering::Acquire) {
                    for spare in lane.spares().drain(..) {
                        let _ = spare.delete();
                    }
                }
            }
        }
        result
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "the journal is not empty; the next start takes it in");
        }
    }
}

fn check(settings: &Settings) -> Result<(), OpenError> {
    assert!(settings.workers > 0, "a journal needs a worker");
    assert!(settings.segment_bytes.is_multiple_of(PAGE_BYTES), "segments are whole pages");
    assert!(settings.segment_bytes > 4 * RECORD_BYTES_MAX, "a segment holds some records");
    assert!(u32::try_from(settings.segment_bytes).is_ok(), "a segment's size is a u32");
    let needed_bytes = settings.bound_bytes_min();
    if settings.bound_bytes < needed_bytes {
        let bound_bytes = settings.bound_bytes;
        return Err(OpenError::TooSmall { bound_bytes, needed_bytes });
    }
    Ok(())
}

fn share(settings: &Settings, store: Arc<dyn Store>, next_id: u64, lock: Option<Lock>) -> Shared {
    Shared {
        dir: settings.dir.clone(),
        segment_bytes: settings.segment_bytes,
        bound_bytes: settings.bound_bytes,
        fsync: settings.fsync,
        lanes: (0..settings.workers).map(|_| Lane::default()).collect(),
        store,
        next_id: AtomicU64::new(next_id),
        segment_count: AtomicUsize::new(0),
        keeper_idle: AtomicBool::new(false),
        flusher_idle: AtomicBool::new(false),
        clean_at_ms: AtomicU64::new(clock::ms_since_start(clock::instant())),
        keeper: OnceLock::new(),
        flusher: OnceLock::new(),
        stopping: AtomicBool::new(false),
        sync_failed: AtomicBool::new(false),
        refused: AtomicU64::new(0),
        lost_settles: AtomicU64::new(0),
        commit_failures: AtomicU64::new(0),
        commit_error: Mutex::new(None),
        retention: settings.retention,
        flush: settings.flush,
        _lock: lock,
    }
}

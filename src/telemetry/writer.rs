//! The one thread that writes the access log. It sleeps until a lane rings, gathers for a moment, writes
//! everything that waits, and sleeps again; an idle process is never woken.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::access::{Destination, HURRY_BYTES, Lane, Slot};
use crate::clock;

/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(50);
/// How often the path is compared with the open file, while there is something to write.
const ROTATION_CHECK: Duration = Duration::from_secs(1);
/// How long a non-blocking destination that takes nothing is waited for, in steps.
const BLOCKED_WAIT: Duration = Duration::from_millis(10);
const BLOCKED_STEPS: u32 = 100;
/// A lane's buffer above this is given back when a burst is over.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// The access log. Dropping it lets the writer finish what waits and end; [`AccessLog::flush`] first if
/// the process is about to exit.
pub struct AccessLog {
    shared: Arc<Shared>,
    /// None when the log is off.
    writer: Option<Thread>,
}

#[derive(Default)]
struct Shared {
    lanes: Mutex<Vec<Arc<Slot>>>,
    /// Lines that were taken but could not be written.
    lost: AtomicU64,
    reopen: AtomicBool,
    closing: AtomicBool,
    /// How often a flush was asked for, and up to which request it is done.
    flush_asked: AtomicU64,
    flush_done: Mutex<u64>,
    flushed: Condvar,
}

impl Shared {
    fn lanes(&self) -> Vec<Arc<Slot>> {
        lock(&self.lanes).clone()
    }

    fn most_waiting_bytes(&self) -> usize {
        self.lanes().iter().map(|slot| slot.buffer().len()).max().unwrap_or(0)
    }

    /// Whether to write now rather than gather: somebody waits, the end is near, or a lane fills up.
    /// `done` is the last flush that was seen to.
    fn is_hurried(&self, done: u64) -> bool {
        self.flush_asked.load(Ordering::Acquire) != done
            || self.closing.load(Ordering::Acquire)
            || self.most_waiting_bytes() >= HURRY_BYTES
    }
}

impl AccessLog {
    /// Opens the destination and starts the writer. Errors are those of opening the file or of starting
    /// a thread.
    pub fn new(destination: Destination) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let output = match destination {
            Destination::Off => return Ok(Arc::new(AccessLog { shared, writer: None })),
            // A duplicate of the descriptor: the standard library's own handle buffers by lines.
            Destination::Stdout => {
                Output::stream(io::stdout().as_fd().try_clone_to_owned()?.into())
            }
            Destination::Stderr => {
                Output::stream(io::stderr().as_fd().try_clone_to_owned()?.into())
            }
            Destination::File(path) => Output::file(path)?,
        };
        Self::start(shared, output)
    }

    fn start(shared: Arc<Shared>, output: Output) -> io::Result<Arc<Self>> {
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || run(&theirs, output))?;
        Ok(Arc::new(AccessLog { shared, writer: Some(thread.thread().clone()) }))
    }

    /// The lane of worker `index`, the same one for the same worker.
    pub fn worker(&self, index: usize) -> Lane {
        let Some(writer) = &self.writer else { return Lane::off() };
        let mut lanes = lock(&self.shared.lanes);
        while lanes.len() <= index {
            lanes.push(Arc::default());
        }
        Lane::new(Arc::clone(&lanes[index]), writer.clone())
    }

    /// Opens the file anew, as after a rotation. Lines that wait go to the new file. The writer also
    /// notices by itself, within about a second of traffic.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.ask();
    }

    /// Waits until everything that was logged before the call is written or lost, but no longer than
    /// `within`: a destination that has stopped must not hold up the end of the process. `false` if time
    /// ran out. Blocks the thread.
    pub fn flush(&self, within: Duration) -> bool {
        if self.writer.is_none() {
            return true;
        }
        let ticket = self.ask();
        let waited =
            self.shared
                .flushed
                .wait_timeout_while(lock(&self.shared.flush_done), within, |done| *done < ticket);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lines dropped since the start: the lane was full, or the destination failed.
    pub fn dropped(&self) -> u64 {
        let lanes = lock(&self.shared.lanes);
        let full: u64 = lanes.iter().map(|slot| slot.dropped.load(Ordering::Relaxed)).sum();
        full + self.shared.lost.load(Ordering::Relaxed)
    }

    fn ask(&self) -> u64 {
        let ticket = self.shared.flush_asked.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
        ticket
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writer's life. Whatever is asked of it is read before the lanes are emptied, so that a flush
/// covers every line that was there when it was asked for.
fn run(shared: &Shared, mut output: Output) {
    let mut done = 0;
    let mut spare = Vec::new();
    loop {
        while !shared.is_hurried(done) && shared.most_waiting_bytes() == 0 {
            thread::park();
        }
        gather(|| shared.is_hurried(done));
        let asked = shared.flush_asked.load(Ordering::Acquire);
        let closing = shared.closing.load(Ordering::Acquire);
        if shared.reopen.swap(false, Ordering::AcqRel) {
            output.reopen(clock::instant());
        }
        for slot in shared.lanes() {
            std::mem::swap(&mut *slot.buffer(), &mut spare);
            if !spare.is_empty() {
                let lost = output.write(&spare, clock::instant());
                shared.lost.fetch_add(lost, Ordering::Relaxed);
            }
            let written_bytes = spare.len();
            spare.clear();
            // Not after every round: growing again costs the worker a copy.
            if spare.capacity() > KEPT_BUFFER_BYTES.max(8 * written_bytes) {
                spare = Vec::new();
            }
        }
        done = asked;
        *lock(&shared.flush_done) = done;
        shared.flushed.notify_all();
        if closing {
            return;
        }
    }
}

/// Lets lines come together, unless somebody is in a hurry. Rings of other lanes end a wait early;
/// the rest of the time is then waited for.
fn gather(hurried: impl Fn() -> bool) {
    let end = clock::instant() + GATHER;
    while !hurried() {
        let left = end.saturating_duration_since(clock::instant());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// Where the bytes go, and what is the matter with it.
struct Output {
    /// None while a file cannot be opened.
    file: Option<File>,
    /// None for a standard stream.
    path: Option<PathBuf>,
    checked: Option<Instant>,
    /// The last write ended inside a line: the next one must begin on a new one.
    torn: bool,
    /// A fault was reported and has not gone since.
    failing: bool,
}

impl Output {
    fn stream(file: File) -> Self {
        Output { file: Some(file), path: None, checked: None, torn: false, failing: false }
    }

    fn file(path: PathBuf) -> io::Result<Self> {
        let mut output = Output::stream(open(&path)?);
        output.path = Some(path);
        Ok(output)
    }

    /// Writes whole lines and says how many were lost. Never fails: the log may suffer, serving may not.
    fn write(&mut self, lines: &[u8], now: Instant) -> u64 {
        let due = self.checked.is_none_or(|last| now.duration_since(last) >= ROTATION_CHECK);
        if due && self.was_rotated() {
            self.reopen(now);
        }
        if due {
            self.checked = Some(now);
        }
        let Some(file) = &mut self.file else { return count_lines(lines) };
        if self.torn && write_some(file, b"\n").0 == 1 {
            self.torn = false;
        }
        if self.torn {
            return count_lines(lines);
        }
        let (written, fault) = write_some(file, lines);
        self.torn = written > 0 && lines[written - 1] != b'\n';
        self.report(fault);
        count_lines(&lines[written..])
    }

    /// Whether the path leads to another file than the one that is open, or the file is missing.
    fn was_rotated(&self) -> bool {
        let Some(path) = &self.path else { return false };
        let Some(file) = &self.file else { return true };
        match (std::fs::metadata(path), file.metadata()) {
            (Ok(there), Ok(open)) => (there.dev(), there.ino()) != (open.dev(), open.ino()),
            (Err(error), _) => error.kind() == ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Opens the path again. If that fails the old file, if any, goes on.
    fn reopen(&mut self, now: Instant) {
        let Some(path) = &self.path else { return };
        self.checked = Some(now);
        match open(path) {
            Ok(file) => {
                self.file = Some(file);
                self.torn = false;
            }
            Err(error) => self.report(Some(error)),
        }
    }

    /// Says once that the log is failing, and once that it works again.
    fn report(&mut self, fault: Option<io::Error>) {
        match fault {
            Some(error) if !self.failing => {
                self.failing = true;
                tracing::error!("the access log cannot be written, lines are lost: {error}");
            }
            None if self.failing => {
                self.failing = false;
                tracing::info!("the access log is written again");
            }
            _ => {}
        }
    }
}

/// Non-blocking, because a named pipe without a reader would otherwise block the opening for ever.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Writes as much as the file takes: how many bytes went out, and what stopped it.
fn write_some(file: &mut File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let (mut written, mut blocked) = (0, 0);
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Some(ErrorKind::WriteZero.into())),
            Ok(more) => {
                written += more;
                blocked = 0;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && blocked < BLOCKED_STEPS => {
                blocked += 1;
                thread::sleep(BLOCKED_WAIT);
            }
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access::tests::line;

    const LONG: Duration = Duration::from_secs(60);

    fn lines(path: &Path) -> usize {
        let text = std::fs::read_to_string(path).expect("file");
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        text.lines().count()
    }

    #[test]
    fn a_flush_covers_all_lanes() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("access.log");
        let log = AccessLog::new(Destination::File(path.clone())).expect("log");
        let threads: Vec<_> = (0..3)
            .map(|worker| {
                let lane = log.worker(worker);
                thread::spawn(move || (0..500).for_each(|_| lane.write(&line())))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("thread"));
        assert!(log.flush(LONG));
        assert_eq!((lines(&path), log.dropped()), (1_500, 0));
        log.worker(1).write(&line());
        assert!(log.flush(LONG) && log.flush(LONG));
        assert_eq!(lines(&path), 1_501);
    }

    #[test]
    fn lines_are_written_without_a_flush() {
        let (mut reader, writer) = io::pipe().expect("pipe");
        let output = Output::stream(std::os::fd::OwnedFd::from(writer).into());
        let log = AccessLog::start(Arc::default(), output).expect("log");
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut text = [0; 4096];
            while let Ok(read @ 1..) = io::Read::read(&mut reader, &mut text) {
                let _ = tell.send(text[..read].to_vec());
            }
        });
        for _ in 0..3 {
            log.worker(0).write(&line());
            assert!(told.recv_timeout(LONG).expect("a line comes").ends_with(b"}\n"));
        }
    }

    #[test]
    fn a_busy_lane_cuts_the_gathering_short() {
        let shared = Shared::default();
        let slot = Arc::<Slot>::default();
        lock(&shared.lanes).extend([Arc::default(), Arc::clone(&slot)]);
        let lane = Lane::new(Arc::clone(&slot), thread::current());
        while slot.buffer().len() < HURRY_BYTES {
            assert!(!shared.is_hurried(0));
            lane.write(&line());
        }
        assert!(shared.is_hurried(0));
    }

    #[test]
    fn dropping_the_log_writes_what_waits() {
        let (mut reader, writer) = io::pipe().expect("pipe");
        let output = Output::stream(std::os::fd::OwnedFd::from(writer).into());
        let log = AccessLog::start(Arc::default(), output).expect("log");
        log.worker(0).write(&line());
        drop(log);
        // The end of the pipe comes only when the thread has ended.
        let text = io::read_to_string(&mut reader).expect("text");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_rotated_file_is_made_anew() {
        let dir = tempfile::tempdir().expect("dir");
        let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let log = AccessLog::new(Destination::File(path.clone())).expect("log");
        let lane = log.worker(0);
        lane.write(&line());
        assert!(log.flush(LONG));
        std::fs::rename(&path, &old).expect("rotate");
        log.reopen();
        lane.write(&line());
        assert!(log.flush(LONG));
        assert_eq!((lines(&old), lines(&path)), (1, 1));
    }

    #[test]
    fn a_rotation_is_noticed_without_being_told() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("access.log");
        let mut output = Output::file(path.clone()).expect("file");
        let start = clock::instant();
        assert_eq!(output.write(b"{}\n", start), 0);
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(output.write(b"{}\n", start + ROTATION_CHECK / 2), 0);
        assert!(!path.exists());
        assert_eq!(output.write(b"{}\n", start + ROTATION_CHECK), 0);
        assert_eq!(lines(&path), 1);
    }

    #[test]
    fn a_failing_destination_loses_lines_and_nothing_else() {
        let full = Path::new("/dev/full");
        if full.exists() {
            let log = AccessLog::new(Destination::File(full.to_owned())).expect("log");
            (0..5).for_each(|_| log.worker(0).write(&line()));
            assert!(log.flush(LONG));
            assert_eq!(log.dropped(), 5);
        }
        let (reader, writer) = io::pipe().expect("pipe");
        drop(reader);
        let mut output = Output::stream(std::os::fd::OwnedFd::from(writer).into());
        assert_eq!(output.write(b"{}\n{}\n", clock::instant()), 2);
        assert!(output.failing);
    }

    #[test]
    fn a_stopped_reader_holds_up_neither_callers_nor_the_end() {
        let (_reader, writer) = io::pipe().expect("pipe");
        let output = Output::stream(std::os::fd::OwnedFd::from(writer).into());
        let log = AccessLog::start(Arc::default(), output).expect("log");
        let lane = log.worker(0);
        // Two lanes' worth and more: one can be in the writer's hands.
        for _ in 0..20_000 {
            lane.write(&line());
        }
        assert!(log.dropped() > 0);
        assert!(!log.flush(Duration::from_millis(1)));
    }

    #[test]
    fn a_torn_line_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("access.log");
        let mut output = Output::file(path.clone()).expect("file");
        output.write(b"{\"half\":", clock::instant());
        assert!(output.torn);
        assert_eq!(output.write(b"{}\n", clock::instant()), 0);
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "{\"half\":\n{}\n");
    }

    #[test]
    fn off_means_off_and_a_bad_path_is_an_error() {
        let log = AccessLog::new(Destination::Off).expect("log");
        log.worker(0).write(&line());
        log.reopen();
        assert!(log.flush(LONG) && log.dropped() == 0);
        let missing = Destination::File("/nonexistent/dir/access.log".into());
        assert!(AccessLog::new(missing).is_err());
    }
}

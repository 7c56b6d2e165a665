//! The journal as a whole: what is promised whatever ends the process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::frame::whole;
use super::replay::{Tail, replay, walk};
use super::*;

const KEY: &str = "key-1";
const MODEL: &str = "gpt-4o";

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: Some(dir.to_owned()),
        workers: 1,
        segment_bytes: 64 << 10,
        bound_bytes: 8 * (64 << 10),
        fsync: Fsync::Every(Duration::from_millis(1)),
        retention: RETENTION_DEFAULT,
        flush: FLUSH_DEFAULT,
    }
}

fn in_memory_store() -> Arc<Database> {
    Arc::new(Database::in_memory().expect("memory"))
}

fn in_memory() -> Settings {
    Settings { dir: None, ..settings(Path::new("")) }
}

fn id(n: u64) -> RequestId {
    RequestId::new(1_700_000_000_000, u128::from(n))
}

fn opening(n: u64) -> Open<'static> {
    Open { key: KEY, model: MODEL, account: "acme", reserved_tokens: 1000, ..Open::new(id(n)) }
}

/// The request `n` used `n` input tokens: the sum tells which requests were counted.
fn settling(n: u64) -> Settle<'static> {
    Settle {
        status: 200,
        state: State::Settled,
        target: "openai/gpt-4o",
        units: Units { in_text: n, out_text: 1, ..Units::default() },
        ..Settle::new(id(n))
    }
}

fn serve(writer: &Writer, n: u64) -> Result<(), JournalFull> {
    writer.open(&opening(n), Room::new(2, 40))?.settle(&settling(n));
    Ok(())
}

/// Requests with a target, their input tokens, and requests that are unsettled.
fn sums(store: &dyn Store) -> (u64, u64, u64) {
    let mut all = Sums::default();
    let rows = store.rows().expect("rows");
    rows.iter().for_each(|(_, sums)| all.add(sums));
    (all.requests - all.unsettled, all.units.in_text, all.unsettled)
}

fn segments_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|it| it == "segment"));
    paths.sort();
    paths
}

/// What is on the disk at this moment, as after a sudden end.
fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    copy
}

#[test]
fn a_sudden_end_loses_and_doubles_nothing_in_any_store() {
    for kind in STORES {
        let dir = tempfile::tempdir().expect("a directory");
        let store = (kind.open)(dir.path()).expect("a store");
        // All of it is in the journal when the end comes, and nothing in the store.
        let (tried, _tries) = mpsc::sync_channel(0);
        let store = Arc::new(Flaky { inner: store, fails: true.into(), tried });
        let (journal, report) = Journal::open(&settings(dir.path()), store).expect("opened");
        assert!(report.is_empty());
        let writer = journal.writer(0).expect("a writer");
        for n in 1..=10 {
            serve(&writer, n).expect("room");
        }
        let _open = writer.open(&opening(11), Room::LARGEST).expect("room");
        let after = copy_of(dir.path());

        let store = (kind.open)(after.path()).expect("a store");
        let (journal, report) = Journal::open(&settings(after.path()), store).expect("opened");
        assert_eq!(sums(&**journal.store()), (10, 55, 1), "{}", kind.name);
        assert_eq!((report.records, report.torn_bytes, report.damaged_bytes), (21, 0, 0));
        assert_eq!(report.unsettled.len(), 1);
        assert_eq!((report.unsettled[0].id, report.unsettled[0].reserved_tokens), (id(11), 1000));
        assert_eq!(segments_in(after.path()).len(), 2, "only the new ones are left");
    }
}

#[test]
fn a_clean_end_leaves_no_segment() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || {
        let store = Database::open(&dir.path().join("usage.db")).expect("a store");
        Journal::open(&settings(dir.path()), Arc::new(store)).expect("opened")
    };
    let (journal, _) = open();
    let writer = journal.writer(0).expect("a writer");
    for n in 1..=1000 {
        // The store is quick enough in the long run, not necessarily at every moment.
        until("there is room", || serve(&writer, n).is_ok());
    }
    drop(writer);
    journal.close().expect("the store takes it");
    assert!(segments_in(dir.path()).is_empty());
    let (journal, report) = open();
    assert!(report.is_empty(), "{report}");
    assert_eq!(sums(&**journal.store()), (1000, 500_500, 0));
}

#[test]
fn a_second_process_is_told_who_has_the_journal() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || Journal::open(&settings(dir.path()), in_memory_store());
    let (first, _) = open().expect("opened");
    let error = open().err().expect("refused").to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert!(error.contains("lock"), "{error}");
    drop(first);
    open().expect("free again");
}

#[test]
fn a_journal_that_is_too_small_says_what_it_needs() {
    let settings = Settings { workers: 5, ..in_memory() };
    let error = Journal::open(&settings, in_memory_store()).err().expect("refused");
    assert!(error.to_string().contains(&settings.bound_bytes_min().to_string()), "{error}");
}

/// One small segment as it is on the disk, and the offsets after its records.
fn sample() -> (String, Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) = Journal::open(&settings(dir.path()), in_memory_store()).expect("opened");
    let writer = journal.writer(0).expect("a writer");
    for n in 1..=3 {
        serve(&writer, n).expect("room");
    }
    let path = segments_in(dir.path()).remove(0);
    let bytes = std::fs::read(&path).expect("readable");
    let mut ends = vec![segment::HEADER_BYTES];
    walk(&bytes[segment::HEADER_BYTES..], |end| ends.push(segment::HEADER_BYTES + end));
    assert_eq!(ends.len(), 7);
    (path.file_name().expect("a name").to_str().expect("text").to_owned(), bytes, ends)
}

/// The size of the frame at `at`, without its padding.
fn frame_bytes(bytes: &[u8], at: usize) -> usize {
    8 + u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four")) as usize
}

/// How many records a start with this file takes in, and what it says.
fn replayed(name: &str, bytes: &[u8]) -> Report {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join(name), bytes).expect("written");
    replay(dir.path(), &*in_memory_store()).expect("starts").0
}

#[test]
fn case_41_a_segment_cut_at_any_byte_keeps_what_is_before() {
    let (name, bytes, ends) = sample();
    for len in 0..=ends[6] {
        let report = replayed(&name, &bytes[..len]);
        // The padding after a record may be missing.
        let whole = ends.iter().take(6).filter(|&&at| at + frame_bytes(&bytes, at) <= len).count();
        assert_eq!(report.records, whole, "cut at {len}");
        let noticed = report.torn_segments + report.damaged_segments;
        assert_eq!(noticed, usize::from(len > 0), "cut at {len}: {report}");
    }
}

#[test]
fn case_41_a_flipped_bit_anywhere_is_cut_off_and_reported() {
    let (name, bytes, ends) = sample();
    for at in segment::HEADER_BYTES..ends[6] {
        let before = ends[1..].iter().filter(|&&end| end <= at).count();
        let is_padding = at >= ends[before] + frame_bytes(&bytes, ends[before]);
        for bit in 0..8 {
            let mut flipped = bytes[..ends[6]].to_vec();
            flipped[at] ^= 1 << bit;
            let mut records = 0;
            let tail = walk(&flipped[segment::HEADER_BYTES..], |_| records += 1);
            let want = if is_padding { 6 } else { before };
            assert_eq!(records, want, "byte {at} bit {bit}");
            assert_eq!(matches!(tail, Tail::Clean), is_padding, "byte {at} bit {bit}");
        }
        if !is_padding {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x80;
            let report = replayed(&name, &flipped);
            // A record behind it shows that this is no sudden end, which tears the last one.
            let (torn, damaged) = if before == 5 { (1, 0) } else { (0, 1) };
            let found = (report.records, report.torn_segments, report.damaged_segments);
            assert_eq!(found, (before, torn, damaged), "byte {at}");
            let lost_bytes = report.torn_bytes + report.damaged_bytes;
            assert!(lost_bytes > 0 && report.to_string().contains(&format!("{lost_bytes} bytes")));
        }
    }
}

#[test]
fn case_41_damage_in_the_middle_is_set_aside_and_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (name, mut bytes, ends) = sample();
    let filler = whole(&Record::Open(opening(99)));
    let mut at = ends[6];
    while at < 3 * 8192 {
        bytes[at..at + filler.len()].copy_from_slice(&filler);
        at += filler.len();
    }
    bytes[ends[2] + 20] ^= 1;
    std::fs::write(dir.path().join(&name), &bytes).expect("written");
    let (report, next) = replay(dir.path(), &*in_memory_store()).expect("starts");
    assert_eq!((report.records, report.damaged_segments), (2, 1));
    let lost_bytes = at - ends[2];
    assert!(report.damaged_bytes > lost_bytes - 8 && report.damaged_bytes <= lost_bytes);
    let kept = dir.path().join(name.replace(".segment", ".damaged"));
    assert_eq!(std::fs::read(kept).expect("kept"), bytes);
    assert!(next > 1, "its number is not used again");
}

#[test]
fn records_of_a_newer_version_stop_the_start_and_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let (name, mut bytes, ends) = sample();
    let frame = ends[2];
    let end = frame + frame_bytes(&bytes, frame);
    bytes[frame + 8] = VERSION + 1;
    let crc = crc32fast::hash(&bytes[frame + 8..end]);
    bytes[frame + 4..frame + 8].copy_from_slice(&crc.to_le_bytes());
    let path = dir.path().join(name);
    std::fs::write(&path, &bytes).expect("written");
    let error = replay(dir.path(), &*in_memory_store()).expect_err("refused").to_string();
    assert!(error.contains("newer version (3)"), "{error}");
    assert_eq!(std::fs::read(&path).expect("still there"), bytes);
}

/// A store that can be made to fail, and tells of each commit.
struct Flaky {
    inner: Arc<dyn Store>,
    fails: AtomicBool,
    tried: mpsc::SyncSender<bool>,
}

impl Store for Flaky {
    fn covered(&self) -> Result<Covered, StoreError> {
        self.inner.covered()
    }

    fn commit(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let fails = self.fails.load(Ordering::Acquire);
        if !fails {
            self.inner.commit(batch)?;
        }
        let _ = self.tried.try_send(!fails);
        let cause = std::io::Error::from_raw_os_error(libc::EIO);
        if fails { Err(StoreError::Io { path: "flaky".into(), cause }) } else { Ok(()) }
    }

    fn abandon(&self) -> Result<Vec<Abandoned>, StoreError> {
        self.inner.abandon()
    }

    fn rows(&self) -> Result<Vec<(RowKey, Sums)>, StoreError> {
        self.inner.rows()
    }

    fn orphans(&self) -> Result<u64, StoreError> {
        self.inner.orphans()
    }

    fn visit(
        &self,
        grain: Grain,
        from_unix_ms: u64,
        to_unix_ms: u64,
        each: &mut dyn FnMut(&UsageKey<'_>, u64, &Sums),
    ) -> Result<(), StoreError> {
        self.inner.visit(grain, from_unix_ms, to_unix_ms, each)
    }

    fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        self.inner.usage(query)
    }

    fn spent(
        &self,
        query: &SpentQuery,
        each: &mut dyn FnMut(&UsageKey<'_>, &Spent),
    ) -> Result<(), StoreError> {
        self.inner.spent(query, each)
    }

    fn records(
        &self,
        query: &RecordQuery,
        each: &mut dyn FnMut(&StoredRecord<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Cursor>, StoreError> {
        self.inner.records(query, each)
    }

    fn record(&self, id: RequestId) -> Result<Option<OwnedRecord>, StoreError> {
        self.inner.record(id)
    }

    fn note_complete(&self, until_unix_ms: u64) {
        self.inner.note_complete(until_unix_ms);
    }

    fn complete_until_unix_ms(&self) -> u64 {
        self.inner.complete_until_unix_ms()
    }

    fn keep_price(&self, version: u64, json: &str) -> Result<(), StoreError> {
        self.inner.keep_price(version, json)
    }

    fn price(&self, version: u64) -> Result<Option<String>, StoreError> {
        self.inner.price(version)
    }

    fn trim(&self, before_unix_ms: u64) -> Result<u64, StoreError> {
        self.inner.trim(before_unix_ms)
    }
}

/// Asks until it is so; gives up after a time that only a broken program needs.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn case_40_a_store_that_fails_refuses_new_requests_at_the_bound_and_no_open_one() {
    let (tried, tries) = mpsc::sync_channel(1024);
    let store = Arc::new(Flaky { inner: in_memory_store(), fails: true.into(), tried });
    let (journal, _) = Journal::open(&in_memory(), store.clone()).expect("opened");
    let writer = journal.writer(0).expect("a writer");
    let mut slots = Vec::new();
    // Up to the bound, however far the keeper is with its preparing.
    until("the bound is reached", || {
        match writer.open(&opening(slots.len() as u64 + 1), Room::LARGEST) {
            Ok(slot) => slots.push(slot),
            Err(error) => assert_eq!(error, JournalFull::NoRoom),
        }
        let stats = journal.stats();
        stats.allocated_bytes == stats.bound_bytes && stats.refused > 0 && {
            writer.open(&opening(0), Room::LARGEST).map(drop).is_err()
        }
    });
    let mut served = slots.len() as u64;
    for (n, slot) in (1..).zip(slots) {
        slot.settle(&settling(n));
    }
    assert_eq!((writer.reserved_bytes(), journal.stats().lost_settles), (0, 0));
    until("the bound is reached by records", || {
        let result = serve(&writer, served + 1);
        served += u64::from(result.is_ok());
        result.is_err()
    });
    assert_eq!(tries.recv(), Ok(false), "the store was asked and failed");
    until("the failure is told", || journal.stats().commit_error.is_some());
    let stats = journal.stats();
    assert!(stats.commit_error.expect("told").contains("flaky: Input/output error"));
    assert!(stats.commit_failures > 0 && stats.pending_bytes > 0);

    store.fails.store(false, Ordering::Release);
    while tries.recv() == Ok(false) {}
    until("there is room again", || serve(&writer, served + 1).is_ok());
    drop(writer);
    journal.close().expect("the store takes it");
    let (settled, in_text, _) = sums(&*store.inner);
    assert_eq!((settled, in_text), (served + 1, (served + 1) * (served + 2) / 2));
}

#[test]
fn with_fsync_always_an_answer_waits_for_the_disk_and_then_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { fsync: Fsync::Always, ..settings(dir.path()) };
    let (journal, _) = Journal::open(&settings, in_memory_store()).expect("opened");
    let writer = journal.writer(0).expect("a writer");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for n in 1..=20 {
        let mark = writer.open(&opening(n), Room::LARGEST).expect("room").settle(&settling(n));
        assert!(mark.must_wait());
        assert_eq!(runtime.block_on(mark.durable()), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The store is down and the journal fills up, with records as large as they can be: room that
    /// was taken is there.
    #[test]
    fn settling_never_fails_and_every_request_is_counted(
        steps in prop::collection::vec((0u8..5, 0usize..300, 0usize..9), 1..3000),
    ) {
        let (tried, _tries) = mpsc::sync_channel(0);
        let store = Arc::new(Flaky { inner: in_memory_store(), fails: true.into(), tried });
        let settings = Settings { bound_bytes: 3 * (64 << 10), ..in_memory() };
        let (journal, _) = Journal::open(&settings, store.clone()).expect("opened");
        let writer = journal.writer(0).expect("a writer");
        let mut slots = Vec::new();
        let mut next = 0;
        for (choice, size, attempts) in steps {
            let name = "n".repeat(size);
            if choice > 0 {
                let open = Open { end_user: &name, ..opening(next + 1) };
                if let Ok(slot) = writer.open(&open, Room::new(attempts, size)) {
                    next += 1;
                    slots.push((next, size, attempts, slot));
                }
            } else if !slots.is_empty() {
                let (n, size, attempts, slot) = slots.swap_remove(size % slots.len());
                settle_large(n, size, attempts, slot);
            }
        }
        for (n, size, attempts, slot) in slots {
            settle_large(n, size, attempts, slot);
        }
        prop_assert_eq!(writer.reserved_bytes(), 0);
        prop_assert_eq!(journal.stats().lost_settles, 0);
        store.fails.store(false, Ordering::Release);
        drop(writer);
        journal.close().expect("the store takes it");
        prop_assert_eq!(sums(&*store), (next, next * (next + 1) / 2, 0));
        prop_assert_eq!(store.orphans().expect("known"), 0);
    }
}

/// Settles with all that its room was taken for.
fn settle_large(n: u64, size: usize, attempts: usize, slot: Slot) {
    let name = "n".repeat(size);
    let units = Units::from_values([u64::MAX; Units::COUNT]);
    let attempt = Attempt { target: &name, units, ttft_us: Some(u64::MAX), ..Attempt::default() };
    slot.settle(&Settle { attempts: List::Owned(vec![attempt; attempts]), ..settling(n) });
}

const CHILD_DIR: &str = "FORETOKEN_TEST_JOURNAL";
/// The child keeps this many requests open all the time.
const CHILD_OPEN: u64 = 5;

/// Not a test by itself: the process that `case_34_...` kills. Settles requests in order, and says so
/// after each.
#[test]
fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    let store = Arc::new(Database::open(&dir.join("usage.db")).expect("a store"));
    let (journal, _) = Journal::open(&settings(&dir), store.clone()).expect("opened");
    let writer = journal.writer(0).expect("a writer");
    let (settled, _, _) = sums(&*store);
    let mut slots = std::collections::VecDeque::new();
    for n in settled + 1.. {
        until("there is room", || {
            let slot = writer.open(&opening(n), Room::new(1, 40));
            slot.is_ok_and(|slot| {
                slots.push_back((n, slot));
                true
            })
        });
        if slots.len() as u64 == CHILD_OPEN {
            let (n, slot) = slots.pop_front().expect("some are open");
            slot.settle(&settling(n));
            println!("settled {n}");
        }
    }
}

#[test]
fn case_34_kill_9_at_any_time_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rng = SmallRng::seed_from_u64(34);
    let child_test = module_path!().split_once("::").expect("in a crate").1.to_owned();
    let mut unsettled = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "--nocapture", &format!("{child_test}::child_that_is_killed")])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut said = 0;
        let wanted = 200 + rng.random_range(0..2000);
        for _ in 0..wanted {
            let line = lines.next().expect("the child lives").expect("text");
            if let Some(n) = line.strip_prefix("settled ") {
                said = n.parse().expect("a number");
            }
        }
        child.kill().expect("killed");
        // What it said until it died was promised as well.
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("settled ").and_then(|n| n.parse().ok()) {
                said = n;
            }
        }
        child.wait().expect("gone");

        let store = Arc::new(Database::open(&dir.path().join("usage.db")).expect("a store"));
        let (journal, report) = Journal::open(&settings(dir.path()), store).expect("opened");
        let (settled, in_text, all_unsettled) = sums(&**journal.store());
        assert!(
            settled == said || settled == said + 1,
            "round {round}: said {said}, found {settled}; {report}"
        );
        assert_eq!(in_text, settled * (settled + 1) / 2, "round {round}: each exactly once");
        unsettled += report.unsettled.len() as u64;
        assert_eq!(all_unsettled, unsettled, "round {round}: {report}");
        assert!((CHILD_OPEN - 1..=CHILD_OPEN).contains(&(report.unsettled.len() as u64)));
        assert_eq!(report.damaged_segments, 0, "{report}");
    }
}

//! What only this kind of store can suffer: a full or locked database, and a damaged file.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::database::Database;
use crate::ident::RequestId;
use crate::store::query::{GroupBy, RecordQuery, UsageQuery};
use crate::store::{
    Batch, Covered, Fsync, Journal, JournalFull, OTHER, Open, Record, Room, Settings, Settle, Span,
    State, Store, StoreError, Writer, frame, sqlite,
};

fn id(n: u64) -> RequestId {
    RequestId::new(1_767_225_600_000 + n, u128::from(n))
}

fn opening(n: u64) -> Open<'static> {
    Open { key: "k", model: "m", time_unix_ms: 1_767_225_600_000 + n, ..Open::new(id(n)) }
}

fn settling(n: u64) -> Settle<'static> {
    Settle { status: 200, state: State::Settled, target: "t", ..Settle::new(id(n)) }
}

/// Commits records, which become the whole of a segment.
fn put_segment(store: &dyn Store, segment: u64, records: &[Record<'_>]) {
    let bytes: Vec<u8> = records.iter().flat_map(frame::whole).collect();
    let covered = Covered { highest: segment, positions: [(segment, bytes.len() as u64)].into() };
    let spans = vec![Span { segment, start: 0, bytes: &bytes }];
    store.commit(&Batch { spans, covered }).expect("committed");
}

/// Commits requests, one after the other, into one segment.
fn put(store: &dyn Store, requests: std::ops::Range<u64>) -> Result<(), StoreError> {
    let frames = |n| {
        let records = [Record::Open(opening(n)), Record::Settle(settling(n))];
        records.iter().flat_map(frame::whole).collect::<Vec<u8>>()
    };
    let each = frames(0).len() as u64;
    let bytes: Vec<u8> = requests.clone().flat_map(frames).collect();
    let spans = vec![Span { segment: 1, start: requests.start * each, bytes: &bytes }];
    let covered = Covered { highest: 1, positions: [(1, requests.end * each)].into() };
    store.commit(&Batch { spans, covered })
}

fn requests(store: &dyn Store) -> u64 {
    let rows = store.usage(&UsageQuery::default()).expect("sums");
    rows.iter().map(|row| row.sums.requests).sum()
}

fn journal(store: &Arc<Database>) -> Journal {
    let settings = Settings::new(None, 1, 1 << 20, Fsync::Every(Duration::from_millis(1)));
    Journal::open(&settings, store.clone()).expect("opened").0
}

fn serve(writer: &Writer, n: u64) -> Result<(), JournalFull> {
    writer.open(&opening(n), Room::new(1, 40))?.settle(&settling(n));
    Ok(())
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
fn what_is_written_is_soon_in_the_store_although_the_segment_is_not_full() {
    let store = Arc::new(Database::in_memory().expect("memory"));
    let journal = journal(&store);
    let writer = journal.writer(0).expect("a writer");
    for n in 1..=3 {
        serve(&writer, n).expect("room");
        until("it is there", || requests(&*store) == n);
    }
    until("everything is known to be there", || journal.stats().pending_bytes == 0);
    assert!(journal.complete_until_unix_ms() > id(3).to_u128() as u64 >> 48);
    assert_eq!(journal.stats().flush_lag_ms, 0);
}

#[test]
fn case_40_a_full_disk_is_told_of_and_nothing_is_lost_or_doubled() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(Database::open(&dir.path().join("x.db")).expect("a store"));
    let pages = |max: u32| {
        let writer = store.writer();
        let pragma = format!("PRAGMA max_page_count = {max}");
        writer.connection.query_row(&pragma, [], |row| row.get::<_, u32>(0)).expect("set");
    };
    pages(1);
    let journal = journal(&store);
    let writer = journal.writer(0).expect("a writer");
    let mut served = 0;
    until("the journal is full", || {
        let result = serve(&writer, served);
        served += u64::from(result.is_ok());
        result == Err(JournalFull::NoRoom) && {
            let stats = journal.stats();
            stats.allocated_bytes == stats.bound_bytes
        }
    });
    until("the failure is told", || journal.stats().commit_error.is_some());
    let stats = journal.stats();
    assert!(stats.commit_failures > 0 && stats.refused > 0 && stats.lost_settles == 0);
    let error = stats.commit_error.expect("told");
    assert!(error.contains("full") && error.contains("x.db"), "{error}");

    pages(1 << 30);
    until("there is room again", || serve(&writer, served).is_ok());
    drop(writer);
    until("the store has taken it in", || journal.stats().pending_bytes == 0);
    assert_eq!(journal.stats().commit_error, None);
    journal.close().expect("closed");
    assert_eq!(requests(&*store), served + 1);
}

#[test]
fn a_database_that_somebody_else_locks_is_waited_for_within_bounds() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.db");
    let store = Database::open(&path).expect("a store");
    put(&store, 0..3).expect("committed");
    let other = sqlite::open(Some(&path)).expect("a connection");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let error = put(&store, 3..5).expect_err("locked").to_string();
    assert!(error.contains("locked") && error.contains("x.db"), "{error}");
    assert_eq!(requests(&store), 3, "who only reads does not wait");
    other.execute_batch("ROLLBACK").expect("free");
    put(&store, 3..5).expect("committed");
    put(&store, 3..5).expect("once more");
    assert_eq!(requests(&store), 5);
}

#[test]
fn a_reader_who_takes_long_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Database::open(&dir.path().join("x.db")).expect("a store");
    put(&store, 0..3).expect("committed");
    let mut seen = 0;
    let commit_within = &mut |_: &crate::store::StoredRecord<'_>| {
        if seen == 0 {
            put(&store, 3..9).expect("committed");
        }
        seen += 1;
        ControlFlow::Continue(())
    };
    store.records(&RecordQuery::default(), commit_within).expect("records");
    assert_eq!((seen, requests(&store)), (3, 9), "an answer is of one moment");
}

#[test]
fn a_list_gets_on_however_little_may_be_looked_at() {
    let store = Database::in_memory().expect("memory");
    for n in 0..10 {
        put(&store, n..n + 1).expect("committed");
    }
    for oldest_first in [false, true] {
        let mut query = RecordQuery { oldest_first, ..RecordQuery::default() };
        let mut ids = Vec::new();
        for calls in 1.. {
            let each = &mut |record: &crate::store::StoredRecord<'_>| {
                ids.push(record.open.id);
                ControlFlow::Continue(())
            };
            let next = store.page(&query, 1, each).expect("records");
            assert!(calls <= 20, "{ids:?}");
            let Some(cursor) = next else { break };
            query.cursor = Some(cursor);
        }
        let mut want: Vec<_> = (0..10).map(id).collect();
        if !oldest_first {
            want.reverse();
        }
        assert_eq!(ids, want);
    }
}

#[test]
fn damage_is_refused_with_the_path_and_a_cure() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.db");
    let refused = |path: &Path| {
        let error = Database::open(path).err().expect("refused").to_string();
        assert!(error.contains(path.to_str().expect("text")), "{error}");
        assert!(error.contains("restore it from a backup"), "{error}");
    };
    put(&Database::open(&path).expect("new"), 0..3).expect("committed");
    let sound = std::fs::read(&path).expect("readable");

    let connection = sqlite::open(Some(&path)).expect("a connection");
    connection.execute("UPDATE usage_state SET state = x'ff'", []).expect("changed");
    drop(connection);
    refused(&path);

    let mut scrambled = sound.clone();
    scrambled.iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(&path, &scrambled).expect("written");
    refused(&path);
    assert_eq!(std::fs::read(&path).expect("still there"), scrambled);
}

#[test]
fn old_records_go_by_themselves() {
    let store = Arc::new(Database::in_memory().expect("memory"));
    put(&*store, 0..3).expect("committed");
    let kept = || store.record(id(1)).expect("asked").is_some();
    assert!(kept());
    let settings = Settings::new(None, 1, 1 << 20, Fsync::Every(Duration::from_millis(1)));
    let settings = Settings { retention: Duration::from_secs(3600), ..settings };
    let _journal = Journal::open(&settings, store.clone()).expect("opened");
    until("they are gone", || !kept());
    assert_eq!(requests(&*store), 3);
}

#[test]
fn the_log_of_open_requests_does_not_grow() {
    const AT_ONCE: u64 = 50;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.db");
    let store = Database::open(&path).expect("a store");
    let mut longest = 0;
    for round in 0..100 {
        let opened = (round * AT_ONCE..(round + 1) * AT_ONCE).map(|n| Record::Open(opening(n)));
        let before = (round * AT_ONCE).saturating_sub(AT_ONCE)..round * AT_ONCE;
        let records: Vec<_> = before.map(|n| Record::Settle(settling(n))).chain(opened).collect();
        put_segment(&store, round + 1, &records);
        let log: i64 = store
            .writer()
            .connection
            .query_row("SELECT sum(length(frames) + length(closed)) FROM usage_open", [], |row| {
                row.get(0)
            })
            .expect("counted");
        longest = longest.max(log);
    }
    assert!(longest < 128 << 10, "{longest}");
    drop(store);
    let store = Database::open(&path).expect("a store");
    let abandoned = store.abandon().expect("abandoned");
    let ids: Vec<_> = abandoned.iter().map(|it| it.id).collect();
    assert_eq!(ids, (99 * AT_ONCE..100 * AT_ONCE).map(id).collect::<Vec<_>>());
    assert_eq!(requests(&store), 100 * AT_ONCE);
}

#[test]
fn labels_that_are_too_many_share_a_row() {
    let store = Database::in_memory().expect("memory");
    store.writer().label_rows_max = 5;
    for round in 0..2 {
        for n in 0..8 {
            let (end_user, at) = (format!("e{n}"), round * 8 + n);
            let open = Open { end_user: &end_user, tags: "x", ..opening(at) };
            put_segment(&store, at + 1, &[Record::Open(open), Record::Settle(settling(at))]);
        }
    }
    let query = UsageQuery { group_by: vec![GroupBy::EndUser], ..UsageQuery::default() };
    let rows = store.usage(&query).expect("sums");
    let counts: Vec<_> = rows.iter().map(|row| (&*row.values[0], row.sums.requests)).collect();
    // The tag has the fifth row.
    assert_eq!(counts, [(OTHER, 8), ("e0", 2), ("e1", 2), ("e2", 2), ("e3", 2)]);
    let query = UsageQuery { group_by: vec![GroupBy::Tag], ..UsageQuery::default() };
    let rows = store.usage(&query).expect("sums");
    assert_eq!((rows.len(), &*rows[0].values[0], rows[0].sums.requests), (1, "x", 16));
}

#[test]
fn records_in_memory_are_bounded_and_their_sums_stay() {
    let store = Database::in_memory().expect("memory");
    store.writer().blocks_bytes_max = Some(1000);
    for n in 0..20 {
        put(&store, n..n + 1).expect("committed");
    }
    let mut kept = Vec::new();
    let each = &mut |record: &crate::store::StoredRecord<'_>| {
        kept.push(record.open.id);
        ControlFlow::Continue(())
    };
    store.records(&RecordQuery::default(), each).expect("records");
    assert!((1..20).contains(&kept.len()) && kept[0] == id(19), "{kept:?}");
    assert_eq!(requests(&store), 20);
}

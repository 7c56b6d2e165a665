//! What recording a request costs its worker: the goal is 300 ns for `Open` and `Settle`.

use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, black_box};
use foretoken::clock;
use foretoken::ident::{AccountId, Alias, KeyId, ProjectId, RequestId, TargetId};
use foretoken::meter::{
    AttemptRecord, Candidate, Counters, End, Meter, Opening, Room, State, Units,
};
use foretoken::store::{
    Abandoned, Attempt, Batch, Covered, Fsync, Journal, List, Open, RowKey, Settings, Settle, Span,
    Store, StoreError, Sums, Totals, Writer,
};

fn main() {
    divan::main();
}

/// Takes everything and keeps nothing, so that only the journal is measured.
struct Nowhere;

impl Store for Nowhere {
    fn covered(&self) -> Result<Covered, StoreError> {
        Ok(Covered::default())
    }

    fn commit(&self, _: &Batch<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn abandon(&self) -> Result<Vec<Abandoned>, StoreError> {
        Ok(Vec::new())
    }

    fn rows(&self) -> Result<Vec<(RowKey, Sums)>, StoreError> {
        Ok(Vec::new())
    }

    fn orphans(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

const CANDIDATES: [Candidate<'static>; 2] = [
    Candidate { target: "openai/gpt-4o-mini", score: 312.0 },
    Candidate { target: "azure-west/gpt-4o-mini", score: 367.5 },
];

fn units() -> Units {
    Units { in_text: 396, in_cache_read: 1024, out_text: 96, ..Units::default() }
}

fn journal(dir: Option<&tempfile::TempDir>) -> Journal {
    let dir = dir.map(|dir| dir.path().to_owned());
    let settings = Settings::new(dir, 1, 256 << 20, Fsync::Every(Duration::from_millis(50)));
    Journal::open(&settings, Arc::new(Nowhere)).expect("a journal").0
}

/// The writer alone. The journal's own threads may lag behind this pace, which no real load
/// reaches; a request that finds no room is tried again.
fn append(writer: &Writer, n: u64) {
    let id = RequestId::new(n, 7);
    let open = Open {
        time_unix_ms: n,
        key: "key-0123456789",
        account: "default",
        project: "chat-backend",
        endpoint: "chat",
        model: "gpt-4o-mini",
        reserved_tokens: 4096,
        candidates: List::Borrowed(&CANDIDATES),
        ..Open::new(id)
    };
    let attempts = [Attempt { target: CANDIDATES[0].target, units: units(), ..Attempt::default() }];
    let settle = Settle {
        time_unix_ms: n,
        status: 200,
        state: State::Settled,
        target: CANDIDATES[0].target,
        units: units(),
        ttft_us: Some(350_000),
        total_us: 2_100_000,
        overhead_us: 40,
        attempts: List::Borrowed(&attempts),
        ..Settle::new(id)
    };
    loop {
        if let Ok(slot) = writer.open(black_box(&open), Room::new(4, 40)) {
            slot.settle(black_box(&settle));
            return;
        }
        std::thread::yield_now();
    }
}

#[divan::bench(sample_size = 1000, sample_count = 100)]
fn journal_in_memory_open_settle(bencher: Bencher) {
    let journal = journal(None);
    let writer = journal.writer(0).expect("a writer");
    let mut n = 0;
    bencher.bench_local(|| {
        n += 1;
        append(&writer, n);
    });
}

#[divan::bench(sample_size = 1000, sample_count = 100)]
fn journal_file_open_settle(bencher: Bencher) {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = journal(Some(&dir));
    let writer = journal.writer(0).expect("a writer");
    let mut n = 0;
    bencher.bench_local(|| {
        n += 1;
        append(&writer, n);
    });
}

/// What the thread behind pays for a thousand requests.
#[divan::bench]
fn totals_commit_1000_requests(bencher: Bencher) {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = journal(Some(&dir));
    let writer = journal.writer(0).expect("a writer");
    (1..=1000).for_each(|n| append(&writer, n));
    let mut paths = std::fs::read_dir(dir.path()).expect("a directory");
    let first = paths.find_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?.to_str()?.starts_with("0000000000000001-").then_some(path)
    });
    let bytes = std::fs::read(first.expect("the first segment")).expect("readable");
    bencher.bench_local(|| {
        let span = Span { segment: 1, start: 32, bytes: &bytes[32..] };
        let covered = Covered { highest: 1, positions: [(1, bytes.len() as u64)].into() };
        Totals::in_memory().commit(&Batch { spans: vec![span], covered })
    });
}

/// All that a request pays: journal, statistics, and the entry in between.
#[divan::bench(sample_size = 1000, sample_count = 100)]
fn entry_file_open_settle(bencher: Bencher) {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = journal(Some(&dir));
    let counters = Counters::new(1);
    let writer = journal.writer(0).expect("a writer");
    let meter = Meter::new(writer, counters.shard(0).expect("a shard"));
    let (key, model) = (KeyId::from("key-0123456789"), Alias::from("gpt-4o-mini"));
    let (account, project) = (AccountId::from("default"), ProjectId::from("chat-backend"));
    let target = TargetId::from(CANDIDATES[0].target);
    let now = clock::now();
    let mut n = 0;
    bencher.bench_local(|| {
        n += 1;
        let opening = Opening {
            id: RequestId::new(n, 7),
            key: &key,
            account: &account,
            project: &project,
            user: "",
            end_user: "",
            endpoint: "chat",
            model: &model,
            is_stream: true,
            reserved_tokens: 4096,
            reserved_cost_pico: 0,
            candidates: &CANDIDATES,
            room: Room::new(4, 40),
        };
        let mut entry = loop {
            match meter.open(black_box(&opening), now) {
                Ok(entry) => break entry,
                Err(_) => std::thread::yield_now(),
            }
        };
        entry.sent();
        entry.first_content(now.instant);
        entry.units(units());
        let attempt =
            AttemptRecord { target: target.clone(), error: None, units: units(), ttft_us: None };
        entry.attempt(attempt);
        entry.settle(End { status: 200, error: None, state: State::Settled }, now);
    });
}

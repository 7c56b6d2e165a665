//! What recording a request costs its worker: the goal is 300 ns for `Open` and `Settle`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, black_box};
use foretoken::clock;
use foretoken::ident::{AccountId, Alias, KeyId, ProjectId, RequestId, TargetId};
use foretoken::meter::{
    AttemptRecord, Candidate, Counters, End, Meter, Opening, Priced, Room, State, Units,
};
use foretoken::money::{Currency, PICO};
use foretoken::store::{
    Abandoned, Attempt, Batch, Covered, Cursor, Database, Fsync, Grain, Journal, List, Open,
    OwnedRecord, RecordQuery, RowKey, Settings, Settle, Span, Spent, SpentQuery, Store, StoreError,
    StoredRecord, Sums, UsageKey, UsageQuery, UsageRow, Writer,
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

    fn visit(
        &self,
        _: Grain,
        _: u64,
        _: u64,
        _: &mut dyn FnMut(&UsageKey<'_>, u64, &Sums),
    ) -> Result<(), StoreError> {
        Ok(())
    }

    fn usage(&self, _: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        Ok(Vec::new())
    }

    fn spent(
        &self,
        _: &SpentQuery,
        _: &mut dyn FnMut(&UsageKey<'_>, &Spent),
    ) -> Result<(), StoreError> {
        Ok(())
    }

    fn records(
        &self,
        _: &RecordQuery,
        _: &mut dyn FnMut(&StoredRecord<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Cursor>, StoreError> {
        Ok(None)
    }

    fn record(&self, _: RequestId) -> Result<Option<OwnedRecord>, StoreError> {
        Ok(None)
    }

    fn note_complete(&self, _: u64) {}

    fn complete_until_unix_ms(&self) -> u64 {
        0
    }

    fn keep_price(&self, _: u64, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn price(&self, _: u64) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    fn trim(&self, _: u64) -> Result<u64, StoreError> {
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

/// A thousand requests as they stand in a segment.
fn thousand() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = journal(Some(&dir));
    let writer = journal.writer(0).expect("a writer");
    (1..=1000).for_each(|n| append(&writer, n));
    let mut paths = std::fs::read_dir(dir.path()).expect("a directory");
    let first = paths.find_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?.to_str()?.starts_with("0000000000000001-").then_some(path)
    });
    std::fs::read(first.expect("the first segment")).expect("readable")
}

/// What the thread behind pays for a second's requests: all of it, the sync of the disk included.
/// `late`: each request ends in the commit after the one that opened it.
fn commit(bencher: Bencher, path: Option<&Path>, late: bool) {
    let bytes = thousand();
    let records: Vec<&[u8]> = Span { segment: 1, start: 32, bytes: &bytes[32..] }
        .entries(0)
        .map(|entry| entry.frame)
        .collect();
    let (opens, settles): (Vec<&[u8]>, Vec<&[u8]>) = (
        records.iter().step_by(2).copied().collect(),
        records.iter().skip(1).step_by(2).copied().collect(),
    );
    let (opens, settles) = (opens.concat(), settles.concat());
    let store = match path {
        None => Database::in_memory(),
        Some(path) => Database::open(path),
    };
    let store = store.expect("a store");
    let mut segment = 0;
    bencher.counter(1000usize).bench_local(|| {
        let batches = if late { vec![&opens, &settles] } else { vec![&bytes] };
        for bytes in batches {
            segment += 1;
            let start = if late { 0 } else { 32 };
            let span = Span { segment, start: start as u64, bytes: &bytes[start..] };
            let positions = [(segment, bytes.len() as u64)].into();
            let covered = Covered { highest: segment, positions };
            store.commit(&Batch { spans: vec![span], covered }).expect("committed");
        }
    });
}

#[divan::bench]
fn commit_1000_requests_in_memory(bencher: Bencher) {
    commit(bencher, None, false);
}

#[divan::bench]
fn commit_1000_requests_to_a_file(bencher: Bencher) {
    let dir = tempfile::tempdir().expect("a directory");
    commit(bencher, Some(&dir.path().join("x.db")), false);
}

#[divan::bench]
fn commit_1000_requests_late_to_a_file(bencher: Bencher) {
    let dir = tempfile::tempdir().expect("a directory");
    commit(bencher, Some(&dir.path().join("x.db")), true);
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
            tags: "",
            client: [192, 0, 2, 17].into(),
            endpoint: "chat",
            model: &model,
            is_stream: true,
            currency: Currency::USD,
            reserved_tokens: 4096,
            reserved_cost_pico: 1 << 40,
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
        let priced = Priced {
            cost_pico: 194_100_000,
            charge_pico: 213_510_000,
            price_version: 1 << 60,
            fx_rate_pico: PICO,
            is_unpriced: false,
        };
        entry.price(priced);
        let attempt = AttemptRecord {
            target: target.clone(),
            error: None,
            units: units(),
            ttft_us: None,
            cost_pico: priced.cost_pico,
            price_version: priced.price_version,
        };
        entry.attempt(attempt);
        entry.settle(End { status: 200, error: None, state: State::Settled }, now);
    });
}

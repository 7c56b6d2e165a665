//! What a key costs: to find it (flat from 10 to 1,000,000 keys), to edit it, and to keep it (at most
//! 600 bytes at 1,000,000 keys, checked and printed first).

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use divan::{Bencher, black_box};
use foretoken::admit::ScopeKind;
use foretoken::auth::{Digest, Grant, GrantCache, Keyring, Shared, digest};
use foretoken::clock;
use foretoken::directory::{Directory, FileObjects, Live, Spent};
use foretoken::limits::{LimitSet, Limits};
use foretoken::store::StoreError;
use foretoken::store::objects::{
    self, Change, ObjectKind, ObjectRow, Objects, Put, SecretRow, Status,
};
use mimalloc::MiMalloc;

/// The allocator of the program, and how much is held from it, with what it adds to round up.
struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    /// Of mimalloc, which is linked in: how many bytes a block really has.
    fn mi_usable_size(block: *const c_void) -> usize;
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let at = unsafe { MiMalloc.alloc(layout) };
        if !at.is_null() {
            HELD_BYTES.fetch_add(unsafe { mi_usable_size(at.cast()) }, Ordering::Relaxed);
        }
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(unsafe { mi_usable_size(at.cast()) }, Ordering::Relaxed);
        unsafe { MiMalloc.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [usize; 4] = [10, 1_000, 100_000, 1_000_000];
const BYTES_PER_KEY_MAX: usize = 600;
const UNIX_MS: u64 = 1_800_000_000_000;

fn main() {
    let before = HELD_BYTES.load(Ordering::Relaxed);
    let ring = rings().last().expect("a ring");
    let smaller: usize = SIZES[..3].iter().sum();
    let held = HELD_BYTES.load(Ordering::Relaxed) - before;
    let per_key = held / (ring.len() + smaller);
    println!("memory per key, with limits of its own, of {} keys: {per_key} bytes", ring.len());
    assert!(per_key <= BYTES_PER_KEY_MAX, "more than {BYTES_PER_KEY_MAX} bytes for each key");
    divan::main();
}

fn secret(n: usize) -> String {
    format!("sk-ft-{n:043}")
}

/// A key as they are made by the API: an id of its own, ten thousand projects of a hundred accounts,
/// limits of its own.
fn key(shared: &mut Shared, n: usize) -> (Digest, Grant) {
    let account = shared.text(&format!("acc_01JZZZZZZZZZZZZZZZZZZZZ{:03}", n % 100));
    let project = shared.text(&format!("prj_01JZZZZZZZZZZZZZZZZZZ{:05}", n % 10_000));
    let id = format!("key_01JZZZZZZZZZZZZZZZZ{n:07}");
    let limits = LimitSet {
        all: Limits { rpm: Some(600), tpm: Some(200_000), ..Limits::default() },
        revision: n as u64,
        ..LimitSet::default()
    };
    let open = Grant::open(
        id.as_str().into(),
        foretoken::ident::AccountId(account),
        foretoken::ident::ProjectId(project),
    );
    let grant = Grant {
        key_name: format!("service number {n}").into(),
        user: Some(shared.text(&format!("usr_01JZZZZZZZZZZZZZZZZZZ{:05}", n % 10_000))),
        models: shared.names(&["gpt-*", "claude-*"]),
        tags: shared.names(&["production"]),
        limits: Some(limits.into()),
        ..open
    };
    (digest(secret(n).as_bytes()), grant)
}

/// One ring of each size.
fn rings() -> &'static [Keyring] {
    static RINGS: OnceLock<Vec<Keyring>> = OnceLock::new();
    RINGS.get_or_init(|| {
        let fill = |size: usize| {
            let (ring, mut shared) = (Keyring::new(), Shared::new());
            for n in 0..size {
                let (digest, grant) = key(&mut shared, n);
                ring.put(digest, grant);
            }
            ring
        };
        SIZES.map(fill).into()
    })
}

fn ring(size: usize) -> &'static Keyring {
    let at = SIZES.iter().position(|&it| it == size).expect("one of the sizes");
    &rings()[at]
}

/// The presented bytes are hashed and found, another key each time: memory is cold at 1,000,000.
#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 100)]
fn lookup(bencher: Bencher, size: usize) {
    let ring = ring(size);
    let secrets: Vec<String> = (0..100_000).map(|n| secret(n * 7919 % size)).collect();
    let mut n = 0;
    bencher.bench_local(|| {
        n = (n + 1) % secrets.len();
        ring.lookup(black_box(secrets[n].as_bytes())).expect("known")
    });
}

/// What a request costs: the key is one of a thousand that its worker has seen lately.
#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 100)]
fn cached(bencher: Bencher, size: usize) {
    let (ring, mut cache) = (ring(size), GrantCache::new());
    let secrets: Vec<String> = (0..size.min(1_000)).map(secret).collect();
    let mut n = 0;
    bencher.bench_local(|| {
        n = (n + 1) % secrets.len();
        cache.get(ring, black_box(secrets[n].as_bytes()), UNIX_MS).expect("known")
    });
}

/// A wrong key, hashed and not found.
#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 100)]
fn unknown(bencher: Bencher, size: usize) {
    let ring = ring(size);
    bencher.bench_local(|| ring.lookup(black_box(b"sk-ft-a-key-that-does-not-exist-anywhere")));
}

/// One key edited among so many.
#[divan::bench(args = SIZES, sample_size = 100, sample_count = 100)]
fn edit(bencher: Bencher, size: usize) {
    let (ring, mut shared) = (ring(size), Shared::new());
    let keys: Vec<_> = (0..1_000).map(|n| key(&mut shared, n * 7919 % size)).collect();
    let mut n = 0;
    bencher.bench_local(|| {
        n = (n + 1) % keys.len();
        let (digest, grant) = &keys[n];
        ring.put(*digest, grant.clone())
    });
}

/// The start with so many stored keys: all of them from the store into the ring.
#[divan::bench(args = [10_000, 100_000], sample_size = 1, sample_count = 5)]
fn start_up(bencher: Bencher, size: usize) {
    let objects = stored(size);
    bencher.bench_local(|| {
        let keyring = Arc::new(Keyring::new());
        let live = Live {
            keyring: keyring.clone(),
            accounts: Arc::default(),
            spent: Box::new(Nothing),
            changed: Box::new(|_| {}),
        };
        let directory =
            Directory::open(objects.clone(), live, FileObjects::default(), clock::now());
        assert_eq!(keyring.len(), size);
        directory.expect("it opens")
    });
}

struct Nothing;

impl Spent for Nothing {
    fn history(
        &self,
        _: &str,
        _: ScopeKind,
        _: &str,
        _: Option<&str>,
        _: u64,
    ) -> Result<Vec<foretoken::admit::Spent>, StoreError> {
        Ok(Vec::new())
    }
}

/// A store in memory with so many keys of one project.
fn stored(size: usize) -> Arc<dyn Objects> {
    let objects = objects::open(None).expect("a store");
    let row = |kind, id: String, account: &str, project: &str, fields: &str| ObjectRow {
        kind,
        name: id.clone(),
        id,
        status: Status::Active,
        account: account.to_owned(),
        project: project.to_owned(),
        user: String::new(),
        body: format!("{{\"fields\":{fields},\"prefix\":\"sk-ft-abcdef\"}}"),
        revision: 1,
        created_unix_ms: UNIX_MS,
        updated_unix_ms: UNIX_MS,
        created_by: "owner".to_owned(),
    };
    let put = |row| Put { row, expect_revision: None };
    let project = row(ObjectKind::Project, "prj_1".to_owned(), "acc_1", "", "{}");
    let first = Change { puts: vec![put(project)], ..Change::default() };
    objects.apply(&first).expect("stored");
    let fields = r#"{"models":["gpt-*"],"limits":{"rpm":600,"tpm":200000},"tags":["production"]}"#;
    for from in (0..size).step_by(1000) {
        let mut change = Change::default();
        for n in from..(from + 1000).min(size) {
            let id = format!("key_01JZZZZZZZZZZZZZZZZZ{n:07}");
            change.puts.push(put(row(ObjectKind::Key, id.clone(), "acc_1", "prj_1", fields)));
            change.secrets_put.push(SecretRow {
                digest: digest(secret(n).as_bytes()),
                kind: ObjectKind::Key,
                id,
                prefix: "sk-ft-abcdef".to_owned(),
                valid_until_unix_ms: None,
            });
        }
        objects.apply(&change).expect("stored");
    }
    objects
}

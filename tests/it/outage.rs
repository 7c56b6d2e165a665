//! A store that does not answer: requests go on, it is seen, and nothing is lost or doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use foretoken::sim::Lengths;
use serde_json::{Value, json};

use crate::ledger::{Line, Price, Seen, Sum, Tokens, admin, ask, records, total};
use crate::support::process::{Process, foretoken};
use crate::support::{ADMIN_TOKEN, Answer, KEY, Setup, SimServer, eventually, request};

const PRICE: Price = Price { input: 150_000, cached: 75_000, output: 600_000, reasoning: 600_000 };
/// More than the smallest journal can hold.
const REQUESTS_MAX: usize = 8_000;

fn sim() -> SimServer {
    SimServer::with(|settings| settings.tokens = Lengths::constant(4))
}

/// The configuration of one worker with the smallest journal.
fn text(sim: &SimServer, store: &Path) -> String {
    let models = "[[model]]\nname = \"m\"\ntargets = [{ provider = \"up\", model = \"served\" }]\n";
    let setup = Setup::to(sim.addr).store(store).models(models).more(&PRICE.table("up", "served"));
    let small = "journal = \"1MiB\"\nwhen_full = \"refuse\"";
    setup.text().replace("journal = \"4MiB\"", small)
}

fn post(admin: SocketAddr, path: &str, body: &Value) -> Answer {
    let token = format!("Bearer {ADMIN_TOKEN}");
    request(admin, "POST", path, &[("authorization", &token)], body.to_string())
}

fn metric(admin: SocketAddr, name: &str) -> f64 {
    let token = format!("Bearer {ADMIN_TOKEN}");
    let answer = request(admin, "GET", "/metrics", &[("authorization", &token)], b"");
    let text = answer.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
}

/// Sorted names of the keys.
fn keys(addr: SocketAddr) -> BTreeSet<String> {
    let list = admin(addr, "/admin/v1/keys?limit=1000");
    let names = list["data"].as_array().expect("keys").iter();
    names.map(|key| key["name"].as_str().expect("a name").to_owned()).collect()
}

/// Callers who note what they got.
struct Callers {
    addr: SocketAddr,
    secret: String,
    line: Line,
    asked: usize,
    seen: BTreeMap<String, Seen>,
}

impl Callers {
    fn new(addr: SocketAddr, secret: &str) -> Callers {
        let line = Line::connect(addr, false);
        Callers { addr, secret: secret.to_owned(), line, asked: 0, seen: BTreeMap::new() }
    }

    /// One request, alternately of the key of the file and of that of the store.
    fn ask(&mut self) -> Result<(), Answer> {
        self.asked += 1;
        let secret = if self.asked.is_multiple_of(2) { KEY } else { &self.secret };
        let body = ask("m", &format!("{:0>250}", self.asked), self.asked.is_multiple_of(3), 3);
        match self.line.complete(secret, &body) {
            Ok(seen) => {
                assert!(self.seen.insert(seen.id.clone(), seen).is_none(), "an id twice");
                Ok(())
            }
            Err(answer) => {
                self.line = Line::connect(self.addr, false);
                Err(answer.expect("an answer, if not a good one"))
            }
        }
    }

    #[track_caller]
    fn served(&mut self, count: usize) {
        for _ in 0..count {
            self.ask().unwrap_or_else(|answer| panic!("{}: {}", answer.status, answer.text()));
        }
    }

    /// Asks until the journal is full: then it is 503, in words, and nothing else.
    #[track_caller]
    fn fill_up(&mut self) {
        let refused = (0..REQUESTS_MAX).find_map(|_| self.ask().err());
        let refused = refused.expect("the journal never got full");
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.text().contains("cannot keep its books"), "{}", refused.text());
    }

    /// Every answer is in the books once, with its usage, and there is nothing else.
    #[track_caller]
    fn expect_in(&self, admin: SocketAddr) {
        let books = records(admin, "");
        let mut sum = Sum::default();
        let mut ids = BTreeSet::new();
        for record in &books {
            let id = record["id"].as_str().expect("an id");
            assert!(ids.insert(id), "twice: {record}");
            let seen = self.seen.get(id).unwrap_or_else(|| panic!("nobody got it: {record}"));
            assert_eq!(Tokens::booked(&record["units"]), seen.told, "{record}");
            assert_eq!(record["state"], "settled", "{record}");
            sum.add_record(record);
        }
        assert_eq!(ids.len(), self.seen.len(), "lost");
        assert_eq!(total(admin), sum, "sums and records");
    }
}

/// What must hold while the store is down, and after it came back.
fn outage(process: &Process, break_it: impl FnOnce(), mend_it: impl FnOnce()) {
    let made = post(process.admin, "/admin/v1/keys", &json!({"name": "stored"}));
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let secret = made["secret"].as_str().expect("a secret");
    let mut callers = Callers::new(process.addr, secret);
    callers.served(4);
    eventually("the store has it", || total(process.admin).requests == 4);
    let before = keys(process.admin);

    break_it();
    // Known keys are served, those of the store too; it shows that the store is down.
    callers.served(20);
    let admin_addr = process.admin;
    eventually("the failure is counted", || {
        metric(admin_addr, "foretoken_store_failures_total") >= 1.0
    });
    assert!(metric(admin_addr, "foretoken_flush_lag_seconds") > 0.0);
    assert!(metric(admin_addr, "foretoken_journal_bytes") > 0.0);
    let status = admin(admin_addr, "/admin/v1/status");
    let journal = &status["journal"];
    assert!(journal["pending_bytes"].as_u64() > Some(0), "{status}");
    assert!(journal["last_error"].is_string(), "{status}");
    assert!(journal["flush_lag_ms"].as_u64() > Some(0), "{status}");
    // What would have to be kept is not done.
    let id = made["id"].as_str().expect("an id");
    for (path, body) in [
        ("/admin/v1/keys".to_owned(), json!({"name": "never"})),
        (format!("/admin/v1/keys/{id}/block"), json!({})),
    ] {
        let answer = post(admin_addr, &path, &body);
        answer.expect_error(503, "store_unavailable");
    }
    callers.served(4);
    assert_eq!(metric(admin_addr, "foretoken_journal_refused_total"), 0.0);
    callers.fill_up();
    assert!(metric(admin_addr, "foretoken_journal_refused_total") >= 1.0);

    mend_it();
    eventually("the journal is empty", || metric(admin_addr, "foretoken_journal_bytes") == 0.0);
    assert_eq!(keys(admin_addr), before);
    let served = (0..REQUESTS_MAX).any(|_| {
        let is_served = callers.ask().is_ok();
        if !is_served {
            std::thread::sleep(Duration::from_millis(5));
        }
        is_served
    });
    assert!(served, "it never served again");
    callers.served(10);
    let answers = callers.seen.len() as u64;
    eventually("all of it is in the store", || total(admin_addr).requests >= answers);
    callers.expect_in(admin_addr);
    let made = post(admin_addr, "/admin/v1/keys", &json!({"name": "later"}));
    assert_eq!(made.status, 201, "{}", made.text());
    eventually("nothing is behind", || metric(admin_addr, "foretoken_flush_lag_seconds") == 0.0);
    // What was refused left no mark in the audit log either.
    let audit = post(admin_addr, "/admin/v1/audit/verify", &json!({})).json();
    assert_eq!(audit["ok"], true, "{audit}");
}

#[test]
fn case_42_and_43_a_locked_store_is_waited_for_and_known_keys_are_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, store) = (dir.path().join("edge.toml"), dir.path().join("outage.db"));
    let sim = sim();
    std::fs::write(&config, text(&sim, &store)).expect("written");
    let process = Process::serve(&config);
    let other = rusqlite::Connection::open(&store).expect("the database");
    outage(
        &process,
        || other.execute_batch("BEGIN IMMEDIATE").expect("locked"),
        || other.execute_batch("ROLLBACK").expect("unlocked"),
    );
}

/// Limits how far files of a process may be written: 0 is a full disk to everything but pipes.
fn limit_files(pid: i32, bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is a value of our own, and nothing is read back.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Writes a file until there is no room for more.
fn fill(path: &Path) {
    use std::io::{ErrorKind, Write};
    let mut file = std::fs::File::create(path).expect("a file");
    for piece in [1 << 16, 1 << 12, 1] {
        // One byte more than there is room for ends it; so does a disk that is no small one.
        let full = (0..1 << 12).find_map(|_| file.write_all(&vec![1; piece]).err());
        let full = full.expect("FORETOKEN_SMALL_DISK is not small");
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    }
}

/// By a limit on the process. `FORETOKEN_SMALL_DISK=DIR` names a mounted file system of some 16 MiB
/// that is filled up instead.
#[test]
fn case_40_a_full_disk_is_waited_for_and_nothing_is_lost() {
    use std::os::unix::process::CommandExt;
    let small = std::env::var_os("FORETOKEN_SMALL_DISK");
    let dir = match &small {
        Some(disk) => tempfile::tempdir_in(disk).expect("a directory"),
        None => tempfile::tempdir().expect("a directory"),
    };
    let (config, store) = (dir.path().join("edge.toml"), dir.path().join("outage.db"));
    let sim = sim();
    std::fs::write(&config, text(&sim, &store)).expect("written");
    let mut command = foretoken();
    command.arg("serve").arg("--config").arg(&config);
    // SAFETY: setting a signal's disposition is all that happens between fork and exec. A write
    // beyond the limit is then an error, as on a full disk, and not a signal.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            Ok(())
        });
    }
    let process = Process::spawn(command);
    let pid = process.pid();
    if small.is_some() {
        let filler = dir.path().join("filler");
        outage(&process, || fill(&filler), || std::fs::remove_file(&filler).expect("removed"));
    } else {
        outage(&process, || limit_files(pid, 0), || limit_files(pid, libc::RLIM_INFINITY));
    }
}

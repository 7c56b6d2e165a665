//! The end of the process at any moment: what callers saw complete is in the books exactly once.
//!
//! `FORETOKEN_CRASHES=200` makes the run as long as the promise is, `FORETOKEN_SEED` another one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use foretoken::sim::Lengths;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::ledger::{Line, Price, Seen, Sum, Tokens, ask, from_env, records, total};
use crate::support::process::Process;
use crate::support::{KEY, Setup, SimServer};

const CALLERS: usize = 8;
const PRICE: Price = Price { input: 150_000, cached: 75_000, output: 600_000, reasoning: 600_000 };
/// The process gets so long under load, at most.
const ROUND_MS_MAX: u64 = 400;

fn setup(sim: &SimServer, store: &Path) -> Setup {
    let models = "[[model]]\nname = \"m\"\ntargets = [{ provider = \"up\", model = \"served\" }]\n";
    Setup::to(sim.addr).store(store).workers(2).models(models).more(&PRICE.table("up", "served"))
}

fn quick() -> SimServer {
    SimServer::with(|settings| {
        settings.tokens = Lengths::lognormal(8, 60);
        settings.log_requests = 0;
    })
}

/// What the callers of one round did and saw.
#[derive(Default)]
struct Round {
    /// The marks of all requests that were sent, whatever became of them.
    asked: BTreeSet<String>,
    /// By mark: what was seen to its end.
    seen: BTreeMap<String, Seen>,
}

/// Callers who ask until the connection breaks. Each request has a mark of its own, which is in the
/// books of both sides.
fn load(addr: SocketAddr, round: usize, killed: &AtomicBool, kill: impl FnOnce()) -> Round {
    let caller = |caller: usize| {
        let mut mine = Round::default();
        let mut line = Line::connect(addr, caller % 2 == 1);
        for number in 0.. {
            let mark = format!("r{round}-c{caller}-n{number}");
            let body = ask("m", &mark, (number + caller / 2) % 2 == 0, 1 + number % 50);
            mine.asked.insert(mark.clone());
            match line.complete(KEY, &body) {
                Ok(seen) => drop(mine.seen.insert(mark, seen)),
                Err(_) if killed.load(SeqCst) => break,
                Err(answer) => panic!("not by the kill: {answer:?}"),
            }
        }
        mine
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|at| scope.spawn(move || caller(at))).collect();
        kill();
        let mut round = Round::default();
        for caller in callers {
            let mine = caller.join().expect("no panic");
            round.asked.extend(mine.asked);
            round.seen.extend(mine.seen);
        }
        round
    })
}

/// Everything that the books must hold after some rounds.
#[derive(Default)]
struct Ledger {
    ids: BTreeSet<String>,
    marks: BTreeSet<String>,
    sum: Sum,
}

impl Ledger {
    /// Holds the books of a round against what its callers saw and what the provider told; gives
    /// how many of its requests are unsettled.
    fn check(&mut self, round: &Round, books: &[Value], sim: &SimServer) -> usize {
        let told: BTreeMap<String, Tokens> = sim
            .books()
            .into_iter()
            .filter(|page| round.asked.contains(&page.user))
            .map(|page| {
                let told = page.begun;
                assert_eq!(told.requests, 1, "asked twice upstream: {page:?}");
                let tokens = Tokens {
                    input: told.input,
                    cached: told.cached,
                    output: told.output,
                    reasoning: told.reasoning,
                };
                (page.user, tokens)
            })
            .collect();
        let mut by_mark = BTreeMap::new();
        for record in books {
            let text = |name: &str| record[name].as_str().expect("text").to_owned();
            let mark = text("end_user");
            if !round.asked.contains(&mark) {
                assert!(self.marks.contains(&mark), "of no round: {record}");
                continue;
            }
            assert!(self.ids.insert(text("id")), "an id twice: {record}");
            assert!(self.marks.insert(mark.clone()), "a request twice: {record}");
            self.sum.add_record(record);
            by_mark.insert(mark, record);
        }
        for (mark, seen) in &round.seen {
            let record = by_mark.get(mark);
            let record = record.unwrap_or_else(|| panic!("{mark} was complete and is lost"));
            assert_eq!(record["id"], *seen.id, "{record}");
            assert_eq!(record["state"], "settled", "{mark} was complete: {record}");
            assert_eq!(Tokens::booked(&record["units"]), seen.told, "{record}");
        }
        let mut unsettled = 0;
        for (mark, record) in &by_mark {
            match record["state"].as_str() {
                // Settled, whether or not its caller got to know: as the provider told.
                Some("settled") => {
                    let tokens = Tokens::booked(&record["units"]);
                    assert_eq!(Some(&tokens), told.get(mark), "{record}");
                    let cost = PRICE.cost(tokens);
                    assert_eq!(crate::ledger::pico(&record["cost"]), cost, "{record}");
                }
                Some("unsettled") => {
                    unsettled += 1;
                    assert!(!round.seen.contains_key(mark), "{record}");
                    assert!(record["cost"].is_null(), "{record}");
                    assert!(crate::ledger::pico(&record["reserved"]) > 0, "{record}");
                }
                _ => panic!("neither settled nor unsettled: {record}"),
            }
        }
        // Nothing is sent upstream before it is in the books.
        for mark in told.keys() {
            assert!(by_mark.contains_key(mark), "{mark} went upstream and is in no book");
        }
        unsettled
    }
}

/// Records of requests since a moment of this clock, less a minute.
fn since(start: &str) -> String {
    format!("&since={start}")
}

fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let unix_ms = now.expect("after 1970").as_millis() as u64;
    String::from_utf8_lossy(&foretoken::clock::rfc3339(unix_ms)).into_owned()
}

#[test]
fn case_34_kill_9_at_any_moment_keeps_the_ledger_exact() {
    let rounds = from_env("FORETOKEN_CRASHES", 5);
    let seed = from_env("FORETOKEN_SEED", 34);
    let mut random = SmallRng::seed_from_u64(seed as u64);
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("edge.toml");
    let sim = quick();
    setup(&sim, &dir.path().join("crash.db")).write(&config);
    let (mut ledger, mut asked, mut seen, mut unsettled) = (Ledger::default(), 0, 0, 0);
    let mut process = Process::serve(&config);
    for number in 0..rounds {
        sim.reset();
        let start = now();
        let killed = AtomicBool::new(false);
        let after = Duration::from_millis(random.random_range(0..ROUND_MS_MAX));
        let (addr, victim) = (process.addr, &mut process);
        let round = load(addr, number, &killed, || {
            // Not a wait for anything: the moment is what is being tried.
            std::thread::sleep(after);
            killed.store(true, SeqCst);
            victim.signal(libc::SIGKILL);
            victim.wait();
        });
        process = Process::serve(&config);
        let books = records(process.admin, &since(&start));
        unsettled += ledger.check(&round, &books, &sim);
        assert_eq!(total(process.admin), ledger.sum, "sums and records in round {number}");
        asked += round.asked.len();
        seen += round.seen.len();
    }
    let books = records(process.admin, "");
    let ids: BTreeSet<_> = books.iter().filter_map(|record| record["id"].as_str()).collect();
    assert_eq!((books.len(), ids.len()), (ledger.ids.len(), ledger.ids.len()));
    assert!(seen > 0, "the load did nothing");
    println!(
        "{rounds} rounds: {asked} requests, {seen} seen complete, {} in the books, {unsettled} of \
         them unsettled; nothing lost, nothing twice",
        books.len()
    );
}

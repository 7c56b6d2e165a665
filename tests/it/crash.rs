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
            let body = ask("m", &mark, (number + caller / 2).is_multiple_of(2), 1 + number % 50);
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

/// How a segment is damaged between the end of one process and the start of the next; the middle
/// one of three offsets lies within the frame that is meant.
type Damage = fn(&mut Vec<u8>, usize, usize);

/// Runs `count` requests one after the other, kills the process before the store has any of them,
/// damages the last frame of request `victim`, and starts again. Gives what the callers saw, the
/// records and what the new process said.
fn damaged(victim: usize, damage: Damage) -> (Vec<Seen>, Vec<Value>, String) {
    const COUNT: usize = 20;
    let dir = tempfile::tempdir().expect("a directory");
    let (config, store) = (dir.path().join("edge.toml"), dir.path().join("crash.db"));
    let sim = quick();
    // Nothing leaves the journal by itself.
    let text = setup(&sim, &store).workers(1).text();
    let text = text.replace("flush = \"100ms\"", "flush = \"1m\"");
    std::fs::write(&config, text.replace("level = \"error\"", "level = \"warn\""))
        .expect("written");
    let mut process = Process::serve(&config);
    let mut line = Line::connect(process.addr, false);
    let seen: Vec<Seen> = (0..COUNT)
        .map(|number| {
            let body = ask("m", &format!("n{number}"), number % 2 == 0, 3);
            line.complete(KEY, &body).expect("a whole answer")
        })
        .collect();
    process.signal(libc::SIGKILL);
    process.wait();
    let id: foretoken::ident::RequestId = seen[victim].id.parse().expect("an id");
    let needle = id.to_u128().to_le_bytes();
    let mut hit = 0;
    let journal = dir.path().join("crash.db.journal");
    for entry in std::fs::read_dir(&journal).expect("a journal") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("readable");
        let found: Vec<usize> = memchr::memmem::find_iter(&bytes, &needle).collect();
        // First where it was opened, then where it was settled; before the id are ten bytes.
        let [_, settled] = found[..] else { continue };
        let frame = settled - 10;
        let length = u32::from_le_bytes(bytes[frame..frame + 4].try_into().expect("four"));
        damage(&mut bytes, frame, frame + 8 + length as usize);
        std::fs::write(&path, bytes).expect("written");
        hit += 1;
    }
    assert_eq!(hit, 1, "the request is in one segment");
    let process = Process::serve(&config);
    let books = records(process.admin, "");
    let mut sum = Sum::default();
    books.iter().for_each(|record| sum.add_record(record));
    assert_eq!(total(process.admin), sum, "sums and records");
    // And it goes on: what comes now is kept.
    let mut line = Line::connect(process.addr, false);
    line.complete(KEY, &ask("m", "after", false, 3)).expect("a whole answer");
    (seen, books, process.said())
}

/// Everything before request `victim` is there to the token, `victim` itself is unsettled, and of
/// what came later there is nothing.
#[track_caller]
fn expect_cut_at(victim: usize, seen: &[Seen], books: &[Value]) {
    // Newest first.
    let books: Vec<&Value> = books.iter().rev().collect();
    assert_eq!(books.len(), victim + 1, "{books:?}");
    for (record, seen) in books.iter().zip(seen) {
        assert_eq!(record["id"], *seen.id, "{record}");
    }
    for (record, seen) in books[..victim].iter().zip(seen) {
        assert_eq!(record["state"], "settled", "{record}");
        assert_eq!(Tokens::booked(&record["units"]), seen.told, "{record}");
    }
    assert_eq!(books[victim]["state"], "unsettled", "{}", books[victim]);
}

#[test]
fn case_41_a_flipped_bit_costs_what_the_checksum_cuts_and_says_so() {
    let (seen, books, said) = damaged(11, |bytes, frame, end| bytes[(frame + end) / 2] ^= 0x10);
    expect_cut_at(11, &seen, &books);
    let line = said.lines().find(|line| line.contains("damage")).expect(&said);
    assert!(line.contains("ERROR"), "{line}");
    assert!(line.contains("1 segments") && !line.contains("lost 0 bytes"), "{line}");
}

#[test]
fn case_41_a_torn_tail_costs_the_record_that_was_torn_and_says_so() {
    let last = 19;
    let (seen, books, said) =
        damaged(last, |bytes, frame, end| bytes[(frame + end) / 2..end].fill(0));
    expect_cut_at(last, &seen, &books);
    let line = said.lines().find(|line| line.contains("torn")).expect(&said);
    assert!(line.contains("WARN") && line.contains("lost 0 bytes"), "{line}");
    assert!(!line.contains("cut 0 bytes"), "{line}");
}

#[test]
fn case_41_a_file_that_was_cut_short_costs_what_was_in_the_rest_and_says_so() {
    let (seen, books, said) = damaged(7, |bytes, frame, _| bytes.truncate(frame + 5));
    expect_cut_at(7, &seen, &books);
    let line = said.lines().find(|line| line.contains("damage")).expect(&said);
    assert!(line.contains("ERROR") && !line.contains("lost 0 bytes"), "{line}");
}

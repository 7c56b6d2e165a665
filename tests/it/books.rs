//! The books against the provider's own: to the token and to the pico-unit.
//!
//! `FORETOKEN_BOOKS=100000` makes the run as long as the promise is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use foretoken::sim::Lengths;

use crate::fleet::provider;
use crate::ledger::{Line, Price, Sum, Tokens, ask, from_env, records, total, usage};
use crate::support::{Setup, SimServer, UPSTREAM_KEY, eventually};

const SECOND_KEY: &str = "sk-upstream-the-second";
const CALLERS: usize = 8;
/// The account `resale` pays so much more than what the upstream asks.
const MARKUP_PERCENT: u128 = 125;

/// A model: what callers ask for, who serves it, under which name and at what price.
struct Model {
    alias: &'static str,
    provider: &'static str,
    served: &'static str,
    price: Price,
}

const MODELS: [Model; 4] = [
    Model {
        alias: "small",
        provider: "up",
        served: "served-small",
        price: Price { input: 150_000, cached: 150_000, output: 600_000, reasoning: 600_000 },
    },
    // Half of what it reads counts as cached.
    Model {
        alias: "large",
        provider: "up",
        served: "large-sim-cached",
        price: Price { input: 3_000_000, cached: 300_004, output: 15_000_000, reasoning: 1 << 20 },
    },
    // It thinks before it speaks.
    Model {
        alias: "deep",
        provider: "second",
        served: "served-reason",
        price: Price { input: 1_100_000, cached: 4, output: 4_400_000, reasoning: 8_800_004 },
    },
    // The same model at two providers, at two prices.
    Model {
        alias: "other",
        provider: "second",
        served: "served-small",
        price: Price { input: 4, cached: 4, output: 8, reasoning: 12 },
    },
];

/// A key: its name, its project and its account.
const KEYS: [(&str, &str, &str); 6] = [
    ("k1", "red", "default"),
    ("k2", "red", "default"),
    ("k3", "green", "default"),
    ("k4", "blue", "resale"),
    ("k5", "blue", "resale"),
    ("k6", "grey", "resale"),
];

fn secret(key: &str) -> String {
    format!("sk-caller-of-the-books-{key}")
}

fn upstream_key(provider: &str) -> &'static str {
    if provider == "up" { UPSTREAM_KEY } else { SECOND_KEY }
}

fn setup(sim: &SimServer, store: &Path) -> Setup {
    let mut models = String::new();
    let mut more = provider("second", sim.addr, &format!("api_key = \"{SECOND_KEY}\""));
    for Model { alias, provider, served, price } in &MODELS {
        models.push_str(&format!(
            "[[model]]\nname = \"{alias}\"\nunpriced = \"refuse\"\n\
             targets = [{{ provider = \"{provider}\", model = \"{served}\" }}]\n"
        ));
        more.push_str(&price.table(provider, served));
    }
    more.push_str("[[account]]\nname = \"resale\"\nmarkup = \"1.25\"\n");
    let projects: BTreeSet<_> =
        KEYS.iter().map(|(_, project, account)| (project, account)).collect();
    for (project, account) in projects {
        more.push_str(&format!("[[project]]\nname = \"{project}\"\naccount = \"{account}\"\n"));
    }
    let mut keys = String::new();
    for (name, project, _) in KEYS {
        let secret = secret(name);
        keys.push_str(&format!(
            "[[key]]\nname = \"{name}\"\nproject = \"{project}\"\nsecret = \"{secret}\"\n"
        ));
    }
    Setup::to(sim.addr).store(store).workers(2).models(&models).keys(&keys).more(&more)
}

/// Asks `count` times, spread over callers, protocols, keys and models; gives the ids of the answers.
fn load(addr: SocketAddr, count: usize) -> BTreeSet<String> {
    let next = AtomicUsize::new(0);
    let ids = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (next, ids) = (&next, &ids);
            scope.spawn(move || {
                let mut line = Line::connect(addr, caller % 2 == 1);
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count {
                        return;
                    }
                    let (key, ..) = KEYS[number % KEYS.len()];
                    let model = &MODELS[number / KEYS.len() % MODELS.len()];
                    // `user` is the key's name: so the provider's books tell keys apart.
                    let body = ask(model.alias, key, number % 3 != 0, 1 + number % 37);
                    let seen = line.complete(&secret(key), &body).expect("a whole answer");
                    assert!(ids.lock().expect("no panic").insert(seen.id), "an id twice");
                }
            });
        }
    });
    ids.into_inner().expect("no panic")
}

/// What the provider says that it told, by key and model.
fn told(sim: &SimServer) -> BTreeMap<(&'static str, &'static str), Sum> {
    let mut sums: BTreeMap<_, Sum> = BTreeMap::new();
    for page in sim.books() {
        assert_eq!(page.begun, page.completed, "{page:?}");
        assert_eq!(page.completed.requests, page.completed.reported, "{page:?}");
        assert_eq!(page.cut.requests, 0, "{page:?}");
        let is_it =
            |model: &&Model| model.served == page.model && upstream_key(model.provider) == page.key;
        let model = MODELS.iter().find(is_it).expect("a model of ours");
        let (key, _, account) = KEYS.iter().find(|key| key.0 == page.user).expect("a key of ours");
        let told = page.completed;
        let tokens = Tokens {
            input: told.input,
            cached: told.cached,
            output: told.output,
            reasoning: told.reasoning,
        };
        let cost_pico = model.price.cost(tokens);
        let percent = if *account == "resale" { MARKUP_PERCENT } else { 100 };
        // Every price is a multiple of four, so that nothing is ever rounded.
        let charge_pico = cost_pico * percent / 100;
        let sum = Sum { requests: told.requests, tokens, cost_pico, charge_pico, ..Sum::default() };
        assert!(sums.insert((*key, model.alias), sum).is_none(), "a page twice");
    }
    sums
}

fn join(sums: &mut BTreeMap<Vec<String>, Sum>, names: &[&str], sum: &Sum) {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let to = sums.entry(names).or_default();
    to.requests += sum.requests;
    to.tokens.add(sum.tokens);
    to.cost_pico += sum.cost_pico;
    to.charge_pico += sum.charge_pico;
}

/// The books must be the provider's, however they are grouped.
#[track_caller]
fn compare(admin: SocketAddr, sim: &SimServer) {
    let told = told(sim);
    for groups in [&["key"][..], &["project"], &["model"], &["account"], &["key", "model"], &[]] {
        let mut expected = BTreeMap::new();
        for ((key, model), sum) in &told {
            let (_, project, account) = KEYS.iter().find(|k| k.0 == *key).expect("a key");
            let names: Vec<&str> = groups
                .iter()
                .map(|group| match *group {
                    "key" => *key,
                    "project" => project,
                    "account" => account,
                    _ => *model,
                })
                .collect();
            join(&mut expected, &names, sum);
        }
        assert_eq!(usage(admin, groups), expected, "by {groups:?}");
    }
}

#[test]
fn totals_are_the_providers_to_the_token_and_the_pico_unit() {
    let count = from_env("FORETOKEN_BOOKS", 2_000);
    let dir = tempfile::tempdir().expect("a directory");
    let sim = SimServer::with(|settings| {
        settings.tokens = Lengths::lognormal(10, 40);
        settings.keys = vec![UPSTREAM_KEY.to_owned(), SECOND_KEY.to_owned()];
        settings.log_requests = 0;
    });
    let setup = setup(&sim, &dir.path().join("books.db"));
    let gateway = setup.start();
    let ids = load(gateway.addr, count);
    assert_eq!(ids.len(), count);
    eventually("all is in the store", || total(gateway.admin).requests >= count as u64);
    compare(gateway.admin, &sim);
    gateway.finish();

    let gateway = setup.start();
    compare(gateway.admin, &sim);
    let mut listed = BTreeSet::new();
    let mut sums: BTreeMap<(String, String), Sum> = BTreeMap::new();
    for record in records(gateway.admin, "") {
        let text = |at: &str| record.pointer(at).and_then(|v| v.as_str()).expect("text").to_owned();
        assert_eq!(record["state"], "settled", "{record}");
        assert_eq!(text("/end_user"), text("/key/name"), "{record}");
        assert!(listed.insert(text("/id")), "listed twice: {record}");
        sums.entry((text("/key/name"), text("/model"))).or_default().add_record(&record);
    }
    assert_eq!(listed, ids);
    // The records one by one come to the same as the sums, which are kept apart.
    let told: BTreeMap<_, _> =
        told(&sim).into_iter().map(|((k, m), sum)| ((k.to_owned(), m.to_owned()), sum)).collect();
    assert_eq!(sums, told);
    gateway.finish();
}

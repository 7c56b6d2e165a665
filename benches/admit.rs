//! What admission costs a request: the goal is 150 ns for a permit taken and settled when no limit
//! is set.

use std::sync::Arc;

use divan::{Bencher, black_box};
use foretoken::admit::{
    AccountCell, Ask, Budget, Limits, Scope, ScopeKind, ScopeNames, Scopes, admit,
};
use foretoken::clock;

fn main() {
    divan::main();
}

const ASK: Ask = Ask { tokens: 4096, cost_pico: 1_000_000 };

fn scopes(cell: &AccountCell, key: &str) -> Scopes {
    cell.scopes(ScopeNames {
        project: "chat-backend".into(),
        user: Some("somebody".into()),
        key: key.into(),
        model: Some("gpt-4o-mini".into()),
    })
}

fn permits(bencher: Bencher, cell: Arc<AccountCell>) {
    let now = clock::instant();
    let scopes = scopes(&cell, "key-1");
    bencher.bench(|| {
        let permit = admit(&cell, black_box(&scopes), ASK, now).expect("room");
        permit.settle(Ask::default());
    });
}

/// More threads: all of one account, the worst case.
#[divan::bench(threads = [1, 2])]
fn no_limit(bencher: Bencher) {
    permits(bencher, Arc::default());
}

#[divan::bench]
fn limits_in_every_scope(bencher: Bencher) {
    let cell = Arc::new(AccountCell::default());
    let limits = Limits { parallel: Some(50), tokens: Some(1 << 50), cost_pico: Some(1 << 100) };
    for (kind, name) in [
        (ScopeKind::Account, ""),
        (ScopeKind::Project, "chat-backend"),
        (ScopeKind::User, "somebody"),
        (ScopeKind::Key, "key-1"),
    ] {
        for model in [None, Some("gpt-4o-mini".to_owned())] {
            cell.set_limits(Scope { kind, name: name.into(), model }, limits);
        }
    }
    permits(bencher, cell);
}

#[divan::bench(threads = [1, 2])]
fn budget_take_and_give_back(bencher: Bencher) {
    let budget = Budget::new(1 << 30);
    bencher.bench(|| drop(black_box(budget.try_take(2048).expect("room"))));
}

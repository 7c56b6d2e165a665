//! What admission costs a request: a permit taken and settled. The goals are 150 ns when no limit is
//! set and well under a microsecond with three limits on every scope, and no allocation in either.

use std::sync::Arc;

use divan::{AllocProfiler, Bencher, black_box};
use foretoken::admit::{
    AccountCell, Actual, Ask, Budget, BudgetLimit, LimitSet, Limits, Overrun, Period, ScopeKind,
    ScopeNames, Scopes, Share, admit,
};
use foretoken::clock;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const ASK: Ask =
    Ask { tokens: 4096, tokens_bound: 131_072, cost_pico: 1_000_000, cost_bound_pico: 50_000_000 };
const ACTUAL: Actual = Actual { tokens: 900, cost_pico: 300_000 };
const MODEL: &str = "gpt-4o-mini";

fn scopes(cell: &Arc<AccountCell>, key: &str) -> Scopes {
    let names = ScopeNames {
        project: "chat-backend".into(),
        user: Some("somebody".into()),
        key: key.into(),
        model: Some(MODEL.into()),
        asked: None,
    };
    cell.scopes(names, None)
}

fn permits(bencher: Bencher, cell: Arc<AccountCell>) {
    let scopes = scopes(&cell, "key-1");
    bencher.bench(|| {
        let now = black_box(clock::now());
        let permit = admit(&cell, black_box(&scopes), ASK, now).expect("room");
        permit.settle(ACTUAL, now);
    });
}

/// More threads: all of one account, the worst case.
#[divan::bench(threads = [1, 2])]
fn no_limit(bencher: Bencher) {
    permits(bencher, Arc::default());
}

fn limited(limits: Limits) -> Arc<AccountCell> {
    let cell = Arc::new(AccountCell::default());
    let models = [(MODEL.to_owned(), limits.clone())].into();
    let set = Arc::new(LimitSet { all: limits, models, revision: 1 });
    for (kind, name) in [
        (ScopeKind::Account, ""),
        (ScopeKind::Project, "chat-backend"),
        (ScopeKind::User, "somebody"),
        (ScopeKind::Key, "key-1"),
    ] {
        cell.set_limits(kind, name, Some(set.clone()), clock::now());
    }
    cell
}

/// Eight scopes: account, project, user and key, for all models and for one.
#[divan::bench(threads = [1, 2])]
fn three_limits_on_every_scope(bencher: Bencher) {
    let budget = BudgetLimit {
        amount_pico: 1 << 100,
        period: Period::Monthly,
        overrun: Overrun::Finish,
        soft: false,
    };
    let limits = Limits {
        rpm: Some(1 << 50),
        tpm: Some(1 << 60),
        budgets: vec![budget],
        ..Limits::default()
    };
    permits(bencher, limited(limits));
}

/// What a flood of refused requests costs.
#[divan::bench]
fn refused(bencher: Bencher) {
    let cell = limited(Limits { rpm: Some(0), tpm: Some(1 << 60), ..Limits::default() });
    let scopes = scopes(&cell, "key-1");
    bencher.bench(|| admit(&cell, black_box(&scopes), ASK, clock::now()).expect_err("no room"));
}

#[divan::bench(threads = [1, 2])]
fn budget_take_and_give_back(bencher: Bencher) {
    let (budget, share) = (Budget::new(1 << 30), Arc::<Share>::default());
    bencher.bench(|| drop(black_box(budget.try_take_for(&share, 2048).expect("room"))));
}

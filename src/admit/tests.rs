//! What callers and operators notice of limits. Queues, clocks and crowds, and random interleavings
//! have files of their own.

use std::sync::Arc;
use std::time::Duration;

use super::{
    AccountCell, Accounts, Actual, Ask, BudgetLimit, Extended, LimitKind, LimitSet, Limits,
    Overrun, Period, Permit, Refusal, Scope, ScopeKind, ScopeNames, Scopes, Spent, Terms, admit,
};
use crate::clock::{self, Now};

pub(super) const HOUR: u64 = 3_600_000;
pub(super) const DAY: u64 = 24 * HOUR;

/// A day in UTC, at midnight.
const MIDNIGHT: u64 = 20_516 * DAY;

/// An account and a clock that is set by hand.
pub(super) struct Bench {
    pub(super) cell: Arc<AccountCell>,
    pub(super) now: Now,
}

impl Bench {
    /// At noon.
    pub(super) fn new() -> Bench {
        let now = Now { instant: clock::instant(), unix_ms: MIDNIGHT + 12 * HOUR };
        Bench { cell: Arc::default(), now }
    }

    pub(super) fn limit(&self, kind: ScopeKind, name: &str, limits: Limits) {
        let set = LimitSet { all: limits, ..LimitSet::default() };
        self.cell.set_limits(kind, name, Some(Arc::new(set)), self.now);
    }

    pub(super) fn scopes(&self, key: &str) -> Scopes {
        self.cell.scopes(names(key), None)
    }

    pub(super) fn admit(&self, scopes: &Scopes, ask: Ask) -> Result<Permit, Refusal> {
        admit(&self.cell, scopes, ask, self.now)
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now = later(self.now, ms);
    }

    pub(super) fn spent(&self, kind: ScopeKind, name: &str) -> (u128, u128) {
        let budget = &self.cell.state(kind, name, self.now).all.budgets[0];
        (budget.spent_pico, budget.reserved_pico)
    }

    pub(super) fn spend(&self, scopes: &Scopes, cost_pico: u128) {
        let permit = self.admit(scopes, cost(cost_pico)).expect("room");
        permit.settle(Actual { tokens: 0, cost_pico }, self.now);
    }
}

fn later(now: Now, ms: u64) -> Now {
    Now { instant: now.instant + Duration::from_millis(ms), unix_ms: now.unix_ms + ms }
}

pub(super) fn names(key: &str) -> ScopeNames {
    let model = Some("m".into());
    ScopeNames { project: "p".into(), user: Some("u".into()), key: key.into(), model, asked: None }
}

pub(super) fn tokens(tokens: u64) -> Ask {
    Ask { tokens, tokens_bound: tokens, ..Ask::default() }
}

pub(super) fn cost(cost_pico: u128) -> Ask {
    Ask { cost_pico, cost_bound_pico: cost_pico, ..Ask::default() }
}

pub(super) fn used(tokens: u64) -> Actual {
    Actual { tokens, cost_pico: 0 }
}

pub(super) fn budget(amount_pico: u128, period: Period) -> BudgetLimit {
    BudgetLimit { amount_pico, period, overrun: Overrun::Strict, soft: false }
}

pub(super) fn budgets(budgets: &[BudgetLimit]) -> Limits {
    Limits { budgets: budgets.to_vec(), ..Limits::default() }
}

#[test]
fn a_refusal_names_the_limit_and_takes_nothing() {
    let bench = Bench::new();
    bench.limit(ScopeKind::Project, "p", Limits { tpm: Some(1000), ..Limits::default() });
    let limits = Limits { tpm: Some(100), ..Limits::default() };
    bench.limit(ScopeKind::User, "u", limits);
    let scopes = bench.scopes("k");
    let permit = bench.admit(&scopes, tokens(60)).expect("room");
    let before = bench.cell.state(ScopeKind::Project, "p", bench.now);
    let refusal = bench.admit(&scopes, tokens(41)).expect_err("no room");
    assert_eq!(refusal.scope, Scope::all(ScopeKind::User, "u"));
    assert_eq!((refusal.limit, refusal.amount, refusal.used), (LimitKind::Tokens, 100, 60));
    assert_eq!(refusal.rates.tokens.map(|rate| (rate.limit, rate.remaining)), Some((100, 40)));
    let after = bench.cell.state(ScopeKind::Project, "p", bench.now);
    assert_eq!(after, before, "also the scopes before the refusing one are as before");
    drop(bench.admit(&scopes, tokens(40)).expect("equality admits"));
    permit.settle(used(100), bench.now);
    bench.admit(&scopes, tokens(1)).expect_err("used counts as well as reserved");
    let _free = bench.admit(&scopes, tokens(0)).expect("asks for nothing of what is exhausted");
}

#[test]
fn of_several_limits_the_one_that_takes_longest_decides() {
    let mut bench = Bench::new();
    bench.limit(
        ScopeKind::Account,
        "",
        Limits { parallel: Some(1), rpm: Some(1), ..budgets(&[budget(5, Period::Daily)]) },
    );
    let scopes = bench.scopes("k");
    let _permit = bench.admit(&scopes, cost(5)).expect("room");
    let refusal = bench.admit(&scopes, cost(0)).expect_err("no room");
    assert_eq!(refusal.limit, LimitKind::Requests, "a minute is longer than the guess of a second");
    let refusal = bench.admit(&scopes, cost(1)).expect_err("no room");
    assert_eq!(refusal.limit, LimitKind::Budget(Period::Daily));
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(12 * HOUR)));
    let refusal = bench.admit(&scopes, cost(6)).expect_err("no room");
    assert_eq!(refusal.retry_after, None, "it costs more than the whole budget");
    bench.pass(61_000);
    let refusal = bench.admit(&scopes, cost(0)).expect_err("no room");
    assert_eq!(refusal.limit, LimitKind::Parallel);
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
}

#[test]
fn retry_after_is_the_true_time() {
    let minute = Limits { rpm: Some(3), ..Limits::default() };
    let tpm = Limits { tpm: Some(3), ..Limits::default() };
    let tpd = Limits { tpd: Some(3), ..Limits::default() };
    for (limits, ask) in [
        (minute, Ask::default()),
        (tpm, tokens(1)),
        (tpd, tokens(1)),
        (budgets(&[budget(3, Period::Daily)]), cost(1)),
        (budgets(&[budget(3, Period::Weekly), budget(99, Period::Monthly)]), cost(1)),
    ] {
        let mut bench = Bench::new();
        bench.limit(ScopeKind::User, "u", limits.clone());
        let scopes = bench.scopes("k");
        let actual = Actual { tokens: ask.tokens, cost_pico: ask.cost_pico };
        for _ in 0..3 {
            bench.pass(1_234);
            bench.admit(&scopes, ask).expect("room").settle(actual, bench.now);
        }
        bench.pass(7_321);
        let refusal = bench.admit(&scopes, ask).expect_err("full");
        let wait_ms = refusal.retry_after.expect("it passes").as_millis() as u64;
        assert!(wait_ms > 0);
        bench.pass(wait_ms - 1);
        bench.admit(&scopes, ask).expect_err(&format!("1 ms early: {limits:?}"));
        bench.pass(1);
        drop(bench.admit(&scopes, ask).expect("it fits at that time"));
    }
}

#[test]
fn a_minute_has_no_double_burst_at_its_edges() {
    let bench = Bench::new();
    bench.limit(ScopeKind::Account, "", Limits { rpm: Some(10), ..Limits::default() });
    let scopes = bench.scopes("k");
    let mut admitted = Vec::new();
    // A burst just before each full minute and just after it, and a steady stream.
    for ms in (0..300_000).step_by(250) {
        let bursts = if ms % 60_000 < 500 || ms % 60_000 >= 59_500 { 20 } else { 1 };
        let now = later(bench.now, ms);
        for _ in 0..bursts {
            if let Ok(permit) = admit(&bench.cell, &scopes, Ask::default(), now) {
                admitted.push(ms);
                drop(permit);
            }
        }
    }
    for &end in &admitted {
        let within = admitted.iter().filter(|&&at| at <= end && end - at < 60_000).count();
        assert!(within <= 10, "{within} requests in the minute before {end}");
    }
    assert!(admitted.len() >= 40, "the limit can be used: {}", admitted.len());
}

#[test]
fn a_stream_that_grows_is_held_by_the_limits_mode() {
    for (overrun, want) in [(Overrun::Finish, "Overrun"), (Overrun::Cut, "Cut")] {
        let mut bench = Bench::new();
        let limits = Limits { tpm: Some(10), overrun, ..Limits::default() };
        bench.limit(ScopeKind::Account, "", limits);
        let scopes = bench.scopes("k");
        let ask = Ask { tokens: 6, tokens_bound: 100, ..Ask::default() };
        let mut permit = bench.admit(&scopes, ask).expect("only what is expected counts");
        let more = Ask { tokens: 4, ..Ask::default() };
        assert!(matches!(permit.extend(more, bench.now), Extended::Granted));
        bench.pass(2_000);
        let extended = permit.extend(more, bench.now);
        assert!(format!("{extended:?}").starts_with(want), "{overrun}: {extended:?}");
        let taken = if overrun == Overrun::Finish { 14 } else { 10 };
        assert_eq!(permit.held().tokens, taken);
        let tpm = bench.cell.state(ScopeKind::Account, "", bench.now).all.tpm;
        assert_eq!(tpm.map(|it| it.used), Some(taken));
        let alerts = permit.settle(used(15), bench.now);
        assert!(alerts.overran, "what goes beyond the reservation is told");
        let tpm = bench.cell.state(ScopeKind::Account, "", bench.now).all.tpm;
        assert_eq!(tpm.map(|it| it.used), Some(15), "and booked");
    }
    let bench = Bench::new();
    let limits = Limits { tpm: Some(50), overrun: Overrun::Strict, ..Limits::default() };
    bench.limit(ScopeKind::Account, "", limits);
    let scopes = bench.scopes("k");
    let ask = Ask { tokens: 6, tokens_bound: 51, ..Ask::default() };
    let refusal = bench.admit(&scopes, ask).expect_err("the bound counts");
    assert_eq!((refusal.asked, refusal.retry_after), (51, None));
    let ask = Ask { tokens: 6, tokens_bound: 50, ..Ask::default() };
    let mut permit = bench.admit(&scopes, ask).expect("room");
    let more = Ask { tokens: 40, ..Ask::default() };
    assert!(matches!(permit.extend(more, bench.now), Extended::Granted), "all is reserved already");
    assert!(!permit.settle(used(50), bench.now).overran);
}

#[test]
fn a_cut_takes_nothing_from_any_scope() {
    let bench = Bench::new();
    let finish = Limits { tpm: Some(5), overrun: Overrun::Finish, ..Limits::default() };
    let cut = Limits { tpm: Some(8), overrun: Overrun::Cut, ..Limits::default() };
    bench.limit(ScopeKind::Account, "", finish);
    bench.limit(ScopeKind::User, "u", cut);
    let mut permit = bench.admit(&bench.scopes("k"), tokens(5)).expect("room");
    let Extended::Cut(refusal) = permit.extend(tokens(4), bench.now) else { panic!("not cut") };
    assert_eq!(refusal.scope, Scope::all(ScopeKind::User, "u"), "not the one that would finish");
    assert_eq!(permit.held().tokens, 5);
    let tpm = bench.cell.state(ScopeKind::Account, "", bench.now).all.tpm;
    assert_eq!(tpm.map(|it| it.used), Some(5));
    assert!(matches!(permit.extend(tokens(3), bench.now), Extended::Overrun));
}

#[test]
fn tokens_count_when_they_were_reserved_and_are_corrected_there() {
    let mut bench = Bench::new();
    bench.limit(ScopeKind::Account, "", Limits { tpm: Some(100), ..Limits::default() });
    let scopes = bench.scopes("k");
    let count = |bench: &Bench| {
        bench.cell.state(ScopeKind::Account, "", bench.now).all.tpm.map(|it| it.used)
    };
    let mut permit = bench.admit(&scopes, tokens(40)).expect("room");
    bench.pass(30_000);
    assert!(matches!(permit.extend(tokens(40), bench.now), Extended::Granted));
    bench.pass(1_000);
    permit.settle(used(50), bench.now);
    assert_eq!(count(&bench), Some(50), "the last extension is taken back first");
    bench.pass(30_000);
    assert_eq!(count(&bench), Some(10), "the admission's tokens have left after 61 s");
    bench.pass(30_000);
    assert_eq!(count(&bench), Some(0));
}

#[test]
fn a_stream_of_any_length_is_settled_exactly() {
    let mut bench = Bench::new();
    let limits = Limits { tpm: Some(1 << 40), tpd: Some(1 << 40), ..Limits::default() };
    bench.limit(ScopeKind::Account, "", limits);
    let scopes = bench.scopes("k");
    let other = bench.admit(&scopes, tokens(7)).expect("room");
    other.settle(used(7), bench.now);
    let mut permit = bench.admit(&scopes, tokens(10)).expect("room");
    for _ in 0..2_000 {
        bench.pass(61_000);
        assert!(matches!(permit.extend(tokens(3), bench.now), Extended::Granted));
    }
    permit.settle(used(20), bench.now);
    let all = bench.cell.state(ScopeKind::Account, "", bench.now).all;
    assert_eq!(all.tpm.map(|it| it.used), Some(0), "extensions are taken back, the rest is old");
    let tpd = all.tpd.map(|it| it.used).expect("a limit");
    assert!(tpd <= 20, "never more than it used: {tpd}");
    bench.pass(25 * HOUR);
    let all = bench.cell.state(ScopeKind::Account, "", bench.now).all;
    assert_eq!(all.tpd.map(|it| it.used), Some(0));
}

#[test]
fn a_limit_that_comes_in_the_middle_of_a_stream_counts_what_comes_after_it() {
    let mut bench = Bench::new();
    bench.limit(ScopeKind::Account, "", Limits { parallel: Some(9), ..Limits::default() });
    let scopes = bench.scopes("k");
    let mut permit = bench.admit(&scopes, tokens(10)).expect("room");
    let mut extend = |bench: &mut Bench, step_ms: u64, times: usize| {
        for _ in 0..times {
            bench.pass(step_ms);
            assert!(matches!(permit.extend(tokens(1), bench.now), Extended::Granted));
        }
    };
    extend(&mut bench, 1_000, 3);
    bench.limit(ScopeKind::Account, "", Limits { tpd: Some(1000), ..Limits::default() });
    let count = |bench: &Bench| {
        bench.cell.state(ScopeKind::Account, "", bench.now).all.tpd.map(|it| it.used)
    };
    // One still in the second of the one before it.
    extend(&mut bench, 0, 1);
    extend(&mut bench, 1_000, 6);
    assert_eq!(count(&bench), Some(7));
    let other = bench.admit(&scopes, tokens(100)).expect("room");
    extend(&mut bench, 1_000, 100);
    let counted = count(&bench).expect("a limit");
    assert!((207..=210).contains(&counted), "no extension is lost: {counted}");
    permit.settle(used(10), bench.now);
    assert_eq!(count(&bench), Some(100), "what is taken back is its own");
    drop(other);
}

#[test]
fn a_dropped_request_gives_back_all_but_itself() {
    let bench = Bench::new();
    let limits = Limits { rpm: Some(2), tpm: Some(10), parallel: Some(1), ..Limits::default() };
    let limits = Limits { budgets: vec![budget(10, Period::Total)], ..limits };
    bench.limit(ScopeKind::Account, "", limits);
    let scopes = bench.scopes("k");
    let ask = Ask { cost_pico: 10, cost_bound_pico: 10, ..tokens(10) };
    drop(bench.admit(&scopes, ask).expect("room"));
    let permit = bench.admit(&scopes, ask).expect("all is back");
    assert_eq!(permit.rates().requests.map(|rate| rate.remaining), Some(0));
    drop(permit);
    let refusal = bench.admit(&scopes, ask).expect_err("two of this minute were admitted");
    assert_eq!(refusal.limit, LimitKind::Requests);
}

#[test]
fn rates_are_those_of_the_tightest_scope() {
    let mut bench = Bench::new();
    let scopes = bench.scopes("k");
    let permit = bench.admit(&scopes, tokens(1)).expect("no limit");
    assert_eq!(permit.rates(), super::Rates::default(), "no limit, no header");
    let of_day = Limits { tpd: Some(50), rpm: Some(100), ..Limits::default() };
    bench.limit(ScopeKind::Account, "", of_day);
    let permit = bench.admit(&scopes, tokens(10)).expect("room").rates();
    assert_eq!(permit.tokens.map(|rate| (rate.limit, rate.remaining)), Some((50, 40)));
    bench.limit(
        ScopeKind::Project,
        "p",
        Limits { tpm: Some(90), rpm: Some(5), ..Limits::default() },
    );
    bench.pass(10_000);
    let rates = bench.admit(&scopes, tokens(10)).expect("room").rates();
    let requests = rates.requests.expect("limited");
    assert_eq!((requests.limit, requests.remaining), (5, 4));
    assert_eq!(requests.reset_ms, 61_000, "then all of it is there again");
    assert_eq!(rates.tokens.map(|rate| (rate.limit, rate.remaining)), Some((90, 80)));
}

#[test]
fn a_spent_budget_refuses_what_could_cost_and_nothing_else() {
    let bench = Bench::new();
    let finish = BudgetLimit { overrun: Overrun::Finish, ..budget(10, Period::Total) };
    bench.limit(ScopeKind::Account, "", budgets(&[finish]));
    let scopes = bench.scopes("k");
    bench.spend(&scopes, 10);
    let vague = Ask { cost_bound_pico: 1, ..Ask::default() };
    let refusal = bench.admit(&scopes, vague).expect_err("it could cost");
    assert_eq!((refusal.limit, refusal.retry_after), (LimitKind::Budget(Period::Total), None));
    let _free = bench.admit(&scopes, Ask::default()).expect("it cannot cost anything");
}

#[test]
fn a_balance_is_a_budget_for_ever_on_the_account() {
    let mut bench = Bench::new();
    let terms = |pico| Terms { balance_pico: Some(pico), ..Terms::default() };
    bench.cell.set_terms(terms(10));
    let scopes = bench.scopes("k");
    bench.spend(&scopes, 7);
    bench.pass(400 * DAY);
    let refusal = bench.admit(&scopes, cost(4)).expect_err("3 are left");
    assert_eq!((refusal.limit, refusal.used), (LimitKind::Balance, 7));
    bench.cell.set_terms(terms(11));
    drop(bench.admit(&scopes, cost(4)).expect("a top-up adds to what is left"));
    bench.cell.set_terms(terms(-5));
    bench.admit(&scopes, cost(1)).expect_err("less than nothing is nothing");
    let state = bench.cell.state(ScopeKind::Account, "", bench.now).all;
    let balance = state.balance.expect("shown");
    assert_eq!((balance.spent_pico, balance.remaining_pico, state.budgets.len()), (7, 0, 0));
}

#[test]
fn a_soft_budget_admits_and_alerts_once_in_a_period() {
    let mut bench = Bench::new();
    let soft = BudgetLimit { soft: true, ..budget(10, Period::Daily) };
    bench.limit(ScopeKind::User, "u", budgets(&[soft, budget(1000, Period::Daily)]));
    let scopes = bench.scopes("k");
    let spend = |bench: &Bench, cost_pico| {
        let permit = bench.admit(&scopes, cost(cost_pico)).expect("soft budgets refuse nothing");
        permit.settle(Actual { tokens: 0, cost_pico }, bench.now).passed
    };
    assert_eq!(spend(&bench, 10), [], "reached is not passed");
    let passed = spend(&bench, 5);
    assert_eq!(passed.len(), 1);
    assert_eq!(passed[0].scope, Scope::all(ScopeKind::User, "u"));
    assert_eq!((passed[0].budget, passed[0].spent_pico), (soft, 15));
    assert_eq!(spend(&bench, 5), [], "once");
    bench.pass(DAY);
    assert_eq!(spend(&bench, 11).len(), 1, "a new day");
    let raised = BudgetLimit { amount_pico: 20, ..soft };
    bench.limit(ScopeKind::User, "u", budgets(&[raised, budget(1000, Period::Daily)]));
    assert_eq!(spend(&bench, 9), []);
    assert_eq!(spend(&bench, 1).len(), 1, "the new amount is passed, too");
}

#[test]
fn an_edit_keeps_what_is_spent_and_the_window() {
    let mut bench = Bench::new();
    bench.limit(
        ScopeKind::User,
        "u",
        budgets(&[budget(10, Period::Daily), budget(5, Period::Daily)]),
    );
    let scopes = bench.scopes("k");
    bench.spend(&scopes, 4);
    let running = bench.admit(&scopes, cost(1)).expect("room");
    bench.limit(
        ScopeKind::User,
        "u",
        budgets(&[budget(50, Period::Weekly), budget(7, Period::Daily), budget(3, Period::Daily)]),
    );
    let state = bench.cell.state(ScopeKind::User, "u", bench.now).all;
    let shown = |at: usize| {
        let budget = &state.budgets[at];
        (budget.amount_pico, budget.spent_pico, budget.reserved_pico, budget.remaining_pico)
    };
    assert_eq!(shown(0), (50, 0, 1, 49), "new; what runs will be charged to it");
    assert_eq!((shown(1), shown(2)), ((7, 4, 1, 2), (3, 4, 1, 0)));
    assert_eq!(state.budgets[1].resets_at_unix_ms, Some(MIDNIGHT + DAY));
    bench.admit(&scopes, cost(1)).expect_err("below what is spent");
    running.settle(Actual { tokens: 0, cost_pico: 1 }, bench.now);
    let state = bench.cell.state(ScopeKind::User, "u", bench.now).all;
    let sums: Vec<_> = state.budgets.iter().map(|it| (it.spent_pico, it.reserved_pico)).collect();
    assert_eq!(sums, [(1, 0), (5, 0), (5, 0)]);
    bench.pass(DAY);
    drop(bench.admit(&scopes, cost(3)).expect("a new day"));
}

#[test]
fn a_changed_mode_finds_its_own_sums() {
    let bench = Bench::new();
    let mode = |overrun| Limits { tpm: Some(100), overrun, ..Limits::default() };
    bench.limit(ScopeKind::User, "u", mode(Overrun::Finish));
    let scopes = bench.scopes("k");
    let ask = Ask { tokens: 10, tokens_bound: 90, ..Ask::default() };
    let permits = [(); 2].map(|()| bench.admit(&scopes, ask).expect("room"));
    bench.limit(ScopeKind::User, "u", mode(Overrun::Strict));
    let refusal = bench.admit(&scopes, tokens(1)).expect_err("the bounds count now");
    assert_eq!(refusal.used, 180);
    permits.into_iter().for_each(|permit| drop(permit.settle(used(15), bench.now)));
    for overrun in [Overrun::Strict, Overrun::Cut] {
        bench.limit(ScopeKind::User, "u", mode(overrun));
        let tpm = bench.cell.state(ScopeKind::User, "u", bench.now).all.tpm;
        assert_eq!(tpm.map(|it| it.used), Some(30), "settled is the same in both");
    }
}

#[test]
fn limits_that_come_later_do_not_touch_what_others_have() {
    let bench = Bench::new();
    bench.limit(ScopeKind::Account, "", Limits { parallel: Some(9), ..Limits::default() });
    let scopes = bench.scopes("k");
    let before = bench.admit(&scopes, tokens(50)).expect("room");
    bench.limit(ScopeKind::Account, "", Limits { tpm: Some(60), ..Limits::default() });
    let after = bench.admit(&scopes, tokens(60)).expect("a limit counts from now on");
    drop(before);
    let tpm = bench.cell.state(ScopeKind::Account, "", bench.now).all.tpm;
    assert_eq!(tpm.map(|it| it.used), Some(60), "what was before it gives nothing back");
    drop(after);
}

#[test]
fn limits_of_one_model_hold_besides_those_for_all() {
    let bench = Bench::new();
    let scopes = bench.scopes("k");
    let mut set =
        LimitSet { all: Limits { rpm: Some(3), ..Limits::default() }, ..LimitSet::default() };
    set.models.insert("m".into(), Limits { rpm: Some(1), ..Limits::default() });
    bench.cell.set_limits(ScopeKind::Project, "p", Some(Arc::new(set)), bench.now);
    assert!(scopes.is_stale(&bench.cell));
    let other = ScopeNames { model: Some("n".into()), ..names("k") };
    let other = bench.cell.scopes(other, None);
    drop(bench.admit(&scopes, Ask::default()).expect("limits hold for scopes found before"));
    let refusal = bench.admit(&scopes, Ask::default()).expect_err("one of this model");
    assert_eq!(refusal.scope.model.as_deref(), Some("m"));
    drop(bench.admit(&other, Ask::default()).expect("another model"));
    drop(bench.admit(&other, Ask::default()).expect("another model"));
    let refusal = bench.admit(&other, Ask::default()).expect_err("three in all");
    assert_eq!(refusal.scope.model, None);
    let state = bench.cell.state(ScopeKind::Project, "p", bench.now);
    assert_eq!(state.all.rpm.map(|it| it.used), Some(3));
    assert_eq!(state.models[0].1.rpm.map(|it| it.used), Some(1));
}

fn key_limits(revision: u64, rpm: Option<u64>) -> Arc<LimitSet> {
    Arc::new(LimitSet { all: Limits { rpm, ..Limits::default() }, revision, ..LimitSet::default() })
}

#[test]
fn a_keys_limits_come_with_its_grant_and_newer_ones_replace_them() {
    let bench = Bench::new();
    let limits = |revision, rpm| key_limits(revision, Some(rpm));
    let limit = |scopes: &Scopes| {
        let permit = bench.admit(scopes, Ask::default()).ok()?;
        permit.rates().requests.map(|rate| rate.limit)
    };
    let first = bench.cell.scopes(names("k"), Some(&limits(1, 5)));
    assert_eq!(limit(&first), Some(5));
    let second = bench.cell.scopes(names("k"), Some(&limits(2, 9)));
    assert_eq!((limit(&first), limit(&second)), (Some(9), Some(9)));
    let old = bench.cell.scopes(names("k"), Some(&limits(1, 5)));
    assert_eq!(limit(&old), Some(9), "a worker with an old grant changes nothing");
    let none = bench.cell.scopes(names("k"), None);
    assert_eq!(limit(&none), Some(9));

    let other = bench.cell.scopes(names("other"), Some(&limits(1, 1)));
    assert!(!second.is_stale(&bench.cell), "a key's first request upsets no other key");
    assert!(limit(&other).is_some() && limit(&other).is_none(), "each key has its own");

    bench.cell.set_limits(ScopeKind::Key, "k", None, bench.now);
    assert_eq!(limit(&second), None, "taken away");
    let late = bench.cell.scopes(names("k"), Some(&limits(2, 9)));
    assert_eq!(limit(&late), None, "an old grant does not bring them back");
    bench.cell.set_limits(ScopeKind::Key, "k", Some(limits(4, 3)), bench.now);
    assert_eq!(limit(&late), Some(3));
    assert_eq!(limit(&bench.cell.scopes(names("k"), Some(&limits(5, 2)))), Some(2));
}

#[test]
fn a_sweep_drops_what_is_idle_and_only_that() {
    let mut bench = Bench::new();
    let accounts = Accounts::default();
    bench.cell = accounts.cell(&"a".into());
    let slots = |bench: &Bench| {
        let books = bench.cell.books();
        assert_eq!(books.slots.len(), books.index.len() + books.free.len());
        books.index.len()
    };
    let rpm = key_limits(1, Some(1));
    let total =
        LimitSet { all: budgets(&[budget(5, Period::Total)]), revision: 1, ..LimitSet::default() };
    let scopes = bench.cell.scopes(names("brief"), Some(&rpm));
    let running = bench.cell.scopes(names("running"), Some(&rpm));
    let spender = bench.cell.scopes(names("spender"), Some(&Arc::new(total)));
    drop(bench.admit(&scopes, Ask::default()).expect("room"));
    let permit = bench.admit(&running, Ask::default()).expect("room");
    bench.spend(&spender, 4);
    accounts.sweep(bench.now);
    assert_eq!(slots(&bench), 4, "all are in use");
    bench.pass(61_000);
    accounts.sweep(bench.now);
    assert_eq!(slots(&bench), 3, "a minute later one is not");
    bench.pass(400 * DAY);
    accounts.sweep(bench.now);
    assert_eq!(slots(&bench), 3, "one runs, one has spent of a budget that never ends");
    drop(permit);
    accounts.sweep(bench.now);
    assert_eq!(slots(&bench), 2);

    drop(bench.admit(&scopes, Ask::default()).expect("room"));
    bench.admit(&scopes, Ask::default()).expect_err("the limit holds for scopes found before");
    assert_eq!(slots(&bench), 3, "made anew in a place that was free");
    assert_eq!(bench.cell.books().slots.len(), 4);
    bench.admit(&spender, cost(2)).expect_err("one is left");
}

#[test]
fn history_counts_where_it_still_belongs() {
    let mut bench = Bench::new();
    let limits = Limits { rpm: Some(10), tpm: Some(100), tpd: Some(1000), ..Limits::default() };
    let limits =
        Limits { budgets: vec![budget(100, Period::Daily), budget(100, Period::Total)], ..limits };
    bench.limit(ScopeKind::Key, "k", limits);
    let now = bench.now.unix_ms;
    let spent =
        |at_unix_ms, requests, tokens, cost_pico| Spent { at_unix_ms, requests, tokens, cost_pico };
    let history = [
        spent(now - 30 * HOUR, 1, 500, 20),
        spent(MIDNIGHT, 1, 300, 10),
        spent(now - 2_000, 4, 60, 5),
        spent(now + HOUR, 1, 1, 7),
    ];
    for _ in 0..2 {
        bench.cell.restore(ScopeKind::Key, "k", None, &history, bench.now);
        let all = bench.cell.state(ScopeKind::Key, "k", bench.now).all;
        let used = [all.rpm, all.tpm, all.tpd].map(|it| it.map(|it| it.used));
        assert_eq!(used, [Some(5), Some(61), Some(361)], "the same, however often it is told");
        let spent: Vec<_> = all.budgets.iter().map(|it| it.spent_pico).collect();
        assert_eq!(spent, [12, 42], "midnight is the end of the day before");
    }
    let scopes = bench.scopes("k");
    bench.admit(&scopes, tokens(40)).expect_err("39 are left");
    bench.pass(59_000);
    drop(bench.admit(&scopes, tokens(99)).expect("the minute is over"));
    bench.cell.restore(ScopeKind::Project, "p", None, &history, bench.now);
    assert_eq!(bench.cell.state(ScopeKind::Project, "p", bench.now).all.budgets, []);
}

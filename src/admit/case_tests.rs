//! Limits among clocks that jump, days of other zones, many threads, and panics.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::tests::{Bench, DAY, HOUR, budget, budgets, cost, names, tokens, used};
use super::{
    AccountCell, Accounts, Actual, Ask, Extended, LimitKind, LimitSet, Limits, Overrun, Period,
    ScopeKind, Terms, admit,
};
use crate::clock::Now;

#[test]
fn a_new_day_begins_at_midnight_of_the_account_and_old_requests_stay_in_theirs() {
    let mut bench = Bench::new();
    let time_zone = TimeZone::get("Europe/Berlin").expect("a zone");
    bench.cell.set_terms(Terms { time_zone, ..Terms::default() });
    bench.limit(ScopeKind::User, "u", budgets(&[budget(10, Period::Daily)]));
    let scopes = bench.scopes("k");
    bench.spend(&scopes, 3);
    let mut over = bench.admit(&scopes, cost(7)).expect("room");
    // 23:00 in UTC, 0:00 there.
    bench.pass(11 * HOUR - 1);
    bench.admit(&scopes, cost(1)).expect_err("still today");
    bench.pass(1);
    let fresh = bench.admit(&scopes, cost(10)).expect("a new day");
    assert!(matches!(over.extend(cost(5), bench.now), Extended::Granted), "of yesterday's");
    over.settle(Actual { tokens: 0, cost_pico: 9 }, bench.now);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (0, 10));
    fresh.settle(Actual { tokens: 0, cost_pico: 10 }, bench.now);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (10, 0));

    bench.cell.set_terms(Terms::default());
    assert_eq!(bench.spent(ScopeKind::User, "u"), (10, 0), "another zone frees nothing");
    bench.pass(HOUR);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (0, 0), "then its midnight counts");
}

#[test]
fn case_37_a_clock_that_jumps_doubles_no_window_and_loses_none() {
    let jump = |now: Now, hours: i64| Now {
        unix_ms: now.unix_ms.checked_add_signed(hours * HOUR as i64).expect("a time"),
        ..now
    };
    let mut bench = Bench::new();
    let limits = Limits { rpm: Some(4), ..budgets(&[budget(100, Period::Daily)]) };
    bench.limit(ScopeKind::User, "u", limits);
    let scopes = bench.scopes("k");
    bench.pass(11 * HOUR + HOUR / 2);
    bench.spend(&scopes, 40);

    bench.now = jump(bench.now, 1);
    bench.spend(&scopes, 30);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (30, 0), "by its clock it is tomorrow");
    bench.now = jump(bench.now, -1);
    bench.spend(&scopes, 5);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (35, 0), "yesterday does not come back");
    bench.spend(&scopes, 5);
    let refusal = bench.admit(&scopes, cost(1)).expect_err("a fifth in this minute");
    assert_eq!(refusal.limit, LimitKind::Requests, "minutes do not follow the wall clock");
    bench.pass(HOUR);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (40, 0), "no second beginning at midnight");
    bench.now = jump(bench.now, -1);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (40, 0), "and none when it is set back");
    bench.now = jump(bench.now, 1);
    bench.pass(DAY);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (0, 0), "the next day begins as ever");

    bench.spend(&scopes, 9);
    let true_time = bench.now;
    bench.now = jump(bench.now, 24 * 365 * 70);
    bench.spend(&scopes, 1);
    bench.now = true_time;
    assert_eq!(bench.spent(ScopeKind::User, "u"), (1, 0));
    bench.pass(DAY);
    assert_eq!(bench.spent(ScopeKind::User, "u"), (0, 0), "not stuck in a year to come");
}

#[test]
fn accounts_share_nothing() {
    let bench = Bench::new();
    let accounts = Accounts::default();
    let (a, b) = (accounts.cell(&"a".into()), accounts.cell(&"b".into()));
    assert!(Arc::ptr_eq(&a, &accounts.cell(&"a".into())));
    let closed =
        LimitSet { all: Limits { parallel: Some(0), ..Limits::default() }, ..LimitSet::default() };
    a.set_limits(ScopeKind::Account, "", Some(Arc::new(closed)), bench.now);
    let (in_a, in_b) = (a.scopes(names("k"), None), b.scopes(names("k"), None));
    let refusal = admit(&a, &in_a, Ask::default(), bench.now).expect_err("closed");
    assert_eq!(refusal.retry_after, None, "no time helps against a limit of none");
    let _permit = admit(&b, &in_b, Ask::default(), bench.now).expect("open");
    let running = |cell: &AccountCell| cell.state(ScopeKind::Account, "", bench.now).all.running;
    let shown: Vec<_> =
        accounts.each().iter().map(|(id, cell)| (id.to_string(), running(cell))).collect();
    assert_eq!(shown, [("a".to_owned(), 0), ("b".to_owned(), 1)]);
}

#[test]
fn a_panic_behind_the_lock_does_not_close_the_account() {
    let bench = Bench::new();
    bench.limit(ScopeKind::Account, "", Limits { parallel: Some(1), ..Limits::default() });
    let scopes = bench.scopes("k");
    let permit = bench.admit(&scopes, Ask::default()).expect("room");
    std::thread::scope(|threads| {
        let broken = threads.spawn(|| bench.cell.change(None, |_| panic!("on purpose")));
        broken.join().expect_err("it panicked");
    });
    bench.admit(&scopes, Ask::default()).expect_err("one runs");
    drop(permit);
    drop(bench.admit(&scopes, Ask::default()).expect("room"));
}

/// All over several threads, half of them with places found before the limits were set.
fn admitted_of_ten_thousand(limits: Limits, ask: Ask, actual: Actual) -> usize {
    let bench = Bench::new();
    let found_before = bench.scopes("k0");
    bench.limit(ScopeKind::Project, "p", limits);
    std::thread::scope(|threads| {
        let asking: Vec<_> = (0..8)
            .map(|thread| {
                let (bench, found_before) = (&bench, &found_before);
                threads.spawn(move || {
                    let own = bench.scopes(&format!("k{thread}"));
                    let scopes = if thread % 2 == 0 { found_before } else { &own };
                    let permits: Vec<_> =
                        (0..1250).filter_map(|_| bench.admit(scopes, ask).ok()).collect();
                    let count = permits.len();
                    for permit in permits {
                        permit.settle(actual, bench.now);
                    }
                    count
                })
            })
            .collect();
        asking.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    })
}

#[test]
fn case_33_ten_thousand_callers_on_a_budget_with_room_for_137() {
    let room = budgets(&[budget(137 * 1000 + 999, Period::Daily), budget(1 << 60, Period::Total)]);
    let ask = Ask { cost_pico: 1, cost_bound_pico: 1000, ..Ask::default() };
    let actual = Actual { tokens: 0, cost_pico: 1000 };
    assert_eq!(admitted_of_ten_thousand(room, ask, actual), 137);
    let rpm = Limits { rpm: Some(137), ..Limits::default() };
    assert_eq!(admitted_of_ten_thousand(rpm, ask, Actual::default()), 137);
    let tpm = Limits { tpm: Some(137), overrun: Overrun::Strict, ..Limits::default() };
    assert_eq!(admitted_of_ten_thousand(tpm, tokens(1), used(1)), 137);
}

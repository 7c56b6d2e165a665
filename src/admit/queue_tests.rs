//! Who waits, who is served first, and that nobody is forgotten or woken in vain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::tests::{Bench, budgets, cost, names, tokens};
use super::{
    Actual, Ask, BudgetLimit, LimitKind, LimitSet, Limits, Overrun, Period, Permit, QueueSettings,
    Refusal, ScopeKind, Scopes, Terms, Waiting,
};

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Waiter {
    waiting: Waiting,
    bell: Arc<Bell>,
}

impl Waiter {
    fn poll(&mut self, bench: &Bench) -> Poll<Result<Permit, Refusal>> {
        let waker = Waker::from(self.bell.clone());
        self.waiting.poll(&mut Context::from_waker(&waker), bench.now)
    }

    fn rung(&self) -> usize {
        self.bell.0.load(Ordering::Relaxed)
    }

    fn served(&mut self, bench: &Bench) -> Permit {
        assert_eq!(self.rung(), 1, "woken, and once");
        match self.poll(bench) {
            Poll::Ready(Ok(permit)) => permit,
            other => panic!("not served: {other:?}"),
        }
    }
}

const WAIT_MS: u64 = 2_000;

fn bench(limits: Limits, depth: usize) -> Bench {
    let bench = Bench::new();
    let queue = Some(QueueSettings { wait: Duration::from_millis(WAIT_MS), depth });
    bench.cell.set_terms(Terms { queue, ..Terms::default() });
    bench.limit(ScopeKind::Account, "", limits);
    bench
}

fn parallel(most: u64) -> Limits {
    Limits { parallel: Some(most), ..Limits::default() }
}

fn settings(bench: &Bench) -> QueueSettings {
    bench.cell.terms().queue.expect("the account has a queue")
}

/// Asks, is refused, and gets in line.
fn enter(bench: &Bench, scopes: &Scopes, ask: Ask) -> Result<Waiter, Refusal> {
    let refusal = bench.admit(scopes, ask).expect_err("no room");
    let waiting = bench.cell.wait(scopes, ask, refusal, settings(bench), bench.now)?;
    let mut waiter = Waiter { waiting, bell: Arc::default() };
    assert!(waiter.poll(bench).is_pending());
    Ok(waiter)
}

fn wait(bench: &Bench, scopes: &Scopes) -> Waiter {
    enter(bench, scopes, Ask::default()).expect("there is room in the queue")
}

#[test]
fn the_key_that_was_admitted_longest_ago_is_next_and_first_come_within_it() {
    let bench = bench(parallel(1), 100);
    let [greedy, modest] = ["greedy", "modest"].map(|key| bench.scopes(key));
    drop(bench.admit(&modest, Ask::default()).expect("room"));
    let mut running = bench.admit(&greedy, Ask::default()).expect("room");
    let mut flood: Vec<_> = (0..3).map(|_| wait(&bench, &greedy)).collect();
    let mut few: Vec<_> = (0..2).map(|_| wait(&bench, &modest)).collect();
    flood.reverse();
    few.reverse();
    // Turn and turn about, though the flood came first; then what is left of it.
    for (lines, is_few) in [(5, true), (4, false), (3, true), (2, false), (1, false)] {
        assert_eq!(flood.len() + few.len(), lines);
        drop(running);
        let line = if is_few { &mut few } else { &mut flood };
        let mut first = line.pop().expect("somebody waits");
        running = first.served(&bench);
        let all = flood.iter().chain(&few);
        assert_eq!(all.map(Waiter::rung).sum::<usize>(), 0, "nobody else is woken");
    }
}

#[test]
fn nobody_new_gets_what_those_who_wait_could_have() {
    let mut bench = bench(Limits { tpm: Some(10), ..Limits::default() }, 100);
    let [a, b] = ["a", "b"].map(|key| bench.scopes(key));
    bench.admit(&a, tokens(4)).expect("room").settle(Actual { tokens: 4, cost_pico: 0 }, bench.now);
    bench.pass(59_500);
    let running = bench.admit(&a, tokens(6)).expect("room");
    let mut waits = enter(&bench, &a, tokens(3)).expect("4 are free in 1.5 s");
    assert_eq!(waits.waiting.next_try(), bench.now.instant + Duration::from_millis(1_500));
    bench.pass(1_500);
    let refusal = bench.admit(&b, tokens(3)).expect_err("they are for the one who waits");
    assert_eq!(refusal.limit, LimitKind::Tokens);
    drop(bench.admit(&b, tokens(1)).expect("what is left over is for all"));
    let permit = waits.served(&bench);
    assert_eq!(permit.held().tokens, 3);

    let mut large = enter(&bench, &a, tokens(9)).expect("what runs may use less");
    let refusal = bench.admit(&a, tokens(1)).expect_err("behind the first of its own key");
    assert_eq!(refusal.asked, 9);
    drop(bench.admit(&b, tokens(1)).expect("another key is not behind it"));
    drop(permit);
    running.settle(Actual { tokens: 1, cost_pico: 0 }, bench.now);
    assert_eq!(large.served(&bench).held().tokens, 9);
}

#[test]
fn a_line_that_its_own_limit_holds_up_holds_up_no_other() {
    let bench = bench(parallel(2), 100);
    let mut set = LimitSet { revision: 1, ..LimitSet::default() };
    set.models.insert("m".into(), parallel(1));
    let narrow = bench.cell.scopes(names("narrow"), Some(&Arc::new(set)));
    let other = bench.scopes("other");
    let first = bench.admit(&narrow, Ask::default()).expect("room");
    let second = bench.admit(&other, Ask::default()).expect("room");
    let mut held_up = wait(&bench, &narrow);
    let mut goes_on = wait(&bench, &other);
    drop(second);
    let second = goes_on.served(&bench);
    assert_eq!(held_up.rung(), 0);
    drop(first);
    drop((held_up.served(&bench), second));
}

#[test]
fn what_waiting_cannot_help_and_what_is_too_much_is_refused_at_once() {
    let money = BudgetLimit {
        amount_pico: 5,
        period: Period::Daily,
        overrun: Overrun::Strict,
        soft: false,
    };
    let limits = Limits { parallel: Some(9), rpm: Some(3), tpm: Some(9), ..budgets(&[money]) };
    let mut bench = bench(limits, 2);
    let scopes = bench.scopes("k");
    let refused = |bench: &Bench, ask| enter(bench, &scopes, ask).err().map(|it| it.limit);
    assert_eq!(refused(&bench, cost(6)), Some(LimitKind::Budget(Period::Daily)));
    assert_eq!(refused(&bench, tokens(10)), Some(LimitKind::Tokens), "it never fits");
    drop(bench.admit(&scopes, tokens(1)).expect("room"));
    let settled = bench.admit(&scopes, tokens(9)).expect("room");
    settled.settle(Actual { tokens: 9, cost_pico: 0 }, bench.now);
    assert_eq!(refused(&bench, tokens(1)), Some(LimitKind::Tokens), "nothing runs, a minute to go");
    drop(bench.admit(&scopes, Ask::default()).expect("room"));
    assert_eq!(refused(&bench, Ask::default()), Some(LimitKind::Requests), "a minute to go");
    bench.pass(61_000 - WAIT_MS);
    let [one, two] = [(); 2].map(|()| enter(&bench, &scopes, Ask::default()).expect("soon"));
    assert_eq!(refused(&bench, Ask::default()), Some(LimitKind::Requests), "the queue is full");
    drop(one);
    drop(enter(&bench, &scopes, Ask::default()).expect("a place is free again"));
    drop(two);
    assert!(bench.cell.books().queue.is_empty());
}

#[test]
fn a_wait_that_is_over_ends_with_the_refusal_or_the_last_chance() {
    let mut bench = bench(parallel(1), 100);
    let scopes = bench.scopes("k");
    let running = bench.admit(&scopes, Ask::default()).expect("room");
    let mut waits = wait(&bench, &scopes);
    assert_eq!(waits.waiting.next_try(), bench.now.instant + Duration::from_millis(WAIT_MS));
    bench.pass(WAIT_MS - 1);
    assert!(waits.poll(&bench).is_pending());
    bench.pass(1);
    match waits.poll(&bench) {
        Poll::Ready(Err(refusal)) => assert_eq!(refusal.limit, LimitKind::Parallel),
        other => panic!("the wait is over: {other:?}"),
    }
    drop((waits, running));
    assert!(bench.cell.books().queue.is_empty());
    drop(bench.admit(&scopes, Ask::default()).expect("nothing is left behind"));
}

#[test]
fn a_window_that_frees_itself_is_found_by_the_next_try() {
    let mut bench = bench(Limits { rpm: Some(1), ..Limits::default() }, 100);
    let scopes = bench.scopes("k");
    drop(bench.admit(&scopes, Ask::default()).expect("room"));
    bench.pass(60_100);
    let mut waits = wait(&bench, &scopes);
    let wait = waits.waiting.next_try() - bench.now.instant;
    bench.pass(wait.as_millis() as u64 - 1);
    assert!(waits.poll(&bench).is_pending());
    bench.pass(1);
    assert!(matches!(waits.poll(&bench), Poll::Ready(Ok(_))));
}

#[test]
fn limits_that_are_raised_serve_those_who_wait() {
    let bench = bench(parallel(1), 100);
    let scopes = bench.scopes("k");
    let _running = bench.admit(&scopes, Ask::default()).expect("room");
    let [mut one, mut two, three] = [(); 3].map(|()| wait(&bench, &scopes));
    bench.limit(ScopeKind::Account, "", parallel(3));
    let _permits = (one.served(&bench), two.served(&bench));
    assert_eq!(three.rung(), 0);
}

#[test]
fn who_leaves_passes_the_turn_on() {
    let bench = bench(parallel(1), 100);
    let scopes = bench.scopes("k");
    let running = bench.admit(&scopes, Ask::default()).expect("room");
    let [first, second, mut third] = [(); 3].map(|()| wait(&bench, &scopes));
    drop(first);
    drop(running);
    assert_eq!((second.rung(), third.rung()), (1, 0));
    drop(second);
    let permit = third.served(&bench);
    drop(third);
    drop(permit);
    let state = bench.cell.state(ScopeKind::Account, "", bench.now).all;
    assert_eq!((state.running, bench.cell.books().queue.is_empty()), (0, true));
}

#[test]
fn who_leaves_lets_those_behind_through() {
    let bench = bench(Limits { tpm: Some(10), ..Limits::default() }, 100);
    let scopes = bench.scopes("k");
    let running = bench.admit(&scopes, tokens(6)).expect("room");
    let large = enter(&bench, &scopes, tokens(9)).expect("what runs may use less");
    let refusal = bench.admit(&scopes, tokens(1)).expect_err("behind the first of its own key");
    let waiting =
        bench.cell.wait(&scopes, tokens(1), refusal, settings(&bench), bench.now).expect("a place");
    let mut small = Waiter { waiting, bell: Arc::default() };
    assert!(small.poll(&bench).is_pending());
    drop(large);
    drop((small.served(&bench), running));
}

/// Permits come and go on four threads; every waiter is served, with one place between them.
#[test]
fn no_wake_up_is_lost_between_threads() {
    struct Thread(std::thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let bench = bench(parallel(1), 100);
    let inside = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for key in ["a", "a", "b", "c"] {
            let (bench, inside) = (&bench, &inside);
            threads.spawn(move || {
                let scopes = bench.scopes(key);
                let waker = Waker::from(Arc::new(Thread(std::thread::current())));
                for _ in 0..2_000 {
                    let permit = bench.admit(&scopes, Ask::default()).unwrap_or_else(|refusal| {
                        let mut waiting = bench
                            .cell
                            .wait(&scopes, Ask::default(), refusal, settings(bench), bench.now)
                            .expect("room in the queue");
                        loop {
                            match waiting.poll(&mut Context::from_waker(&waker), bench.now) {
                                Poll::Ready(permit) => break permit.expect("no time passes"),
                                Poll::Pending => std::thread::park(),
                            }
                        }
                    });
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert!(bench.cell.books().queue.is_empty());
}

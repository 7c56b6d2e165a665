//! Random limits, requests, ends and steps in time, against books that are kept the slow way: a list
//! of all requests, from which everything is counted anew.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::{
    AccountCell, Actual, Ask, BudgetLimit, Extended, LimitSet, Limits, Overrun, Period, Permit,
    ScopeKind, ScopeNames, Scopes, Terms, admit, calendar,
};
use crate::clock::{self, Now};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;
const START_UNIX_MS: u64 = 20_516 * DAY_MS + DAY_MS / 2;

/// Who can ask: project, user, key.
const CALLERS: [(&str, Option<&str>, &str); 5] = [
    ("p1", Some("u1"), "a"),
    ("p1", Some("u2"), "b"),
    ("p2", Some("u1"), "c"),
    ("p2", None, "d"),
    ("p2", None, "e"),
];

/// What has limits; the key `e` has none of its own.
const LIMITED: [(ScopeKind, &str); 6] = [
    (ScopeKind::Account, ""),
    (ScopeKind::Project, "p1"),
    (ScopeKind::User, "u1"),
    (ScopeKind::Key, "a"),
    (ScopeKind::Key, "c"),
    (ScopeKind::Key, "d"),
];

const MODELS: [&str; 2] = ["m", "n"];

#[derive(Clone, Debug)]
enum Step {
    Admit { who: usize, model: usize, ask: Ask },
    Extend { permit: usize, ask: Ask },
    Settle { permit: usize, tokens: u64, cost_pico: u128 },
    Drop { permit: usize },
    Pass { ms: u64 },
    Sweep,
    Edit { scope: usize, limits: Limits },
}

fn ask() -> impl Strategy<Value = Ask> {
    (0u64..30, 0u64..30, 0u128..30, 0u128..30).prop_map(|(tokens, more, cost_pico, more_pico)| {
        Ask {
            tokens,
            tokens_bound: tokens + more,
            cost_pico,
            cost_bound_pico: cost_pico + more_pico,
        }
    })
}

fn overrun() -> impl Strategy<Value = Overrun> + Clone {
    prop_oneof![Just(Overrun::Finish), Just(Overrun::Cut), Just(Overrun::Strict)]
}

fn limits(overrun: impl Strategy<Value = Overrun> + Clone) -> impl Strategy<Value = Limits> {
    let period = prop_oneof![
        Just(Period::Total),
        Just(Period::Daily),
        Just(Period::Weekly),
        Just(Period::Days(2))
    ];
    let budget =
        (20u128..400, period, overrun.clone()).prop_map(|(amount_pico, period, overrun)| {
            BudgetLimit { amount_pico, period, overrun, soft: false }
        });
    (
        prop::option::of(1u64..8),
        prop::option::of(20u64..150),
        prop::option::of(50u64..400),
        prop::option::of(1u64..5),
        overrun,
        prop::collection::vec(budget, 0..3),
    )
        .prop_map(|(rpm, tpm, tpd, parallel, overrun, budgets)| Limits {
            rpm,
            tpm,
            tpd,
            parallel,
            overrun,
            budgets,
        })
}

fn steps(edits: u32) -> impl Strategy<Value = Vec<Step>> {
    let pass = prop_oneof![6 => 0u64..3_000, 3 => 0u64..70_000, 1 => 0u64..2 * DAY_MS];
    let step = prop_oneof![
        12 => (0..CALLERS.len(), 0..MODELS.len(), ask())
            .prop_map(|(who, model, ask)| Step::Admit { who, model, ask }),
        3 => (any::<usize>(), ask()).prop_map(|(permit, ask)| Step::Extend { permit, ask }),
        5 => (any::<usize>(), 0u64..80, 0u128..80)
            .prop_map(|(permit, tokens, cost_pico)| Step::Settle { permit, tokens, cost_pico }),
        2 => any::<usize>().prop_map(|permit| Step::Drop { permit }),
        6 => pass.prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Sweep),
        edits => (0..LIMITED.len(), limits(overrun()))
            .prop_map(|(scope, limits)| Step::Edit { scope, limits }),
    ];
    prop::collection::vec(step, 1..150)
}

/// The limits of each of [`LIMITED`], for all models and for the first one.
type AllLimits = Vec<(Limits, Limits)>;

fn all_limits(overrun: impl Strategy<Value = Overrun> + Clone) -> impl Strategy<Value = AllLimits> {
    prop::collection::vec((limits(overrun.clone()), limits(overrun)), LIMITED.len())
}

/// A request that was admitted.
struct Request {
    who: usize,
    model: usize,
    at_ms: u64,
    /// Reserved by the bound, or used.
    tokens: u64,
    cost_pico: u128,
    is_running: bool,
}

struct World {
    cell: Arc<AccountCell>,
    scopes: Vec<[Scopes; 2]>,
    limits: AllLimits,
    began: Now,
    now: Now,
    requests: Vec<Request>,
    permits: Vec<(usize, Permit)>,
}

impl World {
    fn new(limits: AllLimits) -> World {
        let now = Now { instant: clock::instant(), unix_ms: START_UNIX_MS };
        let cell = Arc::<AccountCell>::default();
        cell.set_terms(Terms { time_zone: TimeZone::UTC, ..Terms::default() });
        let sets: Vec<_> = limits.iter().map(|limits| Arc::new(set(limits, 1))).collect();
        for ((kind, name), set) in LIMITED.iter().zip(&sets) {
            if *kind != ScopeKind::Key {
                cell.set_limits(*kind, name, Some(set.clone()), now);
            }
        }
        let scopes = CALLERS.iter().map(|(project, user, key)| {
            let at = LIMITED.iter().position(|limited| *limited == (ScopeKind::Key, *key));
            MODELS.map(|model| {
                let names = ScopeNames {
                    project: (*project).into(),
                    user: user.map(Arc::from),
                    key: (*key).into(),
                    model: Some(model.into()),
                    asked: None,
                };
                cell.scopes(names, at.map(|at| &sets[at]))
            })
        });
        let scopes = scopes.collect();
        let (requests, permits) = (Vec::new(), Vec::new());
        World { cell, scopes, limits, began: now, now, requests, permits }
    }

    fn at_ms(&self) -> u64 {
        (self.now.instant - self.began.instant).as_millis() as u64
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Admit { who, model, ask } => self.admit(who, model, ask)?,
            Step::Pass { ms } => {
                self.now.instant += Duration::from_millis(ms);
                self.now.unix_ms += ms;
            }
            Step::Sweep => self.cell.sweep(self.now),
            Step::Edit { scope, limits } => {
                self.limits[scope].0 = limits;
                let set = set(&self.limits[scope], 2);
                let (kind, name) = LIMITED[scope];
                self.cell.set_limits(kind, name, Some(Arc::new(set)), self.now);
            }
            _ if self.permits.is_empty() => {}
            Step::Extend { permit, ask } => {
                let at = permit % self.permits.len();
                // The bound was reserved at admission.
                let extra = Ask { tokens_bound: 0, cost_bound_pico: 0, ..ask };
                let before = self.permits[at].1.held();
                if let Extended::Cut(_) = self.permits[at].1.extend(extra, self.now) {
                    prop_assert_eq!(self.permits[at].1.held(), before);
                }
            }
            Step::Settle { permit, tokens, cost_pico } => {
                let (at, permit) = self.permits.swap_remove(permit % self.permits.len());
                let request = &mut self.requests[at];
                // Never more than the bound, by its meaning.
                request.tokens = tokens.min(request.tokens);
                request.cost_pico = cost_pico.min(request.cost_pico);
                request.is_running = false;
                let actual = Actual { tokens: request.tokens, cost_pico: request.cost_pico };
                permit.settle(actual, self.now);
            }
            Step::Drop { permit } => {
                let (at, permit) = self.permits.swap_remove(permit % self.permits.len());
                let request = &mut self.requests[at];
                (request.tokens, request.cost_pico, request.is_running) = (0, 0, false);
                drop(permit);
            }
        }
        Ok(())
    }

    fn admit(&mut self, who: usize, model: usize, ask: Ask) -> Result<(), TestCaseError> {
        let admitted = admit(&self.cell, &self.scopes[who][model], ask, self.now);
        let at_ms = self.at_ms();
        self.requests.push(Request {
            who,
            model,
            at_ms,
            tokens: ask.tokens_bound,
            cost_pico: ask.cost_bound_pico,
            is_running: true,
        });
        match admitted {
            Ok(permit) => self.permits.push((self.requests.len() - 1, permit)),
            Err(refusal) => {
                // A bucket more than the span may count; and a budget with nothing left.
                let is_exact = self.passes(1_000, 900_000, true).is_some();
                self.requests.pop();
                prop_assert!(is_exact, "it would have fitted: {refusal}");
            }
        }
        Ok(())
    }

    /// A limit that is passed, with so much more than a minute and a day counted.
    fn passes(&self, minute_ms: u64, day_ms: u64, is_refused: bool) -> Option<String> {
        for (at, (kind, name)) in LIMITED.iter().enumerate() {
            for (model, limits) in [(None, &self.limits[at].0), (Some(0), &self.limits[at].1)] {
                let of_scope = |request: &&Request| {
                    let (project, user, key) = CALLERS[request.who];
                    let own = match kind {
                        ScopeKind::Account => true,
                        ScopeKind::Project => project == *name,
                        ScopeKind::User => user == Some(*name),
                        ScopeKind::Key => key == *name,
                    };
                    own && model.is_none_or(|model| model == request.model)
                };
                let own: Vec<_> = self.requests.iter().filter(of_scope).collect();
                let asks = is_refused.then(|| self.requests.last()).flatten();
                if let Some(asks) = asks
                    && !of_scope(&asks)
                {
                    continue;
                }
                if let Some(fault) = self.passes_one(&own, limits, [minute_ms, day_ms], asks) {
                    return Some(format!("{kind:?} {name} {model:?}: {fault}"));
                }
            }
        }
        None
    }

    fn passes_one(
        &self,
        own: &[&Request],
        limits: &Limits,
        [minute_ms, day_ms]: [u64; 2],
        asks: Option<&Request>,
    ) -> Option<String> {
        let now_ms = self.at_ms();
        let within = |span_ms: u64| own.iter().filter(move |it| now_ms - it.at_ms < span_ms);
        let (minute_ms, day_ms) = (MINUTE_MS + minute_ms, DAY_MS + day_ms);
        let tokens = |span_ms| within(span_ms).map(|it| it.tokens).sum::<u64>();
        let running = own.iter().filter(|it| it.is_running).count() as u64;
        let asks_tokens = asks.is_none_or(|asks| asks.tokens > 0);
        for (name, limit, used, counts) in [
            ("rpm", limits.rpm, within(minute_ms).count() as u64, true),
            ("tpm", limits.tpm, tokens(minute_ms), asks_tokens),
            ("tpd", limits.tpd, tokens(day_ms), asks_tokens),
            ("parallel", limits.parallel, running, true),
        ] {
            if counts && limit.is_some_and(|limit| used > limit) {
                return Some(format!("{name}: {used} of {limit:?}"));
            }
        }
        for budget in &limits.budgets {
            let unix_ms = self.now.unix_ms;
            let (start, _) = calendar::bounds(budget.period, &TimeZone::UTC, unix_ms);
            let in_window = |it: &&&Request| START_UNIX_MS + it.at_ms >= start;
            let used: u128 = own.iter().filter(in_window).map(|it| it.cost_pico).sum();
            let counts = asks.is_none_or(|asks| asks.cost_pico > 0);
            if counts && used > budget.amount_pico {
                return Some(format!("{budget:?}: {used}"));
            }
        }
        None
    }

    /// Ends all requests: then nothing may be reserved or running any more.
    fn end(mut self) -> Result<(), TestCaseError> {
        self.permits.clear();
        for (kind, name) in LIMITED {
            let state = self.cell.state(kind, name, self.now);
            for figures in [&state.all].into_iter().chain(state.models.iter().map(|it| &it.1)) {
                prop_assert_eq!(figures.running, 0);
                for budget in &figures.budgets {
                    prop_assert_eq!(budget.reserved_pico, 0);
                }
            }
        }
        let mut now = self.now;
        now.instant += Duration::from_millis(DAY_MS + 900_000);
        let state = self.cell.state(ScopeKind::Account, "", now);
        for figures in [&state.all].into_iter().chain(state.models.iter().map(|it| &it.1)) {
            for used in [figures.rpm, figures.tpm, figures.tpd] {
                prop_assert_eq!(used.map_or(0, |it| it.used), 0);
            }
        }
        Ok(())
    }
}

fn set(limits: &(Limits, Limits), revision: u64) -> LimitSet {
    let models = [(MODELS[0].to_owned(), limits.1.clone())].into();
    LimitSet { all: limits.0.clone(), models, revision }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// `strict`: what is settled and what is reserved never pass a limit together, in any sliding
    /// minute or day and in any budget's period; and what is refused really has no room.
    #[test]
    fn strict_limits_are_never_passed_and_never_refuse_in_vain(
        limits in all_limits(Just(Overrun::Strict)),
        steps in steps(0),
    ) {
        let mut world = World::new(limits);
        for step in steps {
            world.step(step)?;
            let fault = world.passes(0, 0, false);
            prop_assert!(fault.is_none(), "{}", fault.unwrap_or_default());
        }
        world.end()?;
    }

    /// All modes, with limits that change while requests run: nothing is left behind.
    #[test]
    fn nothing_stays_reserved_whatever_happens(
        limits in all_limits(overrun()),
        steps in steps(3),
    ) {
        let mut world = World::new(limits);
        let mut ends = Vec::new();
        for step in steps {
            match step {
                // Refusals are judged by the bounds, which only `strict` goes by.
                Step::Admit { who, model, ask } => {
                    if let Ok(permit) = admit(&world.cell, &world.scopes[who][model], ask, world.now) {
                        ends.push(permit);
                    }
                }
                Step::Settle { permit, tokens, cost_pico } if !ends.is_empty() => {
                    let permit = ends.swap_remove(permit % ends.len());
                    permit.settle(Actual { tokens, cost_pico }, world.now);
                }
                Step::Extend { permit, ask } if !ends.is_empty() => {
                    let at = permit % ends.len();
                    let _ = ends[at].extend(ask, world.now);
                }
                Step::Drop { permit } if !ends.is_empty() => {
                    drop(ends.swap_remove(permit % ends.len()));
                }
                step => world.step(step)?,
            }
        }
        drop(ends);
        world.end()?;
    }
}

//! All that is behind the lock of one account: the scopes that have limits, the time, and who waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::permit::{Alert, Alerts, Chunk, EXTENSIONS_MAX, Extended, Held};
use super::queue::Queue;
use super::refusal::Refusal;
use super::scope::{Scope, ScopeKind, ScopeNames, Slots};
use super::slot::{At, Demand, Lack, Slot, Tightest};
use super::terms::{Actual, Ask, Rates, Terms};
use crate::clock::Now;
use crate::limits::{LimitSet, Limits, Overrun};

/// Where the account itself is.
pub(super) const ACCOUNT: usize = 0;

/// The monotonic clock begins here: far enough from 0 for what is older than the process.
const BEGIN_MS: u64 = 1_000_000_000_000;

/// To wake when the lock is let go. Empty takes no memory.
pub(super) type Wakers = Vec<Waker>;

#[derive(Debug)]
pub(super) struct Books {
    pub(super) terms: Arc<Terms>,
    /// The account, then the scopes that have limits and were used lately.
    pub(super) slots: Vec<Slot>,
    pub(super) index: HashMap<Scope, u32>,
    /// Places of slots that were dropped.
    pub(super) free: Vec<u32>,
    /// The limits of accounts, projects and users; of keys that have a slot. Over all models.
    pub(super) sets: HashMap<Scope, Arc<LimitSet>>,
    /// What was changed lately about keys, and before that: grants that are still about may carry
    /// older limits. `None`: taken away.
    pub(super) edits: [HashMap<Arc<str>, Option<Arc<LimitSet>>>; 2],
    /// Raised when places have to be found anew.
    pub(super) generation: u64,
    /// Of the next reservation.
    pub(super) next: u64,
    /// `next` when limits were changed last.
    changed: u64,
    /// When time began, and the latest that it was. It only moves forward, though callers read the
    /// clock before they come in here.
    began: Option<Instant>,
    pub(super) at: At,
    pub(super) queue: Queue,
    /// The next place to be swept.
    pub(super) swept: usize,
}

impl Default for Books {
    fn default() -> Self {
        let account = Scope::all(ScopeKind::Account, "");
        Books {
            terms: Arc::default(),
            slots: vec![Slot::new(account.clone())],
            index: HashMap::from([(account, ACCOUNT as u32)]),
            free: Vec::new(),
            sets: HashMap::new(),
            edits: Default::default(),
            generation: 0,
            next: 1,
            changed: 1,
            began: None,
            at: At { ms: BEGIN_MS, unix_ms: 0 },
            queue: Queue::default(),
            swept: 0,
        }
    }
}

impl Books {
    /// The present moment, never before an earlier one by the monotonic clock. The wall clock may do
    /// what it likes; budgets see to that themselves.
    pub(super) fn tick(&mut self, now: Now) -> At {
        let began = *self.began.get_or_insert(now.instant);
        let since = now.instant.saturating_duration_since(began).as_millis() as u64;
        self.at.ms = self.at.ms.max(BEGIN_MS + since);
        self.at.unix_ms = now.unix_ms;
        self.at
    }

    /// Reserves in all places or in none.
    pub(super) fn admit(&mut self, slots: &Slots, ask: Ask, at: At) -> Result<Held, Refusal> {
        let ask = ask.with_bounds();
        let demand = Demand::admission(&ask);
        let mut has_room = true;
        for place in slots.each() {
            let slot = &mut self.slots[place];
            slot.advance(at, &self.terms.time_zone, self.next);
            has_room &= slot.has_room(&demand);
        }
        if !has_room {
            return Err(self.refusal(slots, &demand, at, false));
        }
        let first = self.chunk(&ask, at);
        let (mut tightest, mut is_strict) = (Tightest::default(), false);
        for place in slots.each() {
            let slot = &mut self.slots[place];
            is_strict |= slot.is_strict();
            slot.take(&ask, first.number, at);
            slot.note_rates(&mut tightest, at);
        }
        Ok(Held { slots: *slots, first, more: Vec::new(), ask, rates: rates(&tightest), is_strict })
    }

    /// Reserves more for a request that runs.
    pub(super) fn extend(&mut self, held: &mut Held, extra: &Ask, at: At) -> Extended {
        let demand = Demand::extension(extra, held.first.number);
        let (mut extended, mut is_cut) = (Extended::Granted, false);
        for place in held.slots.each() {
            let slot = &mut self.slots[place];
            slot.advance(at, &self.terms.time_zone, self.next);
            slot.lacks(&demand, at, |lack| {
                is_cut |= lack.overrun != Overrun::Finish;
                extended = Extended::Overrun;
            });
        }
        if is_cut {
            return Extended::Cut(self.refusal(&held.slots, &demand, at, true));
        }
        let chunk = self.chunk(extra, at);
        for place in held.slots.each() {
            self.slots[place].reserve(extra, held.first.number, at);
        }
        held.ask = held.ask.plus(extra);
        self.remember(held, chunk);
        self.shorten(held);
        extended
    }

    /// Ends a request.
    pub(super) fn settle(&mut self, held: &Held, actual: &Actual, at: At) -> Alerts {
        let chunks = held.chunks();
        let mut alerts = Alerts::default();
        for place in held.slots.each() {
            let slot = &mut self.slots[place];
            slot.advance(at, &self.terms.time_zone, self.next);
            let settled = slot.settle(&chunks, actual, at);
            alerts.overran |= settled.overran;
            if settled.passed > 0 {
                let passed = slot.budgets.iter().enumerate();
                let passed = passed.filter(|(at, _)| *at < 64 && settled.passed >> at & 1 == 1);
                alerts.passed.extend(passed.map(|(_, budget)| Alert {
                    scope: slot.scope.clone(),
                    budget: budget.limit,
                    spent_pico: budget.spent_pico,
                }));
            }
        }
        alerts
    }

    /// Notes a reservation for the time that the request is settled. Those of one second are one, as
    /// long as they count in the same windows.
    fn remember(&self, held: &mut Held, chunk: Chunk) {
        match held.more.last_mut() {
            Some(last)
                if last.at_ms / 1000 == chunk.at_ms / 1000 && last.number >= self.changed =>
            {
                for (sum, more) in last.tokens.iter_mut().zip(chunk.tokens) {
                    *sum = sum.saturating_add(more);
                }
            }
            _ => held.more.push(chunk),
        }
    }

    /// Keeps the list of a request's reservations short.
    fn shorten(&mut self, held: &mut Held) {
        if held.more.len() <= EXTENSIONS_MAX {
            return;
        }
        let oldest = held.more.remove(0);
        let into = &mut held.more[0];
        for place in held.slots.each() {
            self.slots[place].merge(&oldest, into);
        }
        for (sum, more) in into.tokens.iter_mut().zip(oldest.tokens) {
            *sum = sum.saturating_add(more);
        }
    }

    fn chunk(&mut self, ask: &Ask, at: At) -> Chunk {
        let number = self.next;
        self.next += 1;
        Chunk { number, at_ms: at.ms, tokens: ask.tokens_by_lane() }
    }

    /// Why there is no room: the limit that takes longest to have some. Of an extension only those
    /// that end it.
    #[cold]
    fn refusal(&self, slots: &Slots, demand: &Demand, at: At, is_extension: bool) -> Refusal {
        let mut longest: Option<(usize, Lack)> = None;
        let mut tightest = Tightest::default();
        for place in slots.each() {
            let slot = &self.slots[place];
            slot.note_rates(&mut tightest, at);
            slot.lacks(demand, at, |lack| {
                if is_extension && lack.overrun == Overrun::Finish {
                    return;
                }
                let wait = |lack: &Lack| lack.wait_ms.unwrap_or(u64::MAX);
                if longest.as_ref().is_none_or(|(_, known)| wait(&lack) > wait(known)) {
                    longest = Some((place, lack));
                }
            });
        }
        let (place, lack) = longest.expect("the limit that refused is still there");
        Refusal {
            scope: self.slots[place].scope.clone(),
            limit: lack.kind,
            amount: lack.amount,
            used: lack.used,
            asked: lack.asked,
            retry_after: lack.wait_ms.map(Duration::from_millis),
            rates: rates(&tightest),
            currency: self.terms.currency,
        }
    }

    /// The places of a request, made where they are missing. `key_limits` are those that the key's
    /// grant carries.
    pub(super) fn find(&mut self, names: &ScopeNames, key_limits: Option<&Arc<LimitSet>>) -> Slots {
        let key = names.key_scope();
        self.learn(&key, key_limits);
        let mut slots = Slots::default();
        slots.push(ACCOUNT as u32);
        self.find_model(&mut slots, &Scope::all(ScopeKind::Account, ""), names);
        for scope in names.scopes() {
            let set = self.sets.get(&scope);
            let is_limited = set.is_some_and(|set| !set.all.is_empty());
            // The slot of a key is also where its turn is kept, and what its models' slots hang on.
            let is_key = scope.kind == ScopeKind::Key
                && (self.terms.queue.is_some() || set.is_some_and(|set| !set.is_empty()));
            if is_limited || is_key {
                let at = self.place(scope.clone());
                slots.push(at);
            }
            self.find_model(&mut slots, &scope, names);
        }
        slots
    }

    fn find_model(&mut self, slots: &mut Slots, scope: &Scope, names: &ScopeNames) {
        // A model is only told apart where there is a limit on it: callers can invent models, and
        // each would take memory.
        let Some(set) = self.sets.get(scope) else { return };
        let alias = names.model.as_ref().map(|alias| &alias.0);
        let is_limited =
            |model: &&Arc<str>| set.models.get(&***model).is_some_and(|limits| !limits.is_empty());
        let found = names.asked.as_ref().filter(is_limited).or(alias.filter(is_limited));
        if let Some(model) = found {
            let at = self.place(scope.of_model(model));
            slots.push(at);
        }
    }

    /// Takes the limits that a key's grant carries for the key's, unless newer ones are known.
    fn learn(&mut self, key: &Scope, given: Option<&Arc<LimitSet>>) {
        let edit = self.edits.iter().find_map(|edits| edits.get(&key.name));
        let given = match (edit, given) {
            (Some(None), _) => None,
            (Some(Some(edit)), Some(given)) if given.revision > edit.revision => Some(given),
            (Some(Some(edit)), _) => Some(edit),
            (None, given) => given,
        };
        let Some(given) = given.cloned() else { return };
        match self.sets.get(key) {
            Some(known) if known.revision >= given.revision => {}
            None if given.is_empty() => {}
            // Nobody has found places without it: there were no limits to find. So those that are
            // found stay right, and a million keys do not upset each other at their first requests.
            None if !self.index.contains_key(key) => {
                self.sets.insert(key.clone(), given);
            }
            _ => self.apply(key, Some(given)),
        }
    }

    /// Replaces the limits of a scope over all models, and those of its slots.
    pub(super) fn apply(&mut self, scope: &Scope, set: Option<Arc<LimitSet>>) {
        let old = match &set {
            Some(set) => self.sets.insert(scope.clone(), set.clone()),
            None => self.sets.remove(scope),
        };
        let of = |set: &Option<Arc<LimitSet>>| -> Vec<Arc<str>> {
            let models = set.iter().flat_map(|set| set.models.keys());
            models.map(|model| Arc::from(model.as_str())).collect()
        };
        let models = of(&old).into_iter().chain(of(&set));
        let scopes = models.map(|model| scope.of_model(&model)).chain([scope.clone()]);
        for scope in scopes.collect::<Vec<_>>() {
            if let Some(&at) = self.index.get(&scope) {
                self.set_limits(at as usize);
            }
        }
        self.generation += 1;
        self.changed = self.next;
    }

    /// Gives a slot the limits that are known for it.
    pub(super) fn set_limits(&mut self, at: usize) {
        let scope = &self.slots[at].scope;
        let all = Scope { model: None, ..scope.clone() };
        let set = self.sets.get(&all);
        let limits = match &scope.model {
            None => set.map(|set| &set.all),
            Some(model) => set.and_then(|set| set.models.get(&**model)),
        };
        let balance_pico = self.terms.balance_pico.filter(|_| at == ACCOUNT);
        let none = Limits::default();
        self.slots[at].set_limits(limits.unwrap_or(&none), balance_pico, self.next);
    }

    /// The place of a scope, made if it is not there.
    pub(super) fn place(&mut self, scope: Scope) -> u32 {
        if let Some(&at) = self.index.get(&scope) {
            return at;
        }
        let slot = Slot::new(scope.clone());
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        self.index.insert(scope, at);
        self.set_limits(at as usize);
        at
    }
}

fn rates(tightest: &Tightest) -> Rates {
    let Tightest { requests, tokens, tokens_per_day } = tightest;
    Rates { requests: *requests, tokens: tokens.or(*tokens_per_day) }
}

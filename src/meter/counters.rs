//! Statistics that nobody enforces: each worker counts for itself, readers add up.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ident::{Alias, KeyId, TargetId};
use crate::money::Currency;
use crate::store::{Attempt, OTHER, RowKey, RowName, Settle, Sums};

/// Pairs of key and model that one worker tells apart. Callers can invent model names where an alias
/// is a pattern; what is above goes to a row of its key, or to one for all.
const PAIRS_MAX: usize = 1 << 16;

/// Targets that are told apart within a pair.
const TARGETS_MAX: usize = 256;

/// Currencies that are told apart; what is above is not counted here.
const CURRENCIES_MAX: usize = 64;

/// The statistics of all workers.
#[derive(Debug)]
pub struct Counters {
    shards: Vec<Arc<Shard>>,
}

impl Counters {
    /// One shard for each of `workers`.
    pub fn new(workers: usize) -> Self {
        Counters { shards: (0..workers).map(|_| Arc::default()).collect() }
    }

    /// The shard of one worker, `None` if there is no such worker.
    pub fn shard(&self, worker: usize) -> Option<Arc<Shard>> {
        self.shards.get(worker).cloned()
    }

    /// The sums over all workers since the start, in the order of their keys. Slow.
    pub fn read(&self) -> BTreeMap<RowKey, Sums> {
        let mut sums: BTreeMap<RowKey, Sums> = BTreeMap::new();
        for shard in &self.shards {
            for pair in &shard.rows().pairs {
                for (target, row) in &pair.targets {
                    let key = RowKey {
                        key: pair.key.to_string(),
                        model: pair.model.to_string(),
                        target: target.as_ref().map_or(String::new(), TargetId::to_string),
                    };
                    sums.entry(key).or_default().add(row);
                }
            }
        }
        sums
    }

    /// What all requests since the start cost and are charged, by currency.
    pub fn amounts(&self) -> BTreeMap<Currency, Amounts> {
        let mut sums: BTreeMap<Currency, Amounts> = BTreeMap::new();
        for shard in &self.shards {
            for (currency, amounts) in &shard.rows().amounts {
                sums.entry(*currency).or_default().add(amounts);
            }
        }
        sums
    }
}

/// Money that went through, in 10^-12 of one currency.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Amounts {
    /// What the upstreams ask.
    pub cost_pico: u128,
    /// What the accounts pay.
    pub charge_pico: u128,
}

impl Amounts {
    fn add(&mut self, other: &Amounts) {
        self.cost_pico = self.cost_pico.saturating_add(other.cost_pico);
        self.charge_pico = self.charge_pico.saturating_add(other.charge_pico);
    }
}

/// One worker's statistics. The lock is taken by that worker, twice a request, and now and then by
/// a reader.
#[derive(Default, Debug)]
pub struct Shard {
    rows: Mutex<Rows>,
}

#[derive(Default, Debug)]
struct Rows {
    /// By key and model; the target is left empty.
    index: HashMap<RowKey, usize>,
    pairs: Vec<Pair>,
    /// Few, so a scan is quickest.
    amounts: Vec<(Currency, Amounts)>,
}

#[derive(Debug)]
struct Pair {
    key: KeyId,
    model: Alias,
    /// Few, so a scan is quickest. `None`: no target answered.
    targets: Vec<(Option<TargetId>, Sums)>,
}

/// The place of a key and a model in a shard: found when a request is opened, used when it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PairIndex(usize);

impl Shard {
    /// The place of this key and model.
    pub(super) fn pair(&self, key: &KeyId, model: &Alias) -> PairIndex {
        let mut rows = self.rows();
        if let Some(&at) = rows.index.get(&[key.as_str(), model.as_str(), ""] as &dyn RowName) {
            return PairIndex(at);
        }
        let full = rows.pairs.len() >= PAIRS_MAX;
        let model = if full { Alias::from(OTHER) } else { model.clone() };
        // Beyond twice the number, keys are not told apart either.
        let key = if rows.pairs.len() >= 2 * PAIRS_MAX { KeyId::from(OTHER) } else { key.clone() };
        PairIndex(rows.place(key, model))
    }

    /// Adds a settled request and its attempts.
    pub(super) fn count<'a>(
        &self,
        pair: PairIndex,
        currency: Currency,
        target: Option<&TargetId>,
        settle: &Settle<'_>,
        reserved: (u64, u128),
        attempts: impl Iterator<Item = (&'a TargetId, &'a Attempt<'a>)>,
    ) {
        let mut rows = self.rows();
        rows.count_amounts(currency, settle);
        let Some(pair) = rows.pairs.get_mut(pair.0) else { return };
        pair.row(target).count(settle, reserved.0, reserved.1);
        for (target, attempt) in attempts {
            pair.row(Some(target)).count_attempt(&attempt.units, attempt.cost_pico);
        }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn place(&mut self, key: KeyId, model: Alias) -> usize {
        if let Some(&at) = self.index.get(&[key.as_str(), model.as_str(), ""] as &dyn RowName) {
            return at;
        }
        let at = self.pairs.len();
        self.index.insert([key.as_str(), model.as_str(), ""].into(), at);
        self.pairs.push(Pair { key, model, targets: Vec::new() });
        at
    }

    fn count_amounts(&mut self, currency: Currency, settle: &Settle<'_>) {
        let Settle { cost_pico, charge_pico, .. } = *settle;
        let amounts = Amounts { cost_pico, charge_pico };
        match self.amounts.iter().position(|(known, _)| *known == currency) {
            Some(at) => self.amounts[at].1.add(&amounts),
            None if self.amounts.len() < CURRENCIES_MAX => self.amounts.push((currency, amounts)),
            None => {}
        }
    }
}

impl Pair {
    fn row(&mut self, target: Option<&TargetId>) -> &mut Sums {
        let found = self.targets.iter().position(|(known, _)| known.as_ref() == target);
        let at = found.unwrap_or_else(|| {
            let other = TargetId::from(OTHER);
            let is_full = self.targets.len() >= TARGETS_MAX;
            let target = if is_full { Some(other) } else { target.cloned() };
            match self.targets.iter().position(|(known, _)| is_full && *known == target) {
                Some(at) => at,
                None => {
                    self.targets.push((target, Sums::default()));
                    self.targets.len() - 1
                }
            }
        });
        &mut self.targets[at].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ident::RequestId;
    use crate::store::{State, Units};

    const USD: Currency = Currency::USD;

    fn settle(error: Option<Kind>) -> Settle<'static> {
        let units = Units { in_text: 3, ..Units::default() };
        let id = RequestId::new(1, 1);
        let (cost_pico, charge_pico) = (5, 6);
        Settle { state: State::Settled, error, units, cost_pico, charge_pico, ..Settle::new(id) }
    }

    #[test]
    fn workers_count_apart_and_are_read_together() {
        let counters = Counters::new(2);
        let (key, model, target) = (KeyId::from("k"), Alias::from("m"), TargetId::from("openai/m"));
        for (worker, requests) in [(0, 3), (1, 4)] {
            let shard = counters.shard(worker).expect("a worker");
            for _ in 0..requests {
                let pair = shard.pair(&key, &model);
                let none = std::iter::empty();
                shard.count(pair, USD, Some(&target), &settle(None), (0, 0), none);
            }
        }
        let shard = counters.shard(0).expect("a worker");
        let pair = shard.pair(&key, &model);
        let error = settle(Some(Kind::Connect));
        let attempt = Attempt { units: error.units, cost_pico: 5, ..Attempt::default() };
        shard.count(pair, USD, None, &error, (0, 0), [(&target, &attempt)].into_iter());

        let sums = counters.read();
        let row = |target: &str| {
            sums[&RowKey { key: "k".into(), model: "m".into(), target: target.into() }]
        };
        assert_eq!((row("openai/m").requests, row("openai/m").errors), (7, 0));
        assert_eq!((row("openai/m").units.in_text, row("openai/m").attempts), (21, 1));
        assert_eq!((row("").requests, row("").errors), (1, 1));
        assert_eq!(row("openai/m").attempt_cost_pico, 5);
        let amounts = Amounts { cost_pico: 8 * 5, charge_pico: 8 * 6 };
        assert_eq!(counters.amounts(), [(USD, amounts)].into());
        assert!(counters.shard(2).is_none());
    }

    #[test]
    fn invented_models_do_not_fill_the_memory() {
        let shard = Shard::default();
        let key = KeyId::from("k");
        for n in 0..PAIRS_MAX + 1000 {
            shard.pair(&key, &Alias::from(&*format!("model-{n}")));
        }
        let pairs = shard.rows().pairs.len();
        assert_eq!(pairs, PAIRS_MAX + 1, "one more row for all the others of the key");
        for n in 0..2 * TARGETS_MAX {
            let target = TargetId::from(&*format!("t/{n}"));
            let none = std::iter::empty();
            shard.count(PairIndex(0), USD, Some(&target), &settle(None), (0, 0), none);
        }
        assert_eq!(shard.rows().pairs[0].targets.len(), TARGETS_MAX + 1);
    }
}

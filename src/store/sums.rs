//! What requests add up to: the counters of a row, and the names of a row.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use super::codec::{Put, Take};
use super::record::{Flags, Settle, State};
use super::units::Units;

/// Stands for the model and the target of rows that had no place of their own.
pub const OTHER: &str = "(other)";

/// What a row adds up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct RowKey {
    /// The id of the key; empty if a `Settle` had lost its `Open`.
    pub key: String,
    /// The model that was asked for.
    pub model: String,
    /// The target that answered; empty if none did.
    pub target: String,
}

/// The names of a row, owned or borrowed: lets a map of [`RowKey`]s be asked without copying them.
pub trait RowName {
    /// Key, model, target.
    fn names(&self) -> [&str; 3];
}

impl RowName for RowKey {
    fn names(&self) -> [&str; 3] {
        [&self.key, &self.model, &self.target]
    }
}

impl RowName for [&str; 3] {
    fn names(&self) -> [&str; 3] {
        *self
    }
}

impl From<[&str; 3]> for RowKey {
    fn from([key, model, target]: [&str; 3]) -> Self {
        RowKey { key: key.to_owned(), model: model.to_owned(), target: target.to_owned() }
    }
}

impl<'a> Borrow<dyn RowName + 'a> for RowKey {
    fn borrow(&self) -> &(dyn RowName + 'a) {
        self
    }
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

impl Hash for dyn RowName + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

impl PartialEq for dyn RowName + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for dyn RowName + '_ {}

/// The sums of one row. All amounts are in 10^-12 of the row's currency.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sums {
    /// Requests that this target answered, or that ended without a target.
    pub requests: u64,
    /// Those among them that failed.
    pub errors: u64,
    /// Those whose usage was counted by us.
    pub estimated: u64,
    /// Those whose usage is unknown.
    pub unsettled: u64,
    /// Those that had no price.
    pub unpriced: u64,
    /// Those that used more than a limit had room for.
    pub overruns: u64,
    /// What the unsettled ones had reserved.
    pub unsettled_tokens: u64,
    /// The same as money.
    pub unsettled_cost_pico: u128,
    /// What the callers are charged for.
    pub units: Units,
    /// What the requests cost, all their attempts together.
    pub cost_pico: u128,
    /// What the account pays for them.
    pub charge_pico: u128,
    /// Attempts at this target, won or lost.
    pub attempts: u64,
    /// What they used: also what the lost ones cost.
    pub attempt_units: Units,
    /// What they cost.
    pub attempt_cost_pico: u128,
}

/// The form of written sums.
const FORMAT: u8 = 1;

impl Sums {
    /// Adds `other`; sums stop at the largest number.
    pub fn add(&mut self, other: &Sums) {
        self.combine(other, u64::saturating_add, u128::saturating_add);
        self.units.add(&other.units);
        self.attempt_units.add(&other.attempt_units);
    }

    /// Takes away `other`, which is part of these sums.
    pub(super) fn subtract(&mut self, other: &Sums) {
        self.combine(other, u64::saturating_sub, u128::saturating_sub);
        self.units.subtract(&other.units);
        self.attempt_units.subtract(&other.attempt_units);
    }

    /// Adds one settled request.
    pub fn count(&mut self, settle: &Settle<'_>, reserved_tokens: u64, reserved_cost_pico: u128) {
        self.requests += 1;
        self.errors += u64::from(settle.error.is_some());
        self.unpriced += u64::from(settle.flags.has(Flags::UNPRICED));
        self.overruns += u64::from(settle.flags.has(Flags::OVERRUN));
        self.units.add(&settle.units);
        self.cost_pico = self.cost_pico.saturating_add(settle.cost_pico);
        self.charge_pico = self.charge_pico.saturating_add(settle.charge_pico);
        match settle.state {
            State::Settled => {}
            State::Estimated => self.estimated += 1,
            State::Unsettled => {
                self.unsettled += 1;
                self.unsettled_tokens = self.unsettled_tokens.saturating_add(reserved_tokens);
                self.unsettled_cost_pico =
                    self.unsettled_cost_pico.saturating_add(reserved_cost_pico);
            }
        }
    }

    /// Adds one attempt.
    pub fn count_attempt(&mut self, units: &Units, cost_pico: u128) {
        self.attempts += 1;
        self.attempt_units.add(units);
        self.attempt_cost_pico = self.attempt_cost_pico.saturating_add(cost_pico);
    }

    /// What token limits count: what was used, and what may have been.
    pub fn tokens(&self) -> u64 {
        self.units.tokens().saturating_add(self.unsettled_tokens)
    }

    /// What budgets count: what is charged, and what may yet be.
    pub fn spent_pico(&self) -> u128 {
        self.charge_pico.saturating_add(self.unsettled_cost_pico)
    }

    fn combine(
        &mut self,
        other: &Sums,
        small: impl Fn(u64, u64) -> u64,
        large: impl Fn(u128, u128) -> u128,
    ) {
        for (mine, theirs) in self.counts_mut().into_iter().zip(other.counts()) {
            *mine = small(*mine, theirs);
        }
        for (mine, theirs) in self.amounts_mut().into_iter().zip(other.amounts()) {
            *mine = large(*mine, theirs);
        }
    }

    fn counts(&self) -> [u64; 8] {
        let mut copy = *self;
        copy.counts_mut().map(|count| *count)
    }

    /// In the order of their writing: append, and raise the format.
    fn counts_mut(&mut self) -> [&mut u64; 8] {
        [
            &mut self.requests,
            &mut self.errors,
            &mut self.estimated,
            &mut self.unsettled,
            &mut self.unpriced,
            &mut self.overruns,
            &mut self.unsettled_tokens,
            &mut self.attempts,
        ]
    }

    fn amounts(&self) -> [u128; 4] {
        let mut copy = *self;
        copy.amounts_mut().map(|amount| *amount)
    }

    /// In the order of their writing: append, and raise the format.
    fn amounts_mut(&mut self) -> [&mut u128; 4] {
        [
            &mut self.unsettled_cost_pico,
            &mut self.cost_pico,
            &mut self.charge_pico,
            &mut self.attempt_cost_pico,
        ]
    }

    /// Appends the sums to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(FORMAT);
        self.counts().into_iter().for_each(|count| out.put_varint(count));
        self.amounts().into_iter().for_each(|amount| out.put_varint_u128(amount));
        out.put_units(&self.units, u64::MAX);
        out.put_units(&self.attempt_units, u64::MAX);
    }

    /// The inverse of [`Sums::write`]; `None` if these are no sums.
    pub(super) fn read(bytes: &[u8]) -> Option<Sums> {
        let mut take = Take::new(bytes);
        if take.u8()? != FORMAT {
            return None;
        }
        let mut sums = Sums::default();
        for count in sums.counts_mut() {
            *count = take.varint()?;
        }
        for amount in sums.amounts_mut() {
            *amount = take.varint_u128()?;
        }
        sums.units = take.units()?;
        sums.attempt_units = take.units()?;
        (take.left() == 0).then_some(sums)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn largest() -> Sums {
        let mut sums = Sums::default();
        sums.counts_mut().into_iter().for_each(|count| *count = u64::MAX);
        sums.amounts_mut().into_iter().for_each(|amount| *amount = u128::MAX);
        sums.units = Units::from_values([u64::MAX; Units::COUNT]);
        sums.attempt_units = sums.units;
        sums
    }

    #[test]
    fn sums_come_back_as_they_were_written_and_any_cut_is_noticed() {
        for sums in [Sums::default(), largest()] {
            let mut bytes = Vec::new();
            sums.write(&mut bytes);
            assert_eq!(Sums::read(&bytes), Some(sums));
            for len in 0..bytes.len() {
                assert_eq!(Sums::read(&bytes[..len]), None, "cut at {len}");
            }
        }
    }

    #[test]
    fn what_is_added_can_be_taken_away_and_nothing_wraps() {
        let mut sums = Sums::default();
        let settle = Settle {
            state: State::Estimated,
            flags: Flags::UNPRICED.with(Flags::OVERRUN),
            units: Units { in_text: 3, ..Units::default() },
            cost_pico: 1 << 70,
            charge_pico: 5,
            ..Settle::new(crate::ident::RequestId::new(1, 1))
        };
        sums.count(&settle, 0, 0);
        sums.count_attempt(&settle.units, 1 << 70);
        assert_eq!((sums.estimated, sums.unpriced, sums.overruns), (1, 1, 1));
        assert_eq!((sums.cost_pico, sums.attempt_cost_pico), (1 << 70, 1 << 70));
        let mut twice = sums;
        twice.add(&sums);
        assert_eq!((twice.requests, twice.cost_pico), (2, 1 << 71));
        twice.subtract(&sums);
        assert_eq!(twice, sums);
        twice.add(&largest());
        assert_eq!(twice, largest());
    }
}

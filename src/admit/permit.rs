//! What a request holds while it runs.

use std::sync::Arc;

use super::cell::{AccountCell, Slots};
use super::limits::Refusal;

/// How much of what is limited.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ask {
    /// Input and output.
    pub tokens: u64,
    /// In 10^-12 of the account's currency.
    pub cost_pico: u128,
}

/// A reservation in all scopes of a request, and its place among the parallel ones. Dropping it
/// gives back everything, as if the request had not been; [`Permit::settle`] turns it into what was
/// really used.
#[derive(Debug)]
#[must_use = "a permit that is dropped gives its reservation back"]
pub struct Permit {
    cell: Arc<AccountCell>,
    slots: Slots,
    held: Ask,
    spent: Ask,
}

impl Permit {
    pub(super) fn new(cell: Arc<AccountCell>, slots: Slots, held: Ask) -> Self {
        Permit { cell, slots, held, spent: Ask::default() }
    }

    /// What is reserved now.
    pub fn held(&self) -> Ask {
        self.held
    }

    /// Reserves more, in all scopes or in none.
    pub fn extend(&mut self, extra: Ask) -> Result<(), Refusal> {
        self.cell.take(&self.slots, 0, &extra)?;
        self.held.tokens = self.held.tokens.saturating_add(extra.tokens);
        self.held.cost_pico = self.held.cost_pico.saturating_add(extra.cost_pico);
        Ok(())
    }

    /// Ends the request with what it really used, in place of what was reserved. More than was
    /// reserved is booked, too.
    pub fn settle(mut self, actual: Ask) {
        self.spent = actual;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.cell.give_back(&self.slots, &self.held, &self.spent);
    }
}
